"""How good generated images are, as numbers and beside the training images that they are nearest to (H4.8)."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import task_of
from dlcourse.evaluators.feature_extractors import CHUNK, open_extractor
from dlcourse.evaluators.samples import Request, draw
from dlcourse.report.figures import eight_bit, image_grid
from dlcourse.theory import sample_quality

if TYPE_CHECKING:
  from matplotlib.figure import Figure

LEAST = 10  # samples: one for each part of the inception score, more than there are neighbours
LOOKED_THROUGH = 10_000  # training images, for copies
PICTURES = 16  # samples in the figure
COLUMNS = 8


def draw_images(
  task, state, spec: Spec, count: int, key: jax.Array, condition: str | None = None
) -> np.ndarray:
  """Images that a task generates, in requests of one size: one compilation serves.

  Args:
    task: a task or its compiled `Program`.
    state: a TrainState.
    spec: of the data.
    count: how many.
    key: of the draws.
    condition: the class they are of; None: all in turn, where the task can be asked for one.

  Returns:
    uint8 [count, H, W, C]: as a picture file would keep them, and as test images are.

  Raises:
    UserError: the task makes no images, or they are not finite.
  """
  if task_of(task).generate is None or spec.image_shape is None:
    raise UserError("the quality of images is measured of a task that makes images; this one does not")
  turn = len(spec.classes) if task.conditional and condition is None else 1
  size = max(CHUNK // turn, 1) * turn  # else the first classes would come more often
  parts = []
  for index in range(-(-count // size)):
    request = Request(size, condition=condition)
    made = draw(task, state, spec, request, jax.random.fold_in(key, index))["image"]
    if not np.isfinite(made).all():
      raise UserError("the model makes images of NaN: training has diverged, or the checkpoint is damaged")
    parts.append(eight_bit(made))
  return np.concatenate(parts)[:count]


def some_images(data: Data, split: str, most: int) -> np.ndarray:
  """Images of a split, uint8 [N, H, W, C]: all, or where there are more the same random ones each time."""
  size = data.sizes[split]
  chosen = np.zeros(size, bool)
  chosen[np.random.default_rng(0).permutation(size)[:most]] = True
  parts, start = [], 0
  for batch in data.eval_batches(split):
    images = batch["image"][batch["mask"] > 0]
    parts.append(images[chosen[start : start + len(images)]])
    start += len(images)
  return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class ImageQuality(Evaluator):
  """Generated images against as many test images, by the features that a network sees in both (H4.8.2).

  Every score is called METRIC/EXTRACTOR@N, as in fid/digits@1000, where N is how many there are of either:
  `samples`, or the test images where those are fewer. Only scores of one name compare. The name stands for the
  resize too, which is the extractor's: see `open_extractor`.
  """

  samples: int = 2_000
  """How many images are drawn."""
  extractor: str = "digits"
  """digits, fashion, classifier:FILE or inception:FILE; see `open_extractor`."""

  def __post_init__(self) -> None:
    """Refuses fewer images than the scores need."""
    check_at_least(LEAST, {"evaluators….samples": self.samples})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Eight scores, a table and a figure.

    fid; kid, over subsets of half of the images and at most 1,000; precision, recall (k = 3); density, coverage
    (k = 5); inception_score (10 parts); and memory: the median distance of a sample to its nearest training
    image, over that of a test image. It is about 1 of new images and 0 of copies. Of more than 10,000 training
    images 10,000 are looked through. The figure has the samples that are nearest to one of them, each above it.
    Where the extractor knows classes the table counts them; of a conditional model whose classes are those, the
    ninth score, asked, is the share of samples that are taken for what was asked for.

    Raises:
      UserError: the task makes no images, or the test split has too few.
    """
    extractor = open_extractor(self.extractor)
    real = some_images(data, "test", self.samples)
    count = len(real)
    if count < LEAST:
      raise UserError(
        f"the quality of images is measured against {LEAST} test images or more; there are {count}"
      )
    made, training = draw_images(task, state, data.spec, count, key), some_images(data, "train", LOOKED_THROUGH)
    features = {
      name: extractor.look(images) for name, images in {"real": real, "fake": made, "train": training}.items()
    }
    (real_seen, of_real), (fake_seen, probabilities) = features["real"], features["fake"]
    distances, nearest = sample_quality.nearest_neighbours(fake_seen, features["train"][0])
    unseen, _ = sample_quality.nearest_neighbours(real_seen, features["train"][0])
    scores = _scores(real_seen, fake_seen, probabilities)
    scores["memory"] = float(np.median(distances) / max(np.median(unseen), np.finfo(np.float64).tiny))
    if task.conditional and len(extractor.classes) == len(data.spec.classes):
      scores["asked"] = float((probabilities.argmax(1) == np.arange(count) % len(extractor.classes)).mean())
    closest = np.argsort(distances, kind="stable")[:PICTURES]
    return Report(
      scalars={f"{name}/{extractor.name}@{count}": value for name, value in scores.items()},
      tables={"classes": class_counts(extractor.classes, of_real, probabilities)} if extractor.classes else {},
      figures={"nearest_training_images": _pairs(made[closest], training[nearest[closest]])},
    )


def class_counts(classes: Sequence[str], real: np.ndarray, fake: np.ndarray) -> list[dict[str, str | int]]:
  """One row a class: how many images are taken for it.

  Args:
    classes: K names.
    real, fake: probabilities [N, K].
  """
  seen = {
    name: np.bincount(p.argmax(axis=1), minlength=len(classes)) for name, p in (("real", real), ("fake", fake))
  }
  return [{"class": name, **{kind: int(n[i]) for kind, n in seen.items()}} for i, name in enumerate(classes)]


def _scores(real: np.ndarray, fake: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
  precision, recall = sample_quality.precision_recall(real, fake)
  density, coverage = sample_quality.density_coverage(real, fake)
  return {
    "fid": sample_quality.frechet_of_features(real, fake),
    "kid": sample_quality.kernel_distance(real, fake, size=min(1_000, len(real) // 2))[0],
    "precision": precision,
    "recall": recall,
    "density": density,
    "coverage": coverage,
    "inception_score": sample_quality.inception_score(probabilities)[0],
  }


def _pairs(above: np.ndarray, below: np.ndarray) -> "Figure":
  """A grid in which images of odd rows have their partners below them."""
  count = max(len(above) // COLUMNS, 1) * min(COLUMNS, len(above))
  columns = min(COLUMNS, count)
  rows = [images[:count].reshape(-1, columns, *images.shape[1:]) for images in (above, below)]
  return image_grid(np.stack(rows, axis=1).reshape(-1, *above.shape[1:]) / 255, columns=columns)
