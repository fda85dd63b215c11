"""Which classes a classifier is good at, and how sure that is (H1.7.1).

Shapes: N images, C classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import predictions
from dlcourse.evaluators.intervals import interval_scalars, proportion
from dlcourse.report.figures import GREY, LONG_NAME, new_figure, precision_recall_figure, shortened

if TYPE_CHECKING:
  from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class PerClass(Evaluator):
  """Precision, recall and F1 of every class with 95 % intervals, the badly classified ones, PR curves."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Tables `per_class` and `badly_classified`; scalar `macro_average_precision`; two figures.

    Badly classified is a class whose recall is surely (95 %) below the accuracy over all.
    """
    found, classes = predictions(task, state, data, key), data.spec.classes
    guessed = found.probabilities.argmax(axis=-1)
    rows = per_class(found.labels, guessed, classes)
    accuracy = float(np.mean(guessed == found.labels))
    curves = _precision_recall(found.labels, found.probabilities, classes)
    areas = {name: area for name, (_, _, area) in curves.items()}
    for row in rows:
      row["average_precision"] = areas.get(row["class"])
    return Report(
      scalars={"macro_average_precision": float(np.mean([*areas.values()]))} if areas else {},
      tables={
        "per_class": rows,
        "badly_classified": [row for row in rows if row["images"] and row["recall_high"] < accuracy],
      },
      figures={"per_class": _bars(rows, accuracy)}
      | ({"precision_recall": precision_recall_figure(curves)} if curves else {}),
    )


def per_class(labels: np.ndarray, guessed: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
  """Precision, recall and F1 with intervals of 95 % (Wilson, 1927).

  F1 = 2 J / (1 + J) of J, the share of right answers among the images that are of the class or were said to be;
  its interval is J's, which has a width even where every answer was right, as a bootstrap's has not.

  Args:
    labels: int [N].
    guessed: int [N].
    classes: C names.

  Returns:
    A row a class: class, images, and of each measure NAME, NAME_low, NAME_high; None where it is not defined.
  """
  rows = []
  for number, name in enumerate(classes):
    is_it, said = labels == number, guessed == number
    right = is_it & said
    row = {"class": name, "images": int(is_it.sum())}
    for measure, part in {"precision": is_it[said], "recall": said[is_it]}.items():
      row |= interval_scalars(measure, proportion(measure, part))
    jaccard = interval_scalars("f1", proportion("f1", right[is_it | said]))
    rows.append(row | {name: share and 2 * share / (1 + share) for name, share in jaccard.items()})
  return rows


def _precision_recall(
  labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
  """Class -> (recall, precision, average precision), of those that occur."""
  from sklearn.metrics import average_precision_score, precision_recall_curve  # 1 s

  curves = {}
  for number, name in enumerate(classes):
    is_it, scores = labels == number, probabilities[:, number]
    if 0 < is_it.sum() < len(labels):
      precision, recall, _ = precision_recall_curve(is_it, scores)
      curves[name] = (recall, precision, float(average_precision_score(is_it, scores)))
  return curves


def _bars(rows: Sequence[Mapping[str, Any]], accuracy: float) -> "Figure":
  """F1 of every class with its interval, the worst below."""
  rows = sorted((row for row in rows if row["f1"] is not None), key=lambda row: row["f1"])
  figure = new_figure(6.0, max(2.4, 0.28 * len(rows) + 1.2))
  axes, places = figure.subplots(), np.arange(len(rows))
  values = np.array([row["f1"] for row in rows])
  ends = np.array([[row["f1"] - row["f1_low"], row["f1_high"] - row["f1"]] for row in rows]).T
  axes.barh(places, values, xerr=np.maximum(ends, 0), color="tab:blue", ecolor="0.2", capsize=2, height=0.7)
  axes.axvline(accuracy, color=GREY, linestyle=":", linewidth=1.2, label=f"accuracy {accuracy:.3f}")
  names = [f"{shortened(row['class'], LONG_NAME)} ({row['images']})" for row in rows]
  axes.set_yticks(places, names, fontsize=8 if len(rows) <= 40 else 5)
  axes.set(xlim=(0, 1), ylim=(-0.7, len(rows) - 0.3), xlabel="F1 with 95 % interval", ylabel="class (images)")
  axes.grid(alpha=0.3, axis="x")
  figure.legend(frameon=False, loc="outside upper right")
  return figure
