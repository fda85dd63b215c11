"""Anomalies as images that a generator of normal ones cannot make (H4.9.5).

Shapes: N images, S starts, Z dimensions of a latent.
"""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlcourse.data.batches import unbatched
from dlcourse.data.recipe import Data
from dlcourse.data.splits import ranks
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import task_of
from dlcourse.evaluators.image_quality import LOOKED_THROUGH, some_images
from dlcourse.evaluators.intervals import area_row, interval_scalars
from dlcourse.report.figures import eight_bit, labelled_images
from dlcourse.task import Latents
from dlcourse.theory.sample_quality import nearest_neighbours

if TYPE_CHECKING:
  from matplotlib.figure import Figure

FEATURES = 0.1  # λ, weight of the features in the loss
RATE = 0.1  # of Adam at first; it falls to 0
CHUNK = 50  # images whose latents are searched in one call
RESAMPLES = 1_000
COLUMNS = 8  # of the figure


@dataclasses.dataclass(frozen=True)
class Search(Evaluator):
  """What evaluators share that look for the latents of images, see `nearest_latents`."""

  images: int = 200
  """How many test images are looked at."""
  steps: int = 200
  """Steps of Adam for the latent of an image."""
  starts: int = 2
  """Latents that the search starts from; the best that is found counts."""

  def __post_init__(self) -> None:
    """Refuses a search that finds nothing."""
    least = {"images": self.images, "steps": self.steps, "starts": self.starts}
    check_at_least(1, {f"evaluators….{name}": value for name, value in least.items()})


@dataclasses.dataclass(frozen=True)
class Anomalies(Search):
  """AnoGAN (Schlegl et al., 2017, arXiv:1703.05921): how far a test image is from all that the generator makes.

  The anomalies are the test images of a class that was never trained on; see `left_out` of `Images`.
  """

  images: int = 300
  """How many test images are looked at, as many of each class as can be."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Areas under the ROC of anomalies against the others, each with its bootstrap interval of 95 %.

    Scalars `anomaly_auc`, `anomaly_auc_low` and `anomaly_auc_high` of the loss of `nearest_latents`, and the
    same of the baseline, `neighbour_auc…`: the distance in pixels to the nearest training image, of which at
    most 10,000 are looked through. A table of both, and a figure: images of known classes and anomalies, each
    above the nearest image that the generator makes, with its loss.

    Raises:
      UserError: the task has no latents to search, or every class of the test split was trained on, or none.
    """
    latents = task_of(task).latents
    if latents is None or latents.features is None:
      raise UserError("Anomalies searches latents; it needs a GAN that makes images and is told no class")
    images, labels = _of_each_class(data, self.images)
    anomalous = ~np.isin(labels, _labels(data, "train"))
    if anomalous.all() or not anomalous.any():
      raise UserError("Anomalies needs a class that is left out of training, as by --data.left_out=NAME")

    scaled = data.spec.scale(images / np.float32(255))
    made, losses = search(latents, state, scaled, key, self.starts, self.steps)
    made = eight_bit(data.spec.unscale(made))
    known = some_images(data, "train", LOOKED_THROUGH)
    distances, _ = nearest_neighbours(images.reshape(len(images), -1), known.reshape(len(known), -1))
    rows = {
      "anomaly_auc": area_row("AnoGAN", anomalous, losses, RESAMPLES),
      "neighbour_auc": area_row("nearest training image", anomalous, distances, RESAMPLES),
    }
    return Report(
      scalars={
        name: value for prefix, row in rows.items() for name, value in interval_scalars(prefix, row).items()
      },
      tables={"anomalies": [*rows.values()]},
      figures={"anomalies": _figure(images, made, losses, anomalous, [data.spec.classes[i] for i in labels])},
    )


