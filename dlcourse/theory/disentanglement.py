"""Whether single latents stand for single factors of the data (H5.3.3).

Shapes: N examples, Z latents, K factors.
"""

import numpy as np
from numpy.typing import ArrayLike


def mutual_information_gap(codes: ArrayLike, factors: ArrayLike, bins: int = 20) -> float:
  """How much more of each factor the best latent knows than the second best (Chen et al., 2018, equation 6).

  arXiv:1802.04942. 1 where every factor has a latent of its own, and one only; 0 where two latents know the
  same of it. The information is that of a latent cut into bins, as in Locatello et al. (2019,
  arXiv:1811.12359).

  Args:
    codes: [N, Z], such as means of posteriors.
    factors: integers [N, K].
    bins: of equal width, between the least and the largest value of each latent.

  Returns:
    The mean over the factors of the gap in shares of a factor's entropy.

  Raises:
    ValueError: there are not two latents, or a factor has one value only.
  """
  information, entropies = information_of_factors(codes, factors, bins)
  if len(information) < 2:
    raise ValueError("a gap is between two latents")
  if not entropies.all():
    raise ValueError("a factor with one value has nothing to be known")
  second, best = np.sort(information, axis=0)[-2:]
  return float(((best - second) / entropies).mean())


def information_of_factors(codes: ArrayLike, factors: ArrayLike, bins: int) -> tuple[np.ndarray, np.ndarray]:
  """Mutual information of each latent with each factor, and the entropy of each factor, in nats.

  Args:
    codes: [N, Z].
    factors: integers [N, K].
    bins: see `mutual_information_gap`.

  Returns:
    ([Z, K], [K]).
  """
  codes, factors = np.asarray(codes, np.float64), np.asarray(factors)
  cut = np.stack([_cut(column, bins) for column in codes.T], axis=1)
  information = [[_shared(code, factor) for factor in factors.T] for code in cut.T]
  return np.array(information), np.array([_shared(factor, factor) for factor in factors.T])


def _cut(column: np.ndarray, bins: int) -> np.ndarray:
  """[N] numbers of the bins."""
  edges = np.linspace(column.min(), column.max(), bins + 1)[1:-1]
  return np.digitize(column, edges)


def _shared(a: np.ndarray, b: np.ndarray) -> float:
  """I(a; b) of integers [N], in nats; of b with itself its entropy."""
  (_, a), (_, b) = (np.unique(x, return_inverse=True) for x in (a, b))
  joint = np.zeros((a.max() + 1, b.max() + 1))
  np.add.at(joint, (a, b), 1)
  joint /= len(a)
  independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
  some = joint > 0
  return float((joint[some] * np.log(joint[some] / independent[some])).sum())
