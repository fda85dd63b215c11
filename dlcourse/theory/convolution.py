"""Convolution, pooling and flattening as loops over windows, in NumPy (H2.3-H2.6).

What ConvNets call a convolution is the cross-correlation of signal processing: the kernel is not flipped. H2.3
says that the name comes from signal processing, whose convolution takes the kernel with both axes reversed.
A trained layer cannot tell, for it would learn the reversed kernel.

Sums of products are taken in 64 bits, so that integers stay exact. The handbook's text has no matrices, which
are in its figures; it has their numbers of multiplications (`counts.multiplications`).

Shapes: H, W image sides, K kernel side, C channels, F filters, H', W' output sides, N elements.
"""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from dlcourse.theory import geometry

# Edge detectors: each sums to 0, so that a flat region answers 0. A vertical edge separates left from right.
VERTICAL = ((1, 0, -1), (1, 0, -1), (1, 0, -1))  # Prewitt (1970): bright left of dark is positive
HORIZONTAL = ((1, 1, 1), (0, 0, 0), (-1, -1, -1))  # bright above dark is positive
SOBEL_VERTICAL = ((1, 0, -1), (2, 0, -2), (1, 0, -1))  # Sobel & Feldman (1968): the middle row counts twice
SOBEL_HORIZONTAL = ((1, 2, 1), (0, 0, 0), (-1, -2, -1))
LAPLACIAN = ((0, 1, 0), (1, -4, 1), (0, 1, 0))  # an edge of any direction, also an isolated dot

Pooling = Literal["max", "avg"]


def windows(
  height: int, width: int, window: tuple[int, int], stride: int
) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
  """Slides a window over an image, row by row (H2.3).

  Args:
    height, width: H, W of the image, padding included.
    window: height and width of the window.
    stride: pixels it moves, to the right and down.

  Yields:
    ((row, column) of the output, the two slices of the image that belong to it).
  """
  rows, columns = (geometry.output_size(n, k, stride) for n, k in zip((height, width), window, strict=True))
  for row, column in np.ndindex(rows, columns):
    top, left = row * stride, column * stride
    yield (row, column), (slice(top, top + window[0]), slice(left, left + window[1]))


def pad(
  image: ArrayLike, kernel: tuple[int, int], stride: int = 1, padding: geometry.Padding = 0
) -> np.ndarray:
  """The image with a frame of zeros, or with its own other side where padding is "CIRCULAR" (H2.3).

  Args:
    image: [H, W, C].
    kernel: height and width of the kernel that will slide over it.
    stride: of that kernel.
    padding: of both axes (see `geometry.pads`).

  Returns:
    [H + before + after, W + before + after, C].

  Raises:
    ValueError: as `geometry.pads`.
  """
  image = np.asarray(image)
  frame = [geometry.pads(n, k, stride, padding) for n, k in zip(image.shape[:2], kernel, strict=True)]
  return np.pad(image, [*frame, (0, 0)], mode="wrap" if padding == "CIRCULAR" else "constant")


def convolve(
  image: ArrayLike, kernels: ArrayLike, stride: int = 1, padding: geometry.Padding = 0
) -> np.ndarray:
  """Several filters over a volume: at every position, the sum of the products (H2.4, H2.5).

  A filter spans all channels of the volume and answers with one map.

  Args:
    image: [H, W, C].
    kernels: [K, K, C, F].
    stride: pixels between two windows.
    padding: zeros at each side, or a word (see `geometry.pads`).

  Returns:
    [H', W', F].

  Raises:
    ValueError: as `geometry.output_shape`.
  """
  image, kernels = np.asarray(image), np.asarray(kernels)
  shape = geometry.output_shape(image.shape, kernels.shape, stride, padding)
  result = np.empty(shape, np.result_type(image, kernels, np.int64))
  kernels = kernels.astype(result.dtype)
  padded = pad(image, kernels.shape[:2], stride, padding)
  for position, window in windows(*padded.shape[:2], kernels.shape[:2], stride):
    patch = padded[window]  # [K, K, C]
    result[position] = np.sum(patch[..., np.newaxis] * kernels, axis=(0, 1, 2))  # [F]
  return result


