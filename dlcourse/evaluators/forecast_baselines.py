"""Forecasts that need no network: what a trained one has to beat (H3.7.4).

Shapes: N windows, T hours of the past, D inputs of which the first is forecast, K horizons.
"""

import dataclasses
from collections.abc import Mapping

import chex
import jax
import numpy as np

from dlcourse.data.batches import unbatched
from dlcourse.data.recipe import Data
from dlcourse.errors import UserError
from dlcourse.evaluators import Evaluator, Report

STRENGTHS = tuple(10.0**power for power in range(-1, 6))  # of the ridge, chosen on the validation split


def persistence(inputs: np.ndarray, horizons: np.ndarray) -> np.ndarray:
  """[N, K]: the last value stays. Inputs [N, T, D], horizons [K] in steps."""
  chex.assert_rank((inputs, horizons), (3, 1))
  return np.repeat(inputs[:, -1, :1], len(horizons), axis=1)


def seasonal_naive(inputs: np.ndarray, horizons: np.ndarray, period: int = 24) -> np.ndarray:
  """The last value known of the same hour (Hyndman & Athanasopoulos, 2021, section 5.2).

  Args:
    inputs: [N, T, D].
    horizons: [K], in steps.
    period: steps after which things repeat.

  Returns:
    [N, K].

  Raises:
    UserError: the windows are too short to hold that hour.
  """
  chex.assert_rank((inputs, horizons), (3, 1))
  back = -(-horizons // period) * period - horizons  # steps before the last one
  if back.max() >= inputs.shape[1]:
    raise UserError(
      f"--data.history={inputs.shape[1]} is too short for the same hour of the day before; "
      f"{back.max() + 1} hours are needed"
    )
  return inputs[:, inputs.shape[1] - 1 - back, 0]


def ridge(
  inputs: np.ndarray, targets: np.ndarray, asked: np.ndarray, strengths: tuple[float, ...]
) -> dict[float, np.ndarray]:
  """Linear autoregression on the whole window, in closed form: W = (XᵀX + λI)⁻¹ XᵀY, the intercept apart.

  What is regressed is the change since the last step, on standardised inputs, so that λ → ∞ is persistence with
  the mean change.

  Args:
    inputs: [N, T, D] to learn from.
    targets: [N, K].
    asked: [M, T, D].
    strengths: values of λ.

  Returns:
    λ -> forecasts [M, K].
  """
  chex.assert_rank((inputs, targets, asked), (3, 2, 3))
  flat, asked_flat = (x.reshape(len(x), -1).astype(np.float64) for x in (inputs, asked))
  mean, deviation = flat.mean(axis=0), np.maximum(flat.std(axis=0), 1e-6)
  x, z = (flat - mean) / deviation, (asked_flat - mean) / deviation
  change = targets - inputs[:, -1, :1].astype(np.float64)
  values, vectors = np.linalg.eigh(x.T @ x)  # once, for every λ
  projected = vectors.T @ (x.T @ (change - change.mean(axis=0)))
  rotated, base = z @ vectors, asked[:, -1, :1] + change.mean(axis=0)
  return {strength: base + rotated @ (projected / (values + strength)[:, None]) for strength in strengths}


def errors(forecasts: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
  """Root mean square error and mean absolute error of each horizon: [N, K] twice -> "rmse", "mae" [K]."""
  chex.assert_equal_shape((forecasts, targets))
  wrong = forecasts.astype(np.float64) - targets
  return {"rmse": np.sqrt(np.mean(wrong**2, axis=0)), "mae": np.mean(np.abs(wrong), axis=0)}


def windows(data: Data, split: str) -> dict[str, np.ndarray]:
  """Inputs [N, T, D], horizons [K] and targets [N, K] of a split, as measured and without padding.

  Raises:
    UserError: the data is no forecast.
  """
  if not {"inputs", "horizons", "targets"} <= set(data.spec.batch):
    raise UserError("ForecastBaselines needs windows with horizons, such as those of Weather")
  found = unbatched(data.eval_batches(split), ("inputs", "targets", "horizons"))
  return found | {"horizons": found["horizons"][0]}


def baselines(data: Data) -> dict[str, np.ndarray]:
  """Baseline -> its forecasts [N, K] of the test split; λ of the ridge is the best on the validation split."""
  train, validation, test = (windows(data, split) for split in ("train", "validation", "test"))
  asked = np.concatenate([validation["inputs"], test["inputs"]])
  fitted = ridge(train["inputs"], train["targets"], asked, STRENGTHS)
  count = len(validation["targets"])
  best = min(fitted, key=lambda λ: errors(fitted[λ][:count], validation["targets"])["rmse"].mean())
  return {
    "persistence": persistence(test["inputs"], test["horizons"]),
    "seasonal naive": seasonal_naive(test["inputs"], test["horizons"]),
    "ridge autoregression": fitted[best][count:],
  }


@dataclasses.dataclass(frozen=True)
class ForecastBaselines(Evaluator):
  """Persistence, seasonal naive and ridge autoregression on the same test windows as the network."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars "rmse_NAME_HOURSh" and a table "baselines", in the unit of the data.

    Raises:
      UserError: the data is no forecast.
    """
    del task, state, key
    test = windows(data, "test")
    rows = [
      row
      for name, forecasts in baselines(data).items()
      for row in _rows(name, errors(forecasts, test["targets"]), test["horizons"])
    ]
    scalars = {f"rmse_{row['forecast'].replace(' ', '_')}_{row['hours']}h": row["rmse"] for row in rows}
    return Report(scalars, {"baselines": rows})


def _rows(name: str, measured: Mapping[str, np.ndarray], horizons: np.ndarray) -> list[dict]:
  return [
    {"forecast": name, "hours": int(hours), **{kind: float(value[k]) for kind, value in measured.items()}}
    for k, hours in enumerate(horizons)
  ]
