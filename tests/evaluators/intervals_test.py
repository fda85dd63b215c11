"""Intervals of accuracy, recall and area, against closed forms and scikit-learn."""

import types

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.intervals import Intervals

RNG = np.random.default_rng(0)
LABELS = (np.arange(120) % 3 == 0).astype(np.int32)
SCORES = np.clip(0.3 * LABELS + RNG.uniform(0, 0.7, 120), 0, 1).round(1)  # with ties


def report(labels=LABELS, scores=SCORES, classes=("healthy", "ill", "never")):
  arrays = {"image": np.zeros((len(labels), 1, 1, 1), np.uint8), "label": labels, "row": np.arange(len(labels))}
  data = Data(Spec({}, classes), None, lambda split: in_order(arrays, 50), {}, "", "")
  probabilities = np.stack([1 - scores, scores, 0 * scores], axis=1)
  task = types.SimpleNamespace(predict=lambda state, key, batch: probabilities[batch["row"]])
  return Intervals(400)(task, None, data, None)


def rows():
  return {row["measure"]: row for row in report().tables["intervals"]}


def test_accuracy_and_recalls_have_wilsons_interval():
  found, z = rows(), norm.ppf(0.975)
  right = (SCORES > 0.5) == LABELS
  for name, part in (("accuracy", right), ("recall of ill", right[LABELS == 1])):
    n, p = len(part), part.mean()
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert found[name]["value"] == pytest.approx(p)
    assert [found[name]["low"], found[name]["high"]] == pytest.approx([centre - half, centre + half])
  assert report().scalars["accuracy_low"] == found["accuracy"]["low"]


def test_areas_are_those_of_scikit_learn_inside_their_intervals():
  found = rows()
  assert found["AUC of ill"]["value"] == pytest.approx(roc_auc_score(LABELS, SCORES))
  assert found["AUC of healthy"]["value"] == pytest.approx(roc_auc_score(LABELS, SCORES))
  assert found["AUC of ill"]["low"] < found["AUC of ill"]["value"] < found["AUC of ill"]["high"]


def test_four_times_the_patients_halve_the_interval():
  def width(report):
    row = next(row for row in report.tables["intervals"] if row["measure"] == "AUC of ill")
    return row["high"] - row["low"]

  assert width(report(np.tile(LABELS, 4), np.tile(SCORES, 4))) == pytest.approx(width(report()) / 2, rel=0.25)


def test_a_class_that_never_occurs_has_no_figures():
  assert not any("never" in measure for measure in rows())


def test_too_few_draws_are_refused():
  with pytest.raises(UserError, match="at least 100"):
    Intervals(10)
