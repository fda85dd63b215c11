"""The activation functions of H1.4.2: formula, derivative and the range that is measured."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import norm


class Activation(NamedTuple):
  """A function of one number and its derivative, each for arrays of any shape."""

  value: Callable[[np.ndarray], np.ndarray]
  slope: Callable[[np.ndarray], np.ndarray]


class Range(NamedTuple):
  """Least and largest value, as measured between two arguments, and where the least one is."""

  low: float
  high: float
  at_low: float


ACTIVATIONS = {
  "sigmoid": Activation(expit, lambda x: expit(x) * expit(-x)),
  "tanh": Activation(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
  "relu": Activation(lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0)),
  "leaky_relu": Activation(lambda x: np.maximum(0.01 * x, x), lambda x: np.where(x > 0, 1.0, 0.01)),
  "elu": Activation(
    lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), lambda x: np.exp(np.minimum(x, 0))
  ),
  "gelu": Activation(lambda x: x * norm.cdf(x), lambda x: norm.cdf(x) + x * norm.pdf(x)),
  "swish": Activation(lambda x: x * expit(x), lambda x: expit(x) * (1 + x * expit(-x))),
}
"""Those that act on each number alone; softmax is `theory.softmax`. Slope 0.01 and α = 1, as in H1.4.2."""


def value_range(name: str, reach: float = 30.0) -> Range:
  """The values that an activation takes between -reach and reach (H1.4.2).

  Args:
    name: of `ACTIVATIONS`.
    reach: how far from 0 arguments go.

  Returns:
    The range; its least value is found to about 1e-8.
  """
  value = ACTIVATIONS[name].value
  x = np.linspace(-reach, reach, 6001)
  lowest = x[np.argmin(value(x))]
  step = x[1] - x[0]
  fine = minimize_scalar(
    value,
    bounds=(max(lowest - step, -reach), min(lowest + step, reach)),
    method="bounded",
    options={"xatol": 1e-9},
  )
  low, at = min((float(value(lowest)), float(lowest)), (float(fine.fun), float(fine.x)))
  return Range(low, float(value(x).max()), at)


def largest_slope(name: str) -> float:
  """The steepest that an activation is between -30 and 30: what a gradient is at most multiplied by."""
  return float(np.abs(ACTIVATIONS[name].slope(np.linspace(-30, 30, 6001))).max())


def softmax_slopes(probabilities: ArrayLike) -> np.ndarray:
  """The Jacobian of a softmax, diag(p) - p pᵀ, from its outputs [K] -> [K, K]: 0 where one class has all."""
  p = np.asarray(probabilities, np.float64)
  return np.diag(p) - np.outer(p, p)
