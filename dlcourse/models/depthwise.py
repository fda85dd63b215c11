"""Depthwise convolutions on a CPU, as sums of shifted images.

XLA's CPU backend runs a convolution with as many groups as channels (MobileNets, EfficientNets) on a generic
path, 20 times slower than memory allows. With one multiplication for each kernel element and channel there is
nothing to gain from a matrix product: shifting, scaling and adding whole images is as fast as reading them.

Shapes: B batch, H x W image, C channels, K x L kernel, N x M output.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

Pair = tuple[int, int]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(lhs: Array, rhs: Array, strides: Pair, padding: Sequence[Pair]) -> Array:
  """Convolves each channel with a kernel of its own.

  Args:
    lhs: [B, H, W, C].
    rhs: [K, L, 1, C].
    strides: of the output, per axis.
    padding: zeros (before, after) per axis, as a tuple of tuples.

  Returns:
    [B, N, M, C].
  """
  kernel_height, kernel_width = rhs.shape[:2]
  padded = _padded(lhs, padding)
  rows = _outputs(padded.shape[1], kernel_height, strides[0])
  columns = _outputs(padded.shape[2], kernel_width, strides[1])
  total = jnp.zeros((), lhs.dtype)
  for k in range(kernel_height):
    for l in range(kernel_width):
      total += _strided(_strided(padded, k, rows, strides[0], 1), l, columns, strides[1], 2) * rhs[k, l, 0]
  return total


def _forward(
  lhs: Array, rhs: Array, strides: Pair, padding: Sequence[Pair]
) -> tuple[Array, tuple[Array, Array]]:
  return depthwise(lhs, rhs, strides, padding), (lhs, rhs)


def _backward(
  strides: Pair, padding: Sequence[Pair], residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
  lhs, rhs = residuals
  return (
    _input_gradient(gradient, rhs, lhs.shape[1:3], strides, padding),
    _kernel_gradient(lhs, gradient, rhs.shape[:2], strides, padding),
  )


depthwise.defvjp(_forward, _backward)


def _input_gradient(
  gradient: Array, rhs: Array, size: Sequence[int], strides: Pair, padding: Sequence[Pair]
) -> Array:
  """The output gradient, spread out by the strides, convolved with the kernel turned around."""
  edges = []
  for extent, kernel, stride, outputs, (low, _) in zip(
    size, rhs.shape[:2], strides, gradient.shape[1:3], padding, strict=True
  ):
    before = kernel - 1 - low
    after = extent + kernel - 1 - before - ((outputs - 1) * stride + 1)
    edges.append((before, after, stride - 1))
  spread = _padded(gradient, edges)
  return depthwise(spread, rhs[::-1, ::-1], (1, 1), ((0, 0), (0, 0)))


def _kernel_gradient(
  lhs: Array, gradient: Array, kernel: Sequence[int], strides: Pair, padding: Sequence[Pair]
) -> Array:
  """Products of inputs and output gradients, summed row by row.

  XLA reads both images again for each element of the kernel; a loop over rows leaves them in the cache
  (3 times as fast), and does not cut the batch, which may be spread over devices.
  """
  padded = _padded(lhs, padding)
  batch, rows, columns, channels = gradient.shape
  kernel_height, kernel_width = kernel

  def add_row(sums, n):
    above = lax.dynamic_slice_in_dim(padded, n * strides[0], kernel_height, axis=1)
    row = lax.dynamic_index_in_dim(gradient, n, axis=1, keepdims=False)
    sums = [
      [sums[k][l] + _strided(above[:, k], l, columns, strides[1], 1) * row for l in range(kernel_width)]
      for k in range(kernel_height)
    ]
    return sums, None

  zeros = jnp.zeros((batch, columns, channels), gradient.dtype)
  sums, _ = lax.scan(add_row, [[zeros] * kernel_width for _ in range(kernel_height)], jnp.arange(rows))
  return jnp.stack([jnp.stack([part.sum((0, 1)) for part in line]) for line in sums])[:, :, None]


def _padded(x: Array, edges: Sequence[Sequence[int]]) -> Array:
  """Zeros before, after and (where a third number says so) between the rows and columns; negative ones crop."""
  between = [(*edge, 0)[:3] for edge in edges]
  return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *between, (0, 0, 0)])


def _strided(x: Array, start: int, count: int, stride: int, axis: int) -> Array:
  """`count` elements of an axis from `start`, `stride` apart."""
  return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)


def _outputs(extent: int, kernel: int, stride: int) -> int:
  return (extent - kernel) // stride + 1
