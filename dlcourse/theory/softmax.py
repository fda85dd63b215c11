"""Softmax: from any numbers to probabilities (H2.10.2.8)."""

import numpy as np
from numpy.typing import ArrayLike


def softmax(logits: ArrayLike) -> np.ndarray:
  """exp(z_i) / Σ exp(z_j) over the last axis (H2.10.2.8).

  The handbook's example, z = (5, 2, -1), gives 95.03, 4.73 and 0.24 %. It prints 0.3 % for the last, an error
  of rounding twice: exp(-1) = 0.37 as 0.4, and 0.4 / 156.2 = 0.256 % as 0.3 %. Its other numbers are right.

  Args:
    logits: [..., K].

  Returns:
    [..., K], each row summing to 1.
  """
  logits = np.asarray(logits, np.float64)
  # The largest is taken off first: it cancels in the quotient, and exp(1000) would overflow.
  powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)
