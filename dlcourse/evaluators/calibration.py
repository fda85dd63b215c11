"""Whether a classifier is right as often as it says it is (Guo et al., 2017, arXiv:1706.04599)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.errors import check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import predictions
from dlcourse.report.figures import GREY, new_figure

if TYPE_CHECKING:
  from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Calibration(Evaluator):
  """Accuracy against confidence, in bins of equal width; and proper scores."""

  bins: int = 10
  """Of the confidence in the likeliest class."""

  def __post_init__(self) -> None:
    """Refuses to compare within one bin."""
    check_at_least(2, {"evaluators….bins": self.bins})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars `ece` and `brier`; table and figure `calibration`."""
    probabilities, labels, _ = predictions(task, state, data, key)
    rows = reliability(probabilities, labels, self.bins)
    hot = np.eye(probabilities.shape[1])[labels]
    brier = float(np.mean(np.sum((probabilities - hot) ** 2, axis=1)))
    error = expected_calibration_error(rows)
    return Report(
      scalars={"ece": error, "brier": brier},
      tables={"calibration": rows},
      figures={"calibration": _figure(rows, error, self.bins)},
    )


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> list[dict[str, Any]]:
  """Bins (low, high] of confidence that have images.

  Args:
    probabilities: [N, C].
    labels: int [N].
    bins: how many, of equal width.

  Returns:
    low, high, images, confidence (mean), accuracy.
  """
  confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
  place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
  return [
    {
      "low": number / bins,
      "high": (number + 1) / bins,
      "images": int(np.sum(place == number)),
      "confidence": float(confidence[place == number].mean()),
      "accuracy": float(right[place == number].mean()),
    }
    for number in np.unique(place).tolist()
  ]


def expected_calibration_error(rows: Sequence[Mapping[str, Any]]) -> float:
  """Mean of |accuracy - confidence| over the images (Guo et al., equation 3)."""
  gaps = [row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows]
  return sum(gaps) / sum(row["images"] for row in rows)


def _figure(rows: Sequence[Mapping[str, Any]], error: float, bins: int) -> "Figure":
  """Accuracy of every bin beside the diagonal; below, how many images it holds."""
  figure = new_figure(4.6, 5.0)
  top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
  middles = [(row["low"] + row["high"]) / 2 for row in rows]
  top.bar(middles, [row["accuracy"] for row in rows], 0.92 / bins, color="tab:blue", label="accuracy")
  top.plot(
    [row["confidence"] for row in rows], [row["accuracy"] for row in rows], "o", color="0.15", markersize=3
  )
  top.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2, label="as sure as right")
  top.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="accuracy", title=f"expected calibration error {error:.3f}")
  top.legend(frameon=False, loc="upper left", fontsize=8)
  below.bar(middles, [row["images"] for row in rows], 0.92 / bins, color=GREY)
  below.set(xlabel="confidence in the likeliest class", ylabel="images")
  for axes in (top, below):
    axes.grid(alpha=0.3)
  return figure
