import dataclasses

import numpy as np
import pytest

from dlcourse.data import forecast
from dlcourse.data.forecast import Weather, held
from dlcourse.errors import UserError

HOURS = 400


def station(offset):
  """Every value tells its station and its hour."""
  hour = np.arange(HOURS, dtype=np.float64)
  found = {name: np.add(hour, offset) for name in forecast._COLUMNS}
  return {**found, "wind_sin": 0 * hour, "wind_cos": 0 * hour, "hour": hour}


@pytest.fixture
def weather(monkeypatch):
  stations = {"A": station(0), "B": station(1000)}
  monkeypatch.setattr(forecast, "hourly_weather", lambda: stations)
  return stations


def whole(data, split):
  parts = [{name: x[b["mask"] > 0] for name, x in b.items()} for b in data.eval_batches(split)]
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


RECIPE = Weather(history=10, horizons=(2, 6), batch_size=16)


def test_a_window_is_the_hours_before_its_targets(weather):
  data = RECIPE.build()
  for batch in (*data.eval_batches("test"), data.batch(0, 3)):
    real = batch["mask"] > 0
    first = batch["inputs"][real, :, 0]
    np.testing.assert_array_equal(np.diff(first), 1)
    np.testing.assert_array_equal(batch["targets"][real], first[:, -1:] + [2, 6])
    np.testing.assert_array_equal(batch["lengths"][real], 10)
    np.testing.assert_array_equal(batch["horizons"], [[2, 6]] * 16)
    assert not batch["inputs"][~real].any()


def test_no_window_reaches_over_a_border_and_every_one_is_there(weather):
  data = RECIPE.build()
  borders = {"train": (0, 280), "validation": (280, 340), "test": (340, 400)}
  for split, (start, stop) in borders.items():
    part = whole(data, split)
    hours = part["inputs"][..., 0] % 1000
    assert hours.min() == start
    assert (part["targets"] % 1000).max() == stop - 1
    assert len(part["mask"]) == data.sizes[split] == 2 * (stop - start - 10 - 6 + 1)
    assert len({tuple(x) for x in part["targets"]}) == data.sizes[split]


def test_an_epoch_has_every_training_window(weather):
  data = RECIPE.build()
  seen = np.concatenate([data.batch(1, step)["targets"][:, 0] for step in range(data.sizes["train"] // 16 + 1)])
  assert set(seen) == set(whole(data, "train")["targets"][:, 0])


def test_gaps_are_held_but_not_for_long_and_targets_are_measured(weather):
  weather["A"]["temperature"][100:103] = np.nan  # short
  weather["A"]["pressure"][200:230] = np.nan  # long
  data = RECIPE.build()
  part = whole(data, "train")
  own = part["inputs"][..., 0].max(axis=1) < 1000
  targets, inputs = part["targets"][own], part["inputs"][own]
  assert not np.isin(targets, [100, 101, 102]).any()
  over = inputs[np.argwhere(inputs[:, -1, 6] == 105)[0, 0], :, 0]  # [:, :, 6] is a quantity without gaps
  np.testing.assert_array_equal(over[-6:], [99, 99, 99, 103, 104, 105][-6:])
  ends = inputs[:, -1, 6]
  assert not np.isin(np.arange(200 + forecast.LONGEST_GAP, 230 + 9), ends).any()
  assert np.isin([200 + forecast.LONGEST_GAP - 1, 239], ends).all()
  assert np.isfinite(part["inputs"]).all()


def test_holding_uses_the_past_only():
  x = np.array([np.nan, 1, np.nan, np.nan, np.nan, 5, np.nan])[:, None]
  np.testing.assert_array_equal(held(x, 2)[:, 0], [np.nan, 1, 1, 1, np.nan, 5, 5])
  np.testing.assert_array_equal(held(x, 0)[:, 0], x[:, 0])


def test_inputs_are_scaled_over_the_training_hours_and_targets_can_be_scaled_back(weather):
  data = RECIPE.build()
  batch = data.batch(0, 0)
  prepared = data.spec.prepare(None, batch)
  np.testing.assert_array_equal(prepared["targets"], batch["targets"])
  hours = np.concatenate([np.arange(280), 1000 + np.arange(280)])
  expected = (batch["inputs"][..., 0] - hours.mean()) / hours.std()
  np.testing.assert_allclose(prepared["inputs"][..., 0], expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(data.spec.unscale(prepared["inputs"][..., 0]), batch["inputs"][..., 0], rtol=1e-4)


def test_the_quantity_that_is_forecast_comes_first(weather):
  weather["A"]["pressure"] += 0.5
  data = dataclasses.replace(RECIPE, target="pressure").build()
  part = whole(data, "test")
  assert set(np.unique(part["targets"] % 1)) == {0.0, 0.5}
  np.testing.assert_array_equal(part["targets"], part["inputs"][:, -1:, 0] + [2, 6])
  assert "pressure in hPa" in data.description


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"history": 0}, "--data.history=0"),
    ({"horizons": (6, 0)}, "--data.horizons=0"),
    ({"horizons": ()}, "--data.horizons=0"),
    ({"held_out": 1.0}, "--data.held_out=1.0 is"),
    ({"batch_size": 0}, "--data.batch_size=0"),
  ],
)
def test_a_number_that_fits_no_year_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    Weather(**fields)


def test_windows_longer_than_a_split_are_refused(weather):
  with pytest.raises(UserError, match="the split 'validation' has no window"):
    Weather(history=60).build()


@pytest.mark.data
def test_the_real_weather():
  stations = forecast.hourly_weather()
  assert list(stations) == ["EWR", "JFK", "LGA"]
  assert {len(values) for found in stations.values() for values in found.values()} == {8730}
  assert sum(np.sum(~np.isnan(found["temperature"])) for found in stations.values()) == 26_114
  assert np.nanmax(stations["EWR"]["wind_speed"]) < 60
  for found in stations.values():
    by_hour = [np.nanmean(found["temperature"][found["hour"] % 24 == hour]) for hour in range(24)]
    assert 18 <= np.argmax(by_hour) <= 21  # UTC: early afternoon in New York
  data = Weather().build()
  assert data.sizes == {"train": 17310, "validation": 3726, "test": 3367}
  assert np.isfinite(np.asarray(data.spec.prepare(None, data.batch(0, 0))["inputs"])).all()
