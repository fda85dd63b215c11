"""How the cost of a layer grows with the length of a sequence (H3.12.1, H3.12.5)."""

from collections.abc import Sequence

import numpy as np

from dlcourse.errors import unknown
from dlcourse.theory.recurrent_counts import GATES


def recurrent_products(cell: str, steps: int, width: int) -> int:
  """2 G d² T multiplications of a recurrent layer as wide as its input: linear in T (H3.12.1).

  Args:
    cell: a name in `recurrent_counts.GATES`.
    steps: T.
    width: d.

  Raises:
    UserError: there is no such cell.
  """
  if cell not in GATES:
    raise unknown("cell", cell, GATES)
  return 2 * GATES[cell] * width**2 * steps


def transformer_products(steps: int, width: int) -> tuple[int, int]:
  """12 d² T of a Transformer layer's six dense maps and 2 T² d of its scores and sums (H3.12.5).

  The two are equal at T = 6 d. Even the first alone is one and a half times the 8 d² T of an LSTM, so by this
  count a Transformer layer is never the cheaper one.

  Args:
    steps: T.
    width: d, a quarter of the width inside the MLP.

  Returns:
    Multiplications that grow with T, and those that grow with T².
  """
  return 12 * width**2 * steps, 2 * steps**2 * width


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
  """p of the power law cost = c size^p that is closest in logarithms: 1 linear, 2 quadratic."""
  slope, _ = np.polyfit(np.log(sizes), np.log(costs), 1)
  return float(slope)


def fitted_terms(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
  """a, b >= 0 of cost = a size + b size² with the least relative errors; both terms are equal at a / b."""
  from scipy.optimize import nnls  # 0.3 s

  sizes, costs = np.asarray(sizes, float), np.asarray(costs, float)
  (linear, quadratic), _ = nnls(np.stack([sizes, sizes**2], axis=1) / costs[:, None], np.ones(len(costs)))
  return float(linear), float(quadratic)


def crossing(sizes: Sequence[float], first: Sequence[float], second: Sequence[float]) -> float | None:
  """Where two costs are equal for the last time, between points by straight lines in logarithms.

  Args:
    sizes: increasing.
    first: a cost at each.
    second: another cost at each.

  Returns:
    A size, or None where one of them is the larger at all sizes.
  """
  ratio = np.log(first) - np.log(second)
  changes = np.flatnonzero((ratio[1:] > 0) != (ratio[:-1] > 0))
  if not len(changes):
    return None
  at = slice(changes[-1], changes[-1] + 2)
  (before, after), (low, high) = ratio[at], np.log(sizes)[at]
  return float(np.exp(low + (high - low) * before / (before - after)))
