"""How good generated samples are, measured on the features that a network sees in them (H4.8.2).

Every score compares two clouds of points, whatever network made them: a number says nothing without the name
of that network and how many samples were taken. No single one captures quality and diversity (H4.8.3).

Shapes: N real, M generated samples, F features, C classes, K modes, D coordinates. All is float64.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr

ROWS = 1_024  # of a matrix of distances that are in memory at once


def inception_score(probabilities: ArrayLike, splits: int = 10) -> tuple[float, float]:
  """exp E[KL(p(y | x) || p(y))]: each sample of one class, all classes alike often (Salimans et al., 2016).

  1 where every sample gets the same answer, C where all classes are sure and even (H4.8.2.1).

  Args:
    probabilities: [M, C], rows that sum to 1.
    splits: consecutive parts, as even as they can be, each with a p(y) of its own.

  Returns:
    (mean, deviation) over the parts; the deviation divides by their number.

  Raises:
    ValueError: there are fewer samples than parts.
  """
  probabilities = _rows(probabilities, splits)
  ends = np.arange(splits + 1) * len(probabilities) // splits
  scores = []
  for start, end in itertools.pairwise(ends):
    part = probabilities[start:end]
    scores.append(np.exp(rel_entr(part, part.mean(axis=0)).sum(axis=1).mean()))
  return float(np.mean(scores)), float(np.std(scores))


def frechet_distance(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
  """|m_a - m_b|² + tr(A + B - 2 (A B)^½) of two Gaussians (Dowson & Landau, 1982; Heusel et al., 2017).

  With A = L Lᵀ and B = R Rᵀ the trace of the root is the sum of the singular values of Lᵀ R: never complex, and
  as exact where a covariance is singular, as it is of fewer samples than features.

  Args:
    mean_a, mean_b: [F].
    cov_a, cov_b: [F, F], symmetric and positive semidefinite.

  Returns:
    The squared distance, at least 0.
  """
  difference = np.subtract(mean_a, mean_b, dtype=np.float64)
  cov_a, cov_b = np.asarray(cov_a, np.float64), np.asarray(cov_b, np.float64)
  overlap = np.linalg.svd(_factor(cov_a).T @ _factor(cov_b), compute_uv=False).sum()
  return max(0.0, float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap))


def _factor(cov: np.ndarray) -> np.ndarray:
  """L [F, rank] with L Lᵀ = cov; what rounding left of eigenvalues that are 0 would weigh as its root."""
  values, vectors = np.linalg.eigh(cov)
  kept = values > values.max(initial=0.0) * len(values) * np.finfo(np.float64).eps
  return vectors[:, kept] * np.sqrt(values[kept])


def frechet_of_features(real: ArrayLike, fake: ArrayLike) -> float:
  """`frechet_distance` of the Gaussians with the means and (unbiased) covariances of features (H4.8.2.2).

  It falls with the number of samples (Chong & Forsyth, 2020), so that only equal numbers compare.

  Args:
    real: [N, F].
    fake: [M, F].

  Raises:
    ValueError: there are fewer than two of either.
  """
  statistics = []
  for features in (_rows(real, 2), _rows(fake, 2)):
    statistics += [features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))]
  return frechet_distance(*statistics)


def kernel_distance(
  real: ArrayLike, fake: ArrayLike, subsets: int = 100, size: int = 1_000, seed: int = 0
) -> tuple[float, float]:
  """Squared maximum mean discrepancy with the kernel (x·y / F + 1)³ (Bińkowski et al., 2018), the KID.

  Unbiased: its expectation is 0 where both come from one distribution, at any number of samples.

  Args:
    real: [N, F].
    fake: [M, F].
    subsets: pairs of random subsets.
    size: samples of each subset, drawn without replacement.
    seed: of the draws.

  Returns:
    (mean, deviation) over the subsets; the deviation divides by their number.

  Raises:
    ValueError: there are fewer samples than a subset has, or a subset has fewer than two.
  """
  if size < 2:
    raise ValueError(f"a subset needs 2 samples or more, got size={size}")
  real, fake = _rows(real, size), _rows(fake, size)
  rng = np.random.default_rng(seed)
  found = []
  for _ in range(subsets):
    x, y = (rows[rng.choice(len(rows), size, replace=False)] for rows in (real, fake))
    found.append(_within(x) + _within(y) - 2 * _kernel(x, y).mean())
  return float(np.mean(found)), float(np.std(found))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  base = x @ y.T / x.shape[1] + 1
  return base * base * base  # a power is 20 times slower


def _within(x: np.ndarray) -> float:
  """The mean kernel of two different samples."""
  kernel = _kernel(x, x)
  return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))


class Manifold(NamedTuple):
  """How two clouds of points overlap: a share of the samples for either question of H4.8.2.3."""

  fidelity: float
  """Of the generated samples: precision, or density, which may exceed 1."""
  diversity: float
  """Of the real samples: recall, or coverage."""


def precision_recall(real: ArrayLike, fake: ArrayLike, k: int = 3) -> Manifold:
  """Improved precision and recall (Kynkäänniemi et al., 2019, equations 1 and 2; H4.8.2.3).

  A sample counts where it lies in a ball around any sample of the other cloud, whose radius is the distance of
  that one to its k-th nearest neighbour in its own cloud.

  Args:
    real: [N, F].
    fake: [M, F].
    k: neighbours.

  Raises:
    ValueError: there are not more than k of either.
  """
  real, fake = _rows(real, k + 1), _rows(fake, k + 1)
  real_radii, fake_radii = _radii(real, k), _radii(fake, k)
  precise, recalled = np.zeros(len(fake), bool), np.zeros(len(real), bool)
  for rows, distances in _blocks(real, fake):
    precise |= (distances <= real_radii[rows, None]).any(axis=0)
    recalled[rows] = (distances <= fake_radii).any(axis=1)
  return Manifold(float(precise.mean()), float(recalled.mean()))


def density_coverage(real: ArrayLike, fake: ArrayLike, k: int = 5) -> Manifold:
  """Density and coverage (Naeem et al., 2020, equations 2 and 3): balls around the real samples only.

  A generated outlier then makes no ball, and a real one counts once. Density is how many balls a generated
  sample lies in, over k; coverage how many balls have a generated sample in them.

  Args:
    real: [N, F].
    fake: [M, F].
    k: neighbours.

  Raises:
    ValueError: there are not more than k of the real samples, or none of the others.
  """
  real, fake = _rows(real, k + 1), _rows(fake, 1)
  radii = _radii(real, k)
  inside, covered = 0, 0
  for rows, distances in _blocks(real, fake):
    within = distances < radii[rows, None]
    inside += int(within.sum())
    covered += int(within.any(axis=1).sum())
  return Manifold(inside / (k * len(fake)), covered / len(real))


def nearest_neighbours(fake: ArrayLike, real: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """The real sample that each generated one is nearest to: a generator that only remembers has distance 0.

  Args:
    fake: [M, F].
    real: [N, F], of the training split.

  Returns:
    (Euclidean distances [M], indices [M] into `real`; of equally near ones the first).
  """
  fake, real = _rows(fake, 1), _rows(real, 1)
  distances, indices = np.empty(len(fake)), np.empty(len(fake), np.int64)
  for rows, squares in _blocks(fake, real):
    indices[rows] = squares.argmin(axis=1)
    # From the difference itself: the squares of `_blocks` are of no use close to 0.
    distances[rows] = np.linalg.norm(fake[rows] - real[indices[rows]], axis=1)
  return distances, indices


class Modes(NamedTuple):
  """What a generator found of a mixture."""

  covered: int
  """Modes that are nearest to at least one sample of high quality."""
  high_quality: float
  """Share of the samples that are."""
  counts: np.ndarray
  """[K] samples of high quality by their mode."""


def modes_covered(points: ArrayLike, centres: ArrayLike, std: float, within: float = 3.0) -> Modes:
  """Mode collapse counted on a known mixture, as VEEGAN does (Srivastava et al., 2017, section 4.1).

  A sample is of high quality within three deviations of its nearest mode. In the plane that leaves out
  exp(-9/2) = 1.1 % of the mixture's own samples.

  Args:
    points: [M, D].
    centres: [K, D] means of the modes.
    std: deviation of a mode along each axis.
    within: radius in deviations.
  """
  centres = _rows(centres, 1)
  distances, nearest = nearest_neighbours(points, centres)
  counts = np.bincount(nearest[distances <= within * std], minlength=len(centres))
  return Modes(int(np.count_nonzero(counts)), float(counts.sum() / len(nearest)), counts)


def _rows(features: ArrayLike, least: int) -> np.ndarray:
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or len(features) < least:
    raise ValueError(f"expected [samples, features] with {least} samples or more, got shape {features.shape}")
  return features


def _blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
  """(rows of x, their squared distances [rows, len(y)]) until all of x has been; what is only rounding is 0."""
  x_norms, y_norms = (np.einsum("nf,nf->n", rows, rows) for rows in (x, y))
  noise = 4 * np.finfo(np.float64).eps * x.shape[1] ** 0.5
  columns = y.T.copy()  # of x @ x.T NumPy makes another product, which rounds otherwise: ties would be broken
  for start in range(0, len(x), ROWS):
    rows = slice(start, start + ROWS)
    norms = x_norms[rows, None] + y_norms
    squares = norms - 2 * (x[rows] @ columns)
    yield rows, np.where(squares > noise * norms, squares, 0.0)


def _radii(x: np.ndarray, k: int) -> np.ndarray:
  """[N] squared distance to the k-th nearest other row."""
  radii = np.empty(len(x))
  for rows, squares in _blocks(x, x):
    radii[rows] = np.partition(squares, k, axis=1)[:, k]  # one of the k + 1 smallest is the row itself
  return radii
