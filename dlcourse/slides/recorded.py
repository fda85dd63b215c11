"""What a training of an image classifier has left in its workdir, read for those who tell of it.

Shapes: C classes, counts [C, C] with a row for each label and a column for each prediction.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlcourse.errors import UserError
from dlcourse.evaluators.intervals import proportion
from dlcourse.metrics_log import read_metrics
from dlcourse.models.trace import Layer
from dlcourse.workdir import read_json, read_record

_BASELINE = ("accuracy", "accuracy_low", "accuracy_high", "seconds")
_FOUND = ("broken", "repeated", "contradictions", "leaks")  # of `data.json`, see `data.findings.Findings`


class Recorded(NamedTuple):
  """A trained and tested classifier of images.

  Attributes:
    path: the workdir.
    record: of `experiment.json`.
    result: of `result.json`.
    rows: of `metrics.jsonl`.
    layers: of the network.
    classes: their names.
    counts: int [C, C], of the test split.
    found: of `data.json`, lists of what is wrong with a person's own images: see `data.findings.Findings`.
    per_class: images of each class, where `data.json` has counted them.
    splits: of the images as they were found, where `data.json` says so; ("all",) were split here.
    baselines: of `report/baselines.json`: what simpler methods reach, where that was measured.
  """

  path: pathlib.Path
  record: Mapping[str, Any]
  result: Mapping[str, Any]
  rows: Sequence[Mapping[str, Any]]
  layers: Sequence[Layer]
  classes: tuple[str, ...]
  counts: np.ndarray
  found: Mapping[str, Sequence[Any]]
  per_class: Mapping[str, int]
  splits: tuple[str, ...]
  baselines: Sequence[Mapping[str, Any]]

  @property
  def report(self) -> pathlib.Path:
    """The folder of figures and tables."""
    return self.path / "report"

  @property
  def settings(self) -> Mapping[str, Any]:
    """Every field of the experiment: "path.to.field" -> value."""
    return self.record["resolved"]

  @property
  def test(self) -> Mapping[str, float]:
    """What was measured on the test split, as far as it is a number."""
    return {name: value for name, value in self.result["test"].items() if value is not None}

  @property
  def tested(self) -> int:
    """How many images the test split has."""
    return int(self.counts.sum())

  @property
  def recalls(self) -> dict[str, float]:
    """Class -> share of its test images that were recognised, lowest first; without those that have none."""
    there = {name: row for name, row in zip(self.classes, self.counts, strict=True) if row.sum()}
    shares = {name: row[self.classes.index(name)] / row.sum() for name, row in there.items()}
    return {name: float(shares[name]) for name in sorted(shares, key=shares.get)}

  @property
  def confusions(self) -> list[tuple[str, str, int]]:
    """(label, prediction, how often), the most frequent first."""
    wrong = [(int(n), i, j) for (i, j), n in np.ndenumerate(self.counts) if i != j and n]
    return [(self.classes[i], self.classes[j], n) for n, i, j in sorted(wrong, key=lambda w: (-w[0], *w[1:]))]

  @property
  def tested_per_class(self) -> dict[str, int]:
    """Test images of each class."""
    return dict(zip(self.classes, map(int, self.counts.sum(axis=1)), strict=True))

  def logged(self, split: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric as the training went."""
    return [(row["step"], row[name]) for row in self.rows if row["split"] == split and name in row]

  def at(self, split: str, name: str, step: int | None) -> float | None:
    """A metric at a step; None: it was not measured there."""
    return dict(self.logged(split, name)).get(step)


def interval(right: int, of: int) -> tuple[float, float]:
  """Wilson's 95 % interval of a share."""
  row = proportion("accuracy", np.arange(of) < right)
  return row["low"], row["high"]


def read_recorded(path: pathlib.Path) -> Recorded:
  """Reads a workdir; its files may be a stranger's.

  Raises:
    UserError: no workdir, no report yet, no classifier of images, or damaged.
  """
  record = read_record(path)
  if not (path / "result.json").exists():
    raise UserError(f"{path} has no report yet; first `dlcourse report --workdir={path}`")
  result, report = read_json(path / "result.json"), path / "report"
  if not (report / "confusion_matrix.json").exists() or "data.size" not in record["resolved"]:
    raise UserError(
      f"{path} holds {record['experiment']}, without the confusion matrix of an image classifier in its report "
      "(its evaluators need a ConfusionMatrix)"
    )
  try:
    _check_result(result)
    layers = [_layer(row) for row in read_json(report / "summary.json")]
    if not layers:
      raise ValueError("no layers")
    classes, counts = _matrix(read_json(report / "confusion_matrix.json"))
    facts = read_json(path / "data.json") if (path / "data.json").exists() else {}
    found = {name: facts[name] for name in _FOUND if isinstance(facts.get(name), list)}
    per_class = {str(name): int(count) for name, count in facts.get("classes", {}).items()}
    splits = tuple(map(str, facts.get("counts", {})))
    baselines = _baselines(report / "baselines.json")
  except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
    raise UserError(f"{path}: its report is damaged; make it again with `dlcourse report`") from error
  return Recorded(
    path, record, result, read_metrics(path), layers, classes, counts, found, per_class, splits, baselines
  )


def _check_result(result: Any) -> None:
  numbers = [value for value in result["test"].values() if value is not None]
  numbers += [result["test"]["accuracy"], result["steps"], result["seconds"]]
  if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
    raise ValueError("numbers are missing")


def _layer(row: Mapping[str, Any]) -> Layer:
  return Layer(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})


def _baselines(file: pathlib.Path) -> list[Mapping[str, Any]]:
  rows = read_json(file) if file.exists() else []
  if not all(math.isfinite(row[name]) for row in rows for name in _BASELINE) or not isinstance(rows, list):
    raise ValueError("numbers are missing")
  return rows


def _matrix(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], np.ndarray]:
  classes = tuple(str(row["label"]) for row in rows)
  counts = np.array([[int(row["counts"][name]) for name in classes] for row in rows], np.int64)
  if not counts.sum() > 0 or (counts < 0).any():
    raise ValueError("a confusion matrix of nothing")
  return classes, counts
