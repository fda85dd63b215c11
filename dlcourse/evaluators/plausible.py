"""Several images that a source leaves possible: how good they are, and how different (H5.4.2, H5.4.4).

Shapes: N examples, K draws of each, H, W their sides, C channels of an image and D of its source.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from dlcourse.data.recipe import Batch, Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.restoration import MOST, enlarged, shown
from dlcourse.report.figures import image_grid
from dlcourse.theory.image_similarity import psnr

_NOTHING = 0.5  # grey where a figure has no picture


class Example(NamedTuple):
  """Test examples, all in [0, 1]: source [N, H, W, D], true [N, H, W, C] and draws [N, K, H, W, C]."""

  source: np.ndarray
  true: np.ndarray
  draws: np.ndarray


@dataclasses.dataclass(frozen=True)
class Plausible(Evaluator):
  """Images drawn for each source, against the true one (H5.4.4); for a model that is told a source."""

  draws: int = 10
  """K, images drawn for each source."""
  images: int = 8
  """Columns of the figure."""

  def __post_init__(self) -> None:
    """Refuses draws that have no spread, and an empty figure."""
    check_at_least(2, {"evaluators….draws": self.draws})
    check_at_least(1, {"evaluators….images": self.images})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """The scalars of `scores`, the baseline being the source, and a figure.

    Its rows are sources, true images, means of the draws, their deviations and the first four draws.

    Raises:
      UserError: the data has no sources, or the task does not draw.
    """

    def rows(example: Example) -> np.ndarray:
      mean, deviation = example.draws.mean(axis=1), example.draws.std(axis=1)
      drawn = example.draws[:, :4].swapaxes(0, 1)
      return np.stack([shown(example.source, example.true.shape), example.true, mean, deviation, *drawn])

    found, first = _measured(task, state, data, key, self.draws, enlarged)
    pictures = rows(Example(*(array[: self.images] for array in first)))
    figure = image_grid(pictures.reshape(-1, *pictures.shape[2:]), columns=pictures.shape[1])
    return Report(found, figures={"plausible": figure})


@dataclasses.dataclass(frozen=True)
class Futures(Evaluator):
  """Frames that may follow those that were seen, against those that did (H5.4.2).

  For data like MovingDigits, whose channels are frames, and a model that is told the past.
  """

  draws: int = 10
  """K, futures drawn for each past."""
  videos: int = 3
  """Videos of the figure."""

  def __post_init__(self) -> None:
    """Refuses draws that have no spread, and an empty figure."""
    check_at_least(2, {"evaluators….draws": self.draws})
    check_at_least(1, {"evaluators….videos": self.videos})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """The scalars of `scores`, the baseline being the last frame of the past, again and again; and a figure.

    Of each video it has past and truth in a row, and below the first four futures that are drawn.

    Raises:
      UserError: the data has no sources, or the task does not draw.
    """

    def last(source: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
      return np.broadcast_to(source[..., -1:], shape)

    found, first = _measured(task, state, data, key, self.draws, last)
    rows = []
    for past, true, draws in zip(*(array[: self.videos] for array in first), strict=True):
      nothing = np.full_like(past, _NOTHING)
      rows.append(np.concatenate([past, true], axis=-1))
      rows += [np.concatenate([nothing, draw], axis=-1) for draw in draws[:4]]
    frames = np.moveaxis(np.stack(rows), -1, 1)  # [rows, T, H, W]
    columns = frames.shape[1]
    return Report(found, figures={"futures": image_grid(frames.reshape(-1, *frames.shape[2:], 1), columns)})


def scores(example: Example, baseline: np.ndarray) -> dict[str, np.ndarray]:
  """How near draws come to the truth, each [N].

  Args:
    example: N of them.
    baseline: what the source alone gives, [N, H, W, C].

  Returns:
    PSNR, in dB and at most 58.9 (rounding to 8 bits): drawn_psnr, the mean over the draws; best_psnr, that of
    the best of them; mean_psnr, that of their mean; baseline_psnr. And squared_spread, the variance of a pixel
    over the draws, averaged over the pixels.
  """
  count, draws = example.draws.shape[:2]
  every = example.draws.reshape(count * draws, *example.true.shape[1:])
  of_draws = _decibels(every, example.true.repeat(draws, axis=0)).reshape(count, draws)
  return {
    "drawn_psnr": of_draws.mean(axis=1),
    "best_psnr": of_draws.max(axis=1),
    "mean_psnr": _decibels(example.draws.mean(axis=1), example.true),
    "baseline_psnr": _decibels(baseline, example.true),
    "squared_spread": example.draws.var(axis=1).reshape(count, -1).mean(axis=1),
  }


def _measured(
  task, state, data: Data, key: jax.Array, draws: int, baseline: Callable
) -> tuple[dict[str, float], Example]:
  """Scalars over the whole test split, and the examples of its first batch.

  The scalars are means of `scores`, but for spread, the root of the mean squared_spread, and error_correlation,
  Pearson's r over all pixels between the deviation of the draws and the absolute error of their mean: whether
  the model is unsure where it errs.
  """
  if "source" not in data.spec.batch:
    raise UserError("images are drawn for sources here; use data like ImagePairs or MovingDigits")
  found, unsure, wrong, first = [], [], [], None
  for index, batch in enumerate(data.eval_batches("test")):
    example = _drawn(task, state, jax.random.fold_in(key, index), batch, draws)
    first = example if first is None else first
    found.append(scores(example, baseline(example.source, example.true.shape)))
    unsure.append(example.draws.std(axis=1).ravel())
    wrong.append(np.abs(example.draws.mean(axis=1) - example.true).ravel())
  means = {name: float(np.concatenate([part[name] for part in found]).mean()) for name in found[0]}
  means["spread"] = means.pop("squared_spread") ** 0.5
  correlation = np.corrcoef(np.concatenate(unsure), np.concatenate(wrong))[0, 1] if means["spread"] else 0.0
  return means | {"error_correlation": float(correlation)}, first


def _drawn(task, state, key: jax.Array, batch: Batch, draws: int) -> Example:
  """The examples of a batch that count."""
  real, made = batch["mask"] > 0, []
  for index in range(draws):
    predicted = jax.device_get(task.predict(state, jax.random.fold_in(key, index), batch))
    if not isinstance(predicted, Mapping) or "drawn" not in predicted:
      raise UserError("images are drawn by an Autoencode whose model is told a source, such as ConditionalVAE")
    made.append(predicted["drawn"][real].clip(0, 1))
  drawn = np.stack(made, axis=1)
  if not np.isfinite(drawn).all():
    raise UserError("the model makes images of NaN: training has diverged, or the checkpoint is damaged")
  source, true = ((batch[name][real] / 255).astype(np.float32) for name in ("source", "image"))
  return Example(source, true, drawn)


def _decibels(made: np.ndarray, true: np.ndarray) -> np.ndarray:
  return np.minimum(psnr(made, true), MOST)