def convolve_matrix(
  matrix: ArrayLike, kernel: ArrayLike, stride: int = 1, padding: geometry.Padding = 0
) -> np.ndarray:
  """One filter over a matrix (H2.3): `convolve` with one channel and one filter.

  Args:
    matrix: [H, W].
    kernel: [K, K].
    stride: pixels between two windows.
    padding: zeros at each side, or a word (see `geometry.pads`).

  Returns:
    [H', W'].

  Raises:
    ValueError: an argument is no matrix, or as `geometry.output_shape`.
  """
  matrix, kernel = np.asarray(matrix), np.asarray(kernel)
  if matrix.ndim != 2 or kernel.ndim != 2:
    raise ValueError(f"expected two matrices, got shapes {matrix.shape} and {kernel.shape}")
  return convolve(matrix[..., np.newaxis], kernel[..., np.newaxis, np.newaxis], stride, padding)[..., 0]


def relu(x: ArrayLike) -> np.ndarray:
  """max(x, 0), elementwise: [...] -> [...] (H2.6)."""
  return np.maximum(x, 0)


def convolution_layer(
  image: ArrayLike,
  kernels: ArrayLike,
  bias: ArrayLike,
  activation: Callable[[np.ndarray], np.ndarray] = relu,
  stride: int = 1,
  padding: geometry.Padding = 0,
) -> np.ndarray:
  """activation(convolution + bias): one number a filter is added before the activation (H2.6).

  Args:
    image: [H, W, C].
    kernels: [K, K, C, F].
    bias: [F].
    activation: elementwise, `relu` or `np.tanh`.
    stride: pixels between two windows.
    padding: zeros at each side, or a word (see `geometry.pads`).

  Returns:
    [H', W', F].

  Raises:
    ValueError: `bias` has not one number a filter, or as `geometry.output_shape`.
  """
  maps = convolve(image, kernels, stride, padding)
  bias = np.asarray(bias)
  if bias.shape != maps.shape[2:]:
    raise ValueError(f"expected a bias for each of {maps.shape[2]} filters, got shape {bias.shape}")
  return activation(maps + bias)


def pool(image: ArrayLike, window: int = 2, stride: int | None = None, kind: Pooling = "max") -> np.ndarray:
  """The largest or the average value of every window, channel by channel (H2.6).

  Args:
    image: [H, W, C].
    window: side of the window.
    stride: pixels between two windows; None: as many as the window has, so that none overlap.
    kind: "max" or "avg".

  Returns:
    [H', W', C].

  Raises:
    ValueError: the image has not three axes, `kind` is an unknown word, or as `geometry.pads`.
  """
  image = np.asarray(image)
  if image.ndim != 3:
    raise ValueError(f"expected an image of shape [H, W, C], got {image.shape}")
  if kind not in get_args(Pooling):
    raise ValueError(f"kind must be one of {', '.join(get_args(Pooling))}, got {kind!r}")
  stride = window if stride is None else stride
  summarise = np.max if kind == "max" else np.mean
  height, width = (geometry.output_size(n, window, stride) for n in image.shape[:2])
  values = [
    summarise(image[place], axis=(0, 1)) for _, place in windows(*image.shape[:2], (window, window), stride)
  ]
  return np.reshape(values, (height, width, image.shape[2]))


def flatten(maps: ArrayLike) -> np.ndarray:
  """All maps as one vector, [H, W, C] -> [N] with N = H·W·C, the input of the dense layers (H2.6).

  Row by row, the channels of a pixel side by side: element (row, column, channel) comes to place
  (row·W + column)·C + channel. PyTorch, with channels first, flattens in another order.
  """
  return np.ravel(maps)
