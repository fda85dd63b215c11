import numpy as np
import pytest

from dlcourse.data.forecast import Weather
from dlcourse.data.procedural import MemoryGap
from dlcourse.errors import UserError
from dlcourse.evaluators.forecast_baselines import (
  ForecastBaselines,
  errors,
  persistence,
  ridge,
  seasonal_naive,
)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def windows(series, history, horizons):
  ends = np.arange(history - 1, len(series) - max(horizons))
  inputs = np.stack([series[end - history + 1 : end + 1] for end in ends])[..., None]
  return inputs, np.stack([series[ends + h] for h in horizons], axis=1)


def test_persistence_and_the_hour_before_are_exact_where_they_hold(rng):
  horizons = np.array([1, 6, 24, 30])
  inputs, targets = windows(np.full(100, 3.5), 48, horizons)
  np.testing.assert_array_equal(persistence(inputs, horizons), targets)
  inputs, targets = windows(np.tile(rng.normal(size=24), 6), 48, horizons)
  np.testing.assert_array_equal(seasonal_naive(inputs, horizons), targets)
  assert np.abs(persistence(inputs, horizons) - targets)[:, :2].max() > 0.1
  np.testing.assert_array_equal(persistence(inputs, horizons)[:, 2], targets[:, 2])


def test_only_known_hours_are_used():
  with pytest.raises(UserError, match="19 hours are needed"):
    seasonal_naive(np.zeros((2, 18, 1)), np.array([6]))
  assert seasonal_naive(np.zeros((2, 19, 1)), np.array([6])).shape == (2, 1)


def test_ridge_is_its_closed_form_and_ends_at_persistence(rng):
  x, y, asked = rng.normal(size=(50, 4, 2)), rng.normal(size=(50, 3)), rng.normal(size=(7, 4, 2))
  flat, mean, deviation = x.reshape(50, 8), x.reshape(50, 8).mean(0), x.reshape(50, 8).std(0)
  design, change = (flat - mean) / deviation, y - x[:, -1, :1]
  weights = np.linalg.solve(design.T @ design + 2.0 * np.eye(8), design.T @ (change - change.mean(0)))
  expected = asked[:, -1, :1] + change.mean(0) + (asked.reshape(7, 8) - mean) / deviation @ weights
  found = ridge(x, y, asked, (2.0, 1e12))
  np.testing.assert_allclose(found[2.0], expected, rtol=1e-9)
  np.testing.assert_allclose(found[1e12], asked[:, -1, :1] + change.mean(0), rtol=1e-6)


def test_ridge_finds_an_autoregression(rng):
  series = np.zeros(600)
  for t in range(2, 600):
    series[t] = 1.5 * series[t - 1] - 0.9 * series[t - 2] + 0.01 * rng.normal()
  inputs, targets = windows(series, 4, (1,))
  found = ridge(inputs[:400], targets[:400], inputs[400:], (1e-6,))[1e-6]
  assert errors(found, targets[400:])["rmse"][0] < 0.012


def test_errors_of_each_horizon():
  found = errors(np.array([[1.0, 0.0], [-1.0, 4.0]]), np.zeros((2, 2)))
  np.testing.assert_allclose(found["rmse"], [1.0, np.sqrt(8)])
  np.testing.assert_allclose(found["mae"], [1.0, 2.0])


def test_data_without_horizons_is_refused():
  with pytest.raises(UserError, match="needs windows with horizons"):
    ForecastBaselines()(None, None, MemoryGap(batch_size=2, sequences=2).build(), None)


@pytest.mark.data
def test_the_weather_at_six_hours():
  report = ForecastBaselines()(None, None, Weather(history=24).build(), None)
  rows = {row["forecast"]: row for row in report.tables["baselines"]}
  assert {row["hours"] for row in rows.values()} == {6}
  assert rows["persistence"]["rmse"] == pytest.approx(5.7, abs=0.2)
  assert rows["ridge autoregression"]["rmse"] < 0.85 * rows["persistence"]["rmse"]
  assert (
    report.scalars["rmse_seasonal_naive_6h"] == rows["seasonal naive"]["rmse"] > rows["persistence"]["rmse"]
  )