def search(
  latents: Latents, state, images: np.ndarray, key: jax.Array, starts: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
  """What `nearest_latents` finds from random starts, in calls of one size: one compilation serves.

  Args:
    latents: of the task.
    state: a TrainState.
    images: in model space [N, H, W, C].
    key: of the starts.
    starts: S.
    steps: of each search.

  Returns:
    (the nearest images in model space [N, H, W, C], their losses [N]).
  """

  @jax.jit
  def found(state, images, key):
    start = jax.random.normal(key, (starts, len(images), latents.dim))
    z, loss = nearest_latents(latents, state, images, start, steps)
    return latents.images(state, z), loss

  made, losses = [], []
  for index, first in enumerate(range(0, len(images), CHUNK)):
    part = images[first : first + CHUNK]
    padded = np.concatenate([part, np.zeros((CHUNK - len(part), *part.shape[1:]), part.dtype)])
    nearest, loss = jax.device_get(found(state, padded, jax.random.fold_in(key, index)))
    made.append(nearest[: len(part)])
    losses.append(loss[: len(part)])
  return np.concatenate(made), np.concatenate(losses)


def nearest_latents(
  latents: Latents, state, images: jax.Array, start: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
  """The latents whose images come nearest, found by gradient descent (section 2.2 of the paper).

  The loss of z for an image x is (1 - λ) Σ|x - G(z)| + λ Σ|f(x) - f(G(z))|, over pixels in model space and over
  the discriminator's features, with λ = 0.1.

  Args:
    latents: of the task.
    state: a TrainState.
    images: in model space [N, H, W, C].
    start: where the search begins [S, N, Z].
    steps: of Adam, whose rate falls to 0 along a cosine.

  Returns:
    (z [N, Z], loss [N]), the best of all steps from all starts.
  """
  seen = latents.features(state, images)

  def distance(a, b):
    return jnp.abs(a - b).reshape(*b.shape[:2], -1).sum(-1)

  def objective(z):  # of which each summand has a latent of its own
    made = latents.images(state, z.reshape(-1, z.shape[-1]))
    of_made = latents.features(state, made)
    made, of_made = (x.reshape(*z.shape[:2], *x.shape[1:]) for x in (made, of_made))
    each = (1 - FEATURES) * distance(images, made) + FEATURES * distance(seen, of_made)  # [S, N]
    return each.sum(), each

  optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))

  def step(carry, _):
    z, opt_state, best, least = carry
    grads, each = jax.grad(objective, has_aux=True)(z)
    better = each < least
    best, least = jnp.where(better[..., None], z, best), jnp.where(better, each, least)
    updates, opt_state = optimizer.update(grads, opt_state)
    return (z + updates, opt_state, best, least), None

  carry = (start, optimizer.init(start), start, jnp.full(start.shape[:2], jnp.inf))
  (_, _, best, least), _ = jax.lax.scan(step, carry, length=steps)
  winner = least.argmin(axis=0)  # [N]
  every = jnp.arange(len(winner))
  return best[winner, every], least[winner, every]


def _labels(data: Data, split: str) -> np.ndarray:
  return unbatched(data.eval_batches(split), ("label",))["label"]


def _of_each_class(data: Data, most: int) -> tuple[np.ndarray, np.ndarray]:
  """(images, labels) of the test split: the first ones of each class."""
  test = unbatched(data.eval_batches("test"), ("image", "label"))
  chosen = np.sort(np.argsort(ranks(test["label"]), kind="stable")[:most])
  return test["image"][chosen], test["label"][chosen]


def _figure(
  images: np.ndarray, made: np.ndarray, losses: np.ndarray, anomalous: np.ndarray, names: list[str]
) -> "Figure":
  """Rows of images under the names of their classes, each above what is made, under its loss."""
  pictures, titles = [], []
  for group in (np.flatnonzero(~anomalous)[:COLUMNS], np.flatnonzero(anomalous)[:COLUMNS]):
    empty = COLUMNS - len(group)
    for part, said in ((images, [names[i] for i in group]), (made, [f"{losses[i]:.3g}" for i in group])):
      pictures += [*part[group], *[np.full_like(part[0], 255)] * empty]
      titles += said + [""] * empty
  return labelled_images(np.stack(pictures), titles, columns=COLUMNS)
