"""What lies between, along and in the latents of a generative model (H5.3.1, H5.3.2).

Shapes: N images, Z latents, P pairs, S steps.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import task_of
from dlcourse.report.figures import MANY_CURVES, image_grid, new_figure
from dlcourse.task import Latents

MOST = 10_000  # images that are encoded
REACH = 3.0  # of a traversal, in deviations of a latent
_CODES = "codes"


_NEEDS = {
  "images": "a model whose images come from latents",
  "encode": "an autoencoder whose images come from latents",
  "log_weight": "a variational autoencoder; this task has no posterior of latents",
  "rates": "a variational autoencoder; this task has no posterior of latents",
}


class Coded(NamedTuple):
  """Images of a split as the encoder sees them: codes [N, Z], and what the data says of each, [N, ...]."""

  codes: np.ndarray
  facts: dict[str, np.ndarray]

  @property
  def labels(self) -> np.ndarray:
    """[N]; of data without classes 0, which no model is told."""
    return self.facts.get("label", np.zeros(len(self.codes), np.int32))


def with_latents(task, name: str, *needed: str) -> Latents:
  """The latents of a task.

  Args:
    task: a task or its compiled `Program`.
    name: what asks, for the message.
    *needed: fields of `Latents` that have to be there.

  Raises:
    UserError: it has none, or not that of them.
  """
  latents = task_of(task).latents
  for what in needed:
    if latents is None or getattr(latents, what) is None:
      raise UserError(f"{name} needs {_NEEDS[what]}")
  return latents


def examined(
  look: Callable, state, data: Data, split: str, key: jax.Array, most: int | None = None
) -> dict[str, np.ndarray]:
  """What a function says of the first examples of a split, without padding.

  Args:
    look: (state, key, batch) -> name -> [B, ...]; each batch has a key of its own.
    state: a TrainState.
    data: of the experiment.
    split: which.
    key: of all draws.
    most: examples, at most; None: all.

  Returns:
    name -> [N, ...].
  """
  parts, count = [], 0
  for index, batch in enumerate(data.eval_batches(split)):
    if most is not None and count >= most:
      break
    found = jax.device_get(look(state, jax.random.fold_in(key, index), batch))
    parts.append({name: values[batch["mask"] > 0] for name, values in found.items()})
    count += int((batch["mask"] > 0).sum())
  return {name: np.concatenate([part[name] for part in parts])[:most] for name in parts[0]}


def coded(task, state, data: Data, split: str, name: str, most: int = MOST) -> Coded:
  """The first images of a split, encoded.

  Args:
    task: a task or its compiled `Program`.
    state: a TrainState.
    data: of the experiment.
    split: which.
    name: what asks, for the message.
    most: images, at most.
  """
  encode = jax.jit(with_latents(task, name, "encode").encode)

  def look(state, key, batch):
    del key  # nothing is drawn
    facts = {name: values for name, values in batch.items() if name not in ("mask", "image")}
    return {_CODES: encode(state, batch), **facts}

  found = examined(look, state, data, split, jax.random.key(0), most)
  return Coded(found.pop(_CODES), found)


def decoder(task, state, data: Data, name: str, what: str = "encode") -> Callable:
  """(codes [N, Z], labels [N]) -> images [N, H, W, C] in [0, 1]; labels are for conditional models."""
  latents, spec = with_latents(task, name, what, "images"), data.spec
  decode = jax.jit(lambda state, z, *label: spec.unscale(latents.images(state, z, *label)))
  conditional = task_of(task).conditional

  def images(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return jax.device_get(decode(state, jnp.asarray(codes, jnp.float32), *((labels,) if conditional else ())))

  return images


def linear(first: np.ndarray, second: np.ndarray, shares: np.ndarray) -> np.ndarray:
  """(1 - t) z₁ + t z₂ (H5.3.2): [P, Z], [P, Z], [S] -> [P, S, Z]."""
  t = shares[:, None]
  return (1 - t) * first[:, None] + t * second[:, None]


def spherical(first: np.ndarray, second: np.ndarray, shares: np.ndarray) -> np.ndarray:
  """Along a great circle, so that no point is unlikely short (Shoemake, 1985; White, 2016, arXiv:1609.04468).

  Args:
    first, second: [P, Z].
    shares: t [S] from 0 to 1.

  Returns:
    [P, S, Z]; where both point the same way, or opposite ways, the straight line.
  """
  norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
  cosine = (first * second).sum(axis=1) / np.maximum(norms, np.finfo(norms.dtype).tiny)
  angle = np.arccos(np.clip(cosine, -1, 1))[:, None, None]
  straight = np.sin(angle) < 1e-6
  safe, t = np.where(straight, 1.0, angle), shares[:, None]
  curved = (np.sin((1 - t) * safe) * first[:, None] + np.sin(t * safe) * second[:, None]) / np.sin(safe)
  return np.where(straight, linear(first, second, shares), curved)


@dataclasses.dataclass(frozen=True)
class Interpolations(Evaluator):
  """What lies between two test images, or two latents of a GAN, along a line and along a circle (H5.3.2)."""

  pairs: int = 6
  """P, how many pairs."""
  steps: int = 10
  """S, images from one to the other, both included."""

  def __post_init__(self) -> None:
    """Refuses an empty figure."""
    check_at_least(1, {"evaluators….pairs": self.pairs})
    check_at_least(2, {"evaluators….steps": self.steps})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Figures interpolation_linear and interpolation_spherical, a row a pair.

    Scalars interpolation_step_linear, the mean distance of neighbours, root of the mean square over pixels, and
    interpolation_jump_linear, the largest such step of a row over its mean step, averaged: 1 where the way is
    even. The same for spherical.

    Raises:
      UserError: the task's images do not come from latents.
    """
    latents, name = with_latents(task, "Interpolations", "images"), "Interpolations"
    if latents.encode is None:
      ends = np.asarray(jax.random.normal(key, (2 * self.pairs, latents.dim)))
      labels = np.zeros(2 * self.pairs, np.int32)
    else:
      found = coded(task, state, data, "test", name, 2 * self.pairs)
      ends, labels = found.codes, found.labels
    images = decoder(task, state, data, name, "images")
    pairs, shares = len(ends) // 2, np.linspace(0, 1, self.steps)
    scalars, figures = {}, {}
    for way, path in (("linear", linear), ("spherical", spherical)):
      codes = path(ends[:pairs], ends[pairs : 2 * pairs], shares)
      made = images(codes.reshape(-1, latents.dim), labels[:pairs].repeat(self.steps))
      figures[f"interpolation_{way}"] = image_grid(made, columns=self.steps)
      rows = made.reshape(pairs, self.steps, -1)
      lengths = np.sqrt(np.square(np.diff(rows, axis=1)).mean(axis=2))  # [P, S - 1]
      scalars[f"interpolation_step_{way}"] = float(lengths.mean())
      jumps = lengths.max(axis=1) / np.maximum(lengths.mean(axis=1), np.finfo(np.float32).tiny)
      scalars[f"interpolation_jump_{way}"] = float(jumps.mean())
    return Report(scalars, figures=figures)


