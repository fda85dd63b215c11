"""Precision, recall and F1 of classes against scikit-learn; who is surely below the rest."""

import types

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.evaluators.per_class import PerClass, per_class

CLASSES = ("cat", "dog", "never")
LABELS = np.repeat([0, 1], [80, 40]).astype(np.int32)
SCORES = np.clip(0.5 + 0.4 * (LABELS - 0.5) + np.random.default_rng(1).normal(0, 0.2, 120), 0, 1)


def report(labels=LABELS, scores=SCORES):
  arrays = {"image": np.zeros((len(labels), 1, 1, 1), np.uint8), "label": labels, "row": np.arange(len(labels))}
  data = Data(Spec({}, CLASSES), None, lambda split: in_order(arrays, 50), {}, "", "")
  probabilities = np.stack([1 - scores, scores, 0 * scores], axis=1)
  task = types.SimpleNamespace(predict=lambda state, key, batch: probabilities[batch["row"]])
  return PerClass()(task, None, data, None)


def test_measures_are_those_of_scikit_learn_inside_their_intervals():
  rows = report().tables["per_class"]
  guessed = (SCORES > 0.5).astype(int)
  expected = precision_recall_fscore_support(LABELS, guessed, labels=[0, 1])
  for number, row in enumerate(rows[:2]):
    for measure, value in zip(
      ("precision", "recall", "f1"), (part[number] for part in expected[:3]), strict=True
    ):
      assert row[measure] == pytest.approx(value)
      assert row[f"{measure}_low"] < value < row[f"{measure}_high"]
    assert row["images"] == expected[3][number]
  area = average_precision_score(LABELS == 1, SCORES)
  assert rows[1]["average_precision"] == pytest.approx(area)


def test_a_class_that_never_occurs_has_no_numbers():
  row = report().tables["per_class"][2]
  assert row["images"] == 0
  assert {row[name] for name in ("precision", "recall", "f1", "f1_low", "average_precision")} == {None}


def test_only_what_is_surely_below_is_badly_classified():
  labels = np.repeat([0, 1], 60).astype(np.int32)
  guess = np.where(labels == 0, 0.0, np.tile([0.0, 1.0], 60))  # all cats and half of the dogs
  assert [row["class"] for row in report(labels, guess).tables["badly_classified"]] == ["dog"]
  few = np.array([0] * 60 + [1, 1], np.int32)
  scores = np.r_[np.tile([0.0, 0.0, 0.0, 0.0, 1.0], 12), 0.0, 1.0]
  assert report(few, scores).tables["badly_classified"] == []  # 80 % of the cats, and 1 of 2 dogs: who knows


@pytest.mark.parametrize("of", [1, 6])
def test_six_of_six_are_no_certainty(of):
  """By hand: Wilson's interval of n of n begins at n / (n + 1.96^2), and F1 is 2 J / (1 + J)."""
  row = per_class(np.zeros(of, int), np.zeros(of, int), CLASSES)[0]
  low = of / (of + 1.959964**2)
  assert (row["f1"], row["f1_high"]) == (1, 1)
  assert row["f1_low"] == pytest.approx(2 * low / (1 + low), rel=1e-6)
  wrong = per_class(np.zeros(of, int), np.ones(of, int), CLASSES)[0]
  assert wrong["f1"] == 0 < wrong["f1_high"] < 1


def test_the_interval_of_f1_covers_what_is_true():
  """Of 400 test sets of 60 images from one classifier, some 95 % of the intervals hold its F1."""
  rng = np.random.default_rng(0)
  truth = 2 * 0.3 * 0.7 / (0.3 * 0.7 + 0.7 * 0.2 + 0.3)  # 30 % are of the class; 70 % found, 20 % said wrongly
  covered = 0
  for _ in range(400):
    labels = (rng.random(60) > 0.3).astype(int)
    guessed = np.where(rng.random(60) < np.where(labels == 0, 0.7, 0.2), 0, 1)
    row = per_class(labels, guessed, CLASSES)[0]
    covered += row["f1_low"] <= truth <= row["f1_high"]
  assert 0.92 <= covered / 400 <= 0.98


def test_the_interval_of_f1_narrows_with_images():
  widths = []
  for times in (1, 16):
    row = per_class(np.tile([0, 0, 1, 1, 0], 6 * times), np.tile([0, 1, 1, 1, 0], 6 * times), CLASSES)[0]
    widths.append(row["f1_high"] - row["f1_low"])
  assert 3 < widths[0] / widths[1] < 5  # sqrt(16)
