"""Max pooling as the largest of shifted images.

XLA's CPU backend scatters the gradient of a pooling window by window, 10 to 18 times slower than choosing
between neighbours, first among columns and then among rows. (On accelerators Flax's own is taken.)
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from dlcourse import platform

Pair = tuple[int, int]


def max_pool(x: Array, window: Pair, strides: Pair = (1, 1), padding: str | Sequence[Pair] = "VALID") -> Array:
  """The largest value of each window, as `flax.linen.max_pool`; of equal ones the first gets the gradient.

  Args:
    x: [B, H, W, C].
    window: height and width.
    strides: per axis.
    padding: "SAME", "VALID" or (before, after) per axis.
  """
  if not platform.own_gradients():
    return nn.max_pool(x, window, strides, padding)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
  for axis in (2, 1):  # columns lie closer together
    x = _along(x, axis, window[axis - 1], strides[axis - 1], padding[axis - 1])
  return x


def _along(x: Array, axis: int, window: int, stride: int, padding: Pair) -> Array:
  edges = [(0, 0, 0)] * x.ndim
  edges[axis] = (*padding, 0)
  x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), edges)
  count = (x.shape[axis] - window) // stride + 1
  largest = None
  for start in range(window):
    shifted = lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)
    largest = shifted if largest is None else _first_largest(largest, shifted)
  return largest


def _first_largest(a: Array, b: Array) -> Array:
  return jnp.where((a >= b) | jnp.isnan(a), a, b)  # a NaN is not lost, as in any other maximum
