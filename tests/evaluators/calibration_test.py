"""Calibration in closed form."""

import types

import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.evaluators.calibration import Calibration, expected_calibration_error, reliability


def two_classes(confidence, right):
  """Probabilities [N, 2] whose likeliest class has this confidence and is the label where `right`."""
  confidence, right = np.asarray(confidence, float), np.asarray(right, bool)
  return np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1)


def test_bins_and_error_by_hand():
  probabilities, labels = two_classes([0.9, 0.9, 0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0, 1, 0])
  rows = reliability(probabilities, labels, 10)
  assert [(row["images"], row["confidence"], row["accuracy"]) for row in rows] == [
    (2, pytest.approx(0.6), 0.5),
    (4, pytest.approx(0.9), 0.75),
  ]
  assert expected_calibration_error(rows) == pytest.approx((2 * 0.1 + 4 * 0.15) / 6)


def test_who_is_right_as_often_as_he_says_is_calibrated():
  rng = np.random.default_rng(0)
  confidence = rng.uniform(0.5, 1, 20_000)
  probabilities, labels = two_classes(confidence, rng.uniform(size=20_000) < confidence)
  assert expected_calibration_error(reliability(probabilities, labels, 10)) < 0.02
  probabilities, labels = two_classes(confidence, rng.uniform(size=20_000) < 0.5)
  assert expected_calibration_error(reliability(probabilities, labels, 10)) == pytest.approx(0.25, abs=0.02)


def test_certainty_falls_into_the_last_bin():
  rows = reliability(np.array([[1.0, 0.0]]), np.array([0]), 10)
  assert [(row["low"], row["images"]) for row in rows] == [(0.9, 1)]


def test_the_report_has_both_scores():
  probabilities, labels = two_classes([0.9, 0.6], [1, 0])
  arrays = {"image": np.zeros((2, 1, 1, 1), np.uint8), "label": labels.astype(np.int32), "row": np.arange(2)}
  data = Data(Spec({}, ("a", "b")), None, lambda split: in_order(arrays, 2), {}, "", "")
  task = types.SimpleNamespace(predict=lambda state, key, batch: probabilities[batch["row"]])
  said = Calibration()(task, None, data, None)
  assert said.scalars["brier"] == pytest.approx((2 * 0.1**2 + 2 * 0.6**2) / 2)
  assert said.scalars["ece"] == pytest.approx((0.1 + 0.6) / 2)
