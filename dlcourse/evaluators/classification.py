"""What a classifier gets right and wrong: confusion matrix, worst confusions, ROC."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from dlcourse.data.recipe import Batch, Data, Spec
from dlcourse.errors import UserError, check_at_least, unknown
from dlcourse.evaluators import Evaluator, Report
from dlcourse.report.figures import (
  confusion_figure,
  labelled_images,
  labelled_series,
  roc_figure,
  shortened,
  text_page,
)
from dlcourse.task import Task

if TYPE_CHECKING:
  from matplotlib.figure import Figure


class Predictions(NamedTuple):
  """What a classifier says of the whole test split.

  Attributes:
    probabilities: [N, C].
    labels: [N].
    examples: what it was asked about: N images [H, W, C], or sequences [T] or [T, D] without their padding.
  """

  probabilities: np.ndarray
  labels: np.ndarray
  examples: list[np.ndarray]


def unpadded(batch: Batch) -> list[np.ndarray]:
  """The examples of a batch that count: images, or sequences (of a tree, its nodes) up to their ends."""
  real = batch["mask"] > 0
  name = next(name for name in ("image", "inputs", "nodes") if name in batch)
  if name == "image":
    return list(batch[name][real])
  return [x[:length] for x, length in zip(batch[name][real], batch["lengths"][real], strict=True)]


def predictions(task, state, data: Data, key: jax.Array) -> Predictions:
  """Asks about every example of the test split.

  Raises:
    UserError: the model gives no numbers.
  """
  probabilities, labels, examples = [], [], []
  for batch in data.eval_batches("test"):
    real = batch["mask"] > 0
    probabilities.append(jax.device_get(task.predict(state, key, batch))[real])
    labels.append(batch["label"][real])
    examples += unpadded(batch)
  found = Predictions(np.concatenate(probabilities), np.concatenate(labels), examples)
  if not np.isfinite(found.probabilities).all():
    raise UserError(
      "the model predicts NaN: training has diverged or the checkpoint is damaged; "
      "train again in another --workdir, perhaps with a lower learning rate"
    )
  return found


def pictured(examples: Sequence[np.ndarray], titles: Sequence[str], spec: Spec) -> "Figure":
  """Images, curves or texts, each with its title."""
  if examples[0].ndim == 3:
    return labelled_images(np.stack(examples), titles)
  if examples[0].ndim == 1:
    pairs = zip(titles, map(spec.decode, examples), strict=True)
    return text_page([f"{' '.join(title.split())}\n{text}" for title, text in pairs])
  return labelled_series(examples, titles)


def check_classifier(task, state, data: Data, key: jax.Array, evaluator: str) -> None:
  """Refuses, in one line, a task that does not give every image of the test split one of the classes.

  Args:
    task: a task or its compiled `Program`.
    state: a TrainState.
    data: of the experiment.
    key: of the prediction.
    evaluator: who asks.

  Raises:
    UserError: the data has no labelled images, or the prediction is no [B, classes].
  """
  batch = next(iter(data.eval_batches("test")))
  if not {"image", "label"} <= set(batch):
    raise UserError(f"{evaluator} needs labelled images; this data has {', '.join(sorted(batch))}")
  predicted = jax.eval_shape(task_of(task).predict, state, key, batch)
  if getattr(predicted, "shape", None) != (len(batch["label"]), data.spec.num_classes):
    raise UserError(f"{evaluator} needs a task that classifies images; this one does something else with them")


def task_of(task) -> Task:
  """What a `Program` was compiled from; a task is its own."""
  return getattr(task, "task", task)


@dataclasses.dataclass(frozen=True)
class ConfusionMatrix(Evaluator):
  """Counts of (label, prediction), recall of every class, and the most confident errors."""

  pictures: int = 24
  """How many errors are shown."""
  focus: str | None = None
  """A class whose own F1 is a number of the result, f1/CLASS; None: no class."""

  def __post_init__(self) -> None:
    """Refuses fewer than no pictures."""
    check_at_least(0, {"evaluators….pictures": self.pictures})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars `macro_recall`, `macro_f1` over the classes that occur; three tables and three figures.

    Raises:
      UserError: the class in focus is none of the data, or the model gives no numbers.
    """
    classes = data.spec.classes
    if self.focus is not None and self.focus not in classes:
      raise unknown("class of --evaluators….focus", self.focus, classes)
    probabilities, labels, examples = predictions(task, state, data, key)
    guessed = probabilities.argmax(axis=-1)
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (labels, guessed), 1)
    occurring = counts.sum(axis=1) > 0
    recall = np.diag(counts) / np.maximum(counts.sum(axis=1), 1)
    wrong = np.flatnonzero(guessed != labels)
    worst = wrong[np.argsort(-probabilities[wrong, guessed[wrong]])][: self.pictures]
    short = [shortened(name, 12) for name in classes]
    titles = [f"{short[labels[i]]} →\n{short[guessed[i]]} {probabilities[i, guessed[i]]:.0%}" for i in worst]
    pairs = [(counts[i, j], i, j) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
    figures = {
      "confusion_matrix": confusion_figure(counts, classes),
      "confusion_matrix_normalised": confusion_figure(counts, classes, normalised=True),
    }
    if len(worst):
      figures["worst_confusions"] = pictured([examples[i] for i in worst], titles, data.spec)
    # 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall
    f1 = 2 * np.diag(counts) / np.maximum(counts.sum(axis=0) + counts.sum(axis=1), 1)
    scalars = {"macro_recall": float(recall[occurring].mean()), "macro_f1": float(f1[occurring].mean())}
    if self.focus is not None:
      scalars[f"f1/{self.focus}"] = float(f1[classes.index(self.focus)])
    return Report(
      scalars=scalars,
      tables={
        "confusion_matrix": [
          {"label": name, "counts": dict(zip(classes, row.tolist(), strict=True))}
          for name, row in zip(classes, counts, strict=True)
        ],
        "recall": [
          {"class": name, "recall": float(value)} for name, value in zip(classes, recall, strict=True)
        ],
        "confusions": [
          {"label": classes[i], "predicted": classes[j], "count": int(n)}
          for n, i, j in sorted(pairs, reverse=True)[:10]
        ],
      },
      figures=figures,
    )


@dataclasses.dataclass(frozen=True)
class Roc(Evaluator):
  """One-against-the-rest receiver operating curves and the areas under them."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalar `macro_auc` over the classes that occur; a table of areas; one figure; nothing if one occurs."""
    from sklearn.metrics import auc, roc_curve  # 1 s that training need not wait for

    probabilities, labels, _ = predictions(task, state, data, key)
    curves = {}
    for number, name in enumerate(data.spec.classes):
      if 0 < np.sum(labels == number) < len(labels):
        false, true, _ = roc_curve(labels == number, probabilities[:, number])
        curves[name] = (false, true, float(auc(false, true)))
    if not curves:
      return Report()
    areas = [{"class": name, "auc": area} for name, (_, _, area) in curves.items()]
    return Report(
      scalars={"macro_auc": float(np.mean([row["auc"] for row in areas]))},
      tables={"roc": areas},
      figures={"roc": roc_figure(curves)},
    )