@dataclasses.dataclass(frozen=True)
class Traversals(Evaluator):
  """One test image as one latent after the other is moved, the others kept (Higgins et al., 2017; H5.3.3)."""

  latents: int = 10
  """How many latents: those whose codes vary most over the test images."""
  steps: int = 11
  """S, images of each, from -3 to 3 deviations of that latent."""

  def __post_init__(self) -> None:
    """Refuses an empty figure."""
    check_at_least(1, {"evaluators….latents": self.latents, "evaluators….steps": self.steps})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Figure traversals, a row a latent.

    Raises:
      UserError: the task is no autoencoder.
    """
    found = coded(task, state, data, "test", "Traversals")
    mean, deviation = found.codes.mean(axis=0), found.codes.std(axis=0)
    chosen = np.argsort(-deviation, kind="stable")[: self.latents]
    codes = np.tile(found.codes[0], (len(chosen), self.steps, 1))
    for row, latent in enumerate(chosen):
      codes[row, :, latent] = mean[latent] + np.linspace(-REACH, REACH, self.steps) * deviation[latent]
    labels = found.labels[:1].repeat(len(chosen) * self.steps)
    made = decoder(task, state, data, "Traversals")(codes.reshape(-1, codes.shape[-1]), labels)
    return Report(figures={"traversals": image_grid(made, columns=self.steps)})


@dataclasses.dataclass(frozen=True)
class LatentMap(Evaluator):
  """Codes of the test images in the plane, by class; of two latents also what places decode to (H5.3.1)."""

  side: int = 20
  """Images along a side of the picture of a two-dimensional latent space."""

  def __post_init__(self) -> None:
    """Refuses an empty picture."""
    check_at_least(1, {"evaluators….side": self.side})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Figure latent_map, by the first two principal components where there are more latents; and latent_plane.

    The plane has the images of the quantiles of N(0, 1) of both latents (Kingma & Welling, 2014, figure 4).

    Raises:
      UserError: the task is no autoencoder, or has one latent only.
    """
    from scipy.stats import norm  # 0.3 s

    codes, facts = coded(task, state, data, "test", "LatentMap")
    if codes.shape[1] < 2:
      raise UserError("LatentMap needs two latents or more")
    points = codes if codes.shape[1] == 2 else _principal(codes)
    figures = {"latent_map": _scatter(points, facts.get("label"), data.spec.classes)}
    if codes.shape[1] == 2 and not task_of(task).conditional:
      line = norm.ppf((np.arange(self.side) + 0.5) / self.side)
      places = np.stack(np.meshgrid(line, line[::-1]), axis=-1).reshape(-1, 2)
      made = decoder(task, state, data, "LatentMap")(places, np.zeros(len(places), np.int32))
      figures["latent_plane"] = image_grid(made, columns=self.side)
    return Report(figures=figures)


def _principal(codes: np.ndarray) -> np.ndarray:
  """[N, Z] -> the first two principal components, [N, 2]."""
  centred = codes - codes.mean(axis=0)
  _, _, axes = np.linalg.svd(centred, full_matrices=False)
  return centred @ axes[:2].T


def _scatter(points: np.ndarray, labels: np.ndarray | None, classes: tuple[str, ...]):
  figure = new_figure(5.5, 4.8)
  axes = figure.subplots()
  if labels is None or len(classes) > MANY_CURVES:
    axes.plot(*points.T, ".", markersize=3)
  else:
    for label, name in enumerate(classes):
      axes.plot(*points[labels == label].T, ".", markersize=3, label=name)
    axes.legend(frameon=False, markerscale=3, loc="center left", bbox_to_anchor=(1, 0.5))
  axes.set(xlabel="first coordinate", ylabel="second coordinate")
  return figure
