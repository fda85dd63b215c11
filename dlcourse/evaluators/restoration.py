"""How near the images that a task makes from their sources come to the true ones (H4.9)."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.report.figures import image_grid
from dlcourse.theory.image_similarity import WINDOW, intersection_over_union, psnr, ssim

if TYPE_CHECKING:
  from matplotlib.figure import Figure

# True images are rounded to 256 levels, an error of mean square 1 / (12 · 255²) whatever is made.
MOST = 10 * np.log10(12 * 255**2)  # dB


@dataclasses.dataclass(frozen=True)
class Restoration(Evaluator):
  """Translated images against the true ones of the whole test split, beside what the source alone gives."""

  images: int = 8
  """Columns of the figure."""

  def __post_init__(self) -> None:
    """Refuses an empty figure."""
    check_at_least(1, {"evaluators….images": self.images})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars psnr, in dB, and ssim, means over the images, and those of the baseline; a figure.

    The baseline is the source, enlarged (bicubic) where it is smaller, its grey in every channel of a colour
    image. Images that differ by less than rounding to 8 bits have 58.9 dB. Where all true images are black
    and white: iou too, the overlap of what is 0.5 or brighter. The figure has sources, made and true images.

    Raises:
      UserError: the data has no sources, the images are too small, or the task makes none, or NaN.
    """
    if "source" not in data.spec.batch:
      raise UserError("Restoration compares images made from a source; use data like ImagePairs")
    if min(data.spec.image_shape[:2]) < WINDOW:
      raise UserError(f"Restoration needs images of {WINDOW} x {WINDOW} or more; set --data.size")
    found, pictures, black_and_white = [], [], True
    for index, batch in enumerate(data.eval_batches("test")):
      real = batch["mask"] > 0
      true, source = batch["image"][real] / 255, batch["source"][real] / 255
      made = _made(task, state, jax.random.fold_in(key, index), batch)[real]
      found.append(_scores(made, true) | _named("baseline", _scores(enlarged(source, true.shape), true)))
      black_and_white &= bool(np.isin(batch["image"][real], (0, 255)).all())
      if index * len(real) < self.images:
        pictures.append(np.stack([shown(source, true.shape), made, true]))
    scores = {name: float(np.concatenate([part[name] for part in found]).mean()) for name in found[0]}
    if not black_and_white:
      scores = {name: value for name, value in scores.items() if not name.endswith("iou")}
    return Report(scalars=scores, figures={"restoration": _rows(np.concatenate(pictures, 1), self.images)})


def enlarged(source: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """What a source [N, h, w, D] in [0, 1] gives without a model: bicubic, in the shape [N, H, W, C]."""
  if source.shape[1:3] != shape[1:3]:
    source = jax.device_get(jax.image.resize(source, (*shape[:3], source.shape[-1]), "cubic")).clip(0, 1)
  return np.broadcast_to(source, shape)


def shown(source: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """A source [N, h, w, D] as it is, in the shape [N, H, W, C]: every pixel a square."""
  for axis in (1, 2):
    source = source.repeat(shape[axis] // source.shape[axis], axis=axis)
  return np.broadcast_to(source, shape)


def _made(task, state, key: jax.Array, batch: Mapping[str, np.ndarray]) -> np.ndarray:
  made = jax.device_get(task.predict(state, key, batch))
  if not isinstance(made, Mapping) or "image" not in made:
    raise UserError("Restoration needs a task that makes images from their sources, as Compete does")
  if not np.isfinite(made["image"]).all():
    raise UserError("the model makes images of NaN: training has diverged, or the checkpoint is damaged")
  return np.asarray(made["image"]).clip(0, 1)


def _scores(made: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
  return {
    "psnr": np.minimum(psnr(made, true), MOST),
    "ssim": ssim(made, true),
    "iou": intersection_over_union(made >= 0.5, true >= 0.5),
  }


def _named(prefix: str, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {f"{prefix}_{name}": value for name, value in scores.items()}


def _rows(pictures: np.ndarray, most: int) -> "Figure":
  """[3, N, H, W, C] as three rows of at most so many images."""
  pictures = pictures[:, :most]
  return image_grid(pictures.reshape(-1, *pictures.shape[2:]), columns=pictures.shape[1])
