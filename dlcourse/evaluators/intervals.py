"""How sure the figures of a classifier are: accuracy, recalls and areas with 95 % intervals (H1.7.1).

A test split of a few hundred patients says less than its three decimals suggest.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.errors import check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import predictions


@dataclasses.dataclass(frozen=True)
class Intervals(Evaluator):
  """Wilson's interval (1927) of accuracy and recalls, the percentile bootstrap's (Efron, 1979) of areas."""

  resamples: int = 1_000
  """How often the test split is drawn anew, with replacement, for the areas."""

  def __post_init__(self) -> None:
    """Refuses an interval of too few draws to have ends."""
    check_at_least(100, {"evaluators….resamples": self.resamples})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """A table: measure, value, low, high, n; scalars `accuracy_low`, `accuracy_high`."""
    probabilities, labels, _ = predictions(task, state, data, key)
    right = probabilities.argmax(axis=-1) == labels
    rows = [proportion("accuracy", right)]
    for number, name in enumerate(data.spec.classes):
      if np.any(labels == number):
        rows.append(proportion(f"recall of {name}", right[labels == number]))
    for number, name in enumerate(data.spec.classes):
      of_class = labels == number
      if of_class.any() and not of_class.all():
        rows.append(area_row(f"AUC of {name}", of_class, probabilities[:, number], self.resamples))
    scalars = {"accuracy_low": rows[0]["low"], "accuracy_high": rows[0]["high"]}
    return Report(scalars=scalars, tables={"intervals": rows})


def proportion(measure: str, right: np.ndarray) -> dict[str, Any]:
  """The share of True with Wilson's interval: measure, value, low, high, n; of nothing, None."""
  if not len(right):
    return {"measure": measure, **dict.fromkeys(("value", "low", "high")), "n": 0}
  from scipy.stats import binomtest  # 0.3 s

  low, high = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, method="wilson")
  return {"measure": measure, "value": float(right.mean()), "low": low, "high": high, "n": len(right)}


def area_row(measure: str, of_class: np.ndarray, scores: np.ndarray, resamples: int) -> dict[str, Any]:
  """Area under the ROC with the 2.5th and 97.5th percentile over resamples; both groups keep their size.

  Args:
    measure: what to call it.
    of_class: bool [N], True where a score should be high; both groups have members.
    scores: [N].
    resamples: how often both groups are drawn anew.

  Returns:
    measure, value, low, high, n.
  """
  rng = np.random.default_rng(0)
  positive, negative = scores[of_class], np.sort(scores[~of_class])

  def area(positive, negative):  # the share of pairs in the right order (Mann & Whitney, 1947)
    below, upto = (np.searchsorted(negative, positive, side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(negative))

  drawn = [
    area(rng.choice(positive, len(positive)), np.sort(rng.choice(negative, len(negative))))
    for _ in range(resamples)
  ]
  low, high = np.percentile(drawn, [2.5, 97.5])
  value = area(positive, negative)
  return {"measure": measure, "value": value, "low": float(low), "high": float(high), "n": len(scores)}


def interval_scalars(name: str, row: Mapping[str, Any]) -> dict[str, float]:
  """A row's value under this name, and the ends of its interval as NAME_low and NAME_high."""
  return {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
