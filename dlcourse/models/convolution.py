"""Convolutions whose gradients, of any order, are again plain NHWC convolutions.

JAX derives the gradients of a convolution as convolutions with permuted dimension numbers. XLA's
CPU backend runs those on a slow generic path inside `lax.scan`, and the weight gradient of a
transposed convolution slowly everywhere. Here forward pass, input gradient and weight gradient are
one function with other arguments, so each stays on the fast path. A kernel that covers its input
exactly is a matrix product, gradients included.

Along one axis, input element i, kernel element k and output element n meet where

    lhs_dilation · i + padding = stride · n + rhs_dilation · k

An equation in which each of the three can take each place: solved for n it is the forward pass, for
i the input gradient, for k the weight gradient.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax import Array, lax

from dlcourse import platform
from dlcourse.models.depthwise import depthwise as convolve_depthwise

Pair = tuple[int, int]
Padding = Literal["SAME", "VALID"] | Sequence[Pair]

_NHWC = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
  lhs: Array,
  rhs: Array,
  window_strides: Sequence[int],
  padding: str | Sequence[Pair],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  batch_group_count: int = 1,
  precision: lax.PrecisionLike = None,
  **options: Any,
) -> Array:
  """`lax.conv_general_dilated`, with gradients that are fast on a CPU.

  Takes the same arguments. What is not a 2-D NHWC convolution with an HWIO kernel, ungrouped or depthwise,
  and everything where `platform.own_gradients()` is False, is left to JAX unchanged.

  Args:
    lhs: input, [batch, height, width, in].
    rhs: kernel, [kernel height, kernel width, in, out].
    window_strides: strides of the output, one per axis.
    padding: "SAME", "VALID" or (low, high) per axis.
    lhs_dilation: distance between neighbours of the input, one per axis.
    rhs_dilation: distance between neighbours of the kernel, one per axis.
    dimension_numbers: layout, as JAX takes it.
    feature_group_count: groups of the feature axis.
    batch_group_count: groups of the batch axis.
    precision: as JAX takes it.
    **options: further arguments of JAX's function; any that is set leaves the call to JAX.

  Returns:
    The convolution, [batch, out height, out width, out].
  """
  depthwise = _is_depthwise(lhs, rhs, feature_group_count, lhs_dilation, rhs_dilation)
  grouped = batch_group_count > 1 or (feature_group_count > 1 and not depthwise)
  plain = not grouped and all(value is None for value in options.values())
  if not (plain and _is_nhwc(lhs, rhs, dimension_numbers) and platform.own_gradients()):
    return lax.conv_general_dilated(
      lhs,
      rhs,
      window_strides,
      padding,
      lhs_dilation,
      rhs_dilation,
      dimension_numbers,
      feature_group_count,
      batch_group_count,
      precision,
      **options,
    )
  geometry = _Geometry(
    window_strides=tuple(window_strides),
    lhs_dilation=tuple(lhs_dilation or (1, 1)),
    rhs_dilation=tuple(rhs_dilation or (1, 1)),
  )
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      _extents(lhs.shape[1:3], geometry.lhs_dilation),
      _extents(rhs.shape[:2], geometry.rhs_dilation),
      geometry.window_strides,
      padding,
    )
  padding = tuple((low, high) for low, high in padding)
  if depthwise:
    return convolve_depthwise(lhs, rhs, geometry.window_strides, padding)
  if rhs.shape[:2] == (1, 1) and geometry == _DENSE._replace(window_strides=geometry.window_strides):
    return _mix_channels(lhs, rhs, geometry.window_strides, padding, precision)
  if _is_product(lhs, rhs, geometry, padding):
    return jnp.einsum("nhwi,hwio->no", lhs, rhs, precision=precision)[:, None, None]
  columns = _columns_to_fold(rhs.shape, geometry)
  if columns > 1:
    return _convolve_folded(lhs, rhs, columns, padding, precision)
  return _convolve(lhs, rhs, geometry, padding, precision)


class Conv(nn.Conv):
  """`flax.linen.Conv` through `conv_general_dilated` of this module; parameters are the same.

  It knows one more word of padding: "AROUND" pads (k - 1) / 2 zeros on every side, whatever the stride, where
  "SAME" pads a strided convolution more at the end than at the start, so that the two differ by a pixel.
  """

  conv_general_dilated: Any = conv_general_dilated

  def __post_init__(self) -> None:
    """Puts numbers in place of "AROUND"."""
    if self.padding == "AROUND":
      self.padding = tuple(((size - 1) // 2, (size - 1) // 2) for size in self.kernel_size)
    super().__post_init__()


class ConvTranspose(nn.Module):
  """2-D transposed convolution; parameters and values are those of `flax.linen.ConvTranspose`.

  (Only explicit padding is read differently, see `padding`.)

  Attributes:
    features: channels of the output.
    kernel_size: height and width of the kernel.
    strides: by how much the output is larger than the input, per axis.
    padding: "SAME" (output = stride · input), "VALID" (all positions the kernel reaches), or
      (low, high) per axis: what is cut off each end of the full output, of size
      (input - 1) · stride + kernel, as in PyTorch's `ConvTranspose2d(padding=...)`. DCGAN's 4x4
      kernel with stride 2 and padding 1 is ((1, 1), (1, 1)), which equals "SAME".
    use_bias: whether a bias is added.
    dtype: type of the computation; None takes it from inputs and parameters.
    param_dtype: type of the parameters.
    kernel_init: initializer of `kernel`, [kernel height, kernel width, in, out]; the kernel is not
      flipped: PyTorch's is this one with both spatial axes reversed.
    bias_init: initializer of `bias`, [out].
  """

  features: int
  kernel_size: Pair
  strides: Pair = (1, 1)
  padding: Padding = "SAME"
  use_bias: bool = True
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: Initializer = nn.initializers.lecun_normal()
  bias_init: Initializer = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [batch, height, width, in] to [batch, out height, out width, features].

    Raises:
      ValueError: the input has not four axes, or `padding` is an unknown word.
    """
    if x.ndim != 4:
      raise ValueError(f"expected [batch, height, width, channels], got shape {x.shape}")
    shape = (*self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    bias = None
    if self.use_bias:
      bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    y = conv_general_dilated(
      x,
      kernel,
      window_strides=(1, 1),
      padding=_transpose_padding(self.kernel_size, self.strides, self.padding),
      lhs_dilation=self.strides,
      dimension_numbers=_NHWC,
    )
    return y if bias is None else y + bias


class _Geometry(NamedTuple):
  """The three factors of the module's equation, per axis, under the names of their arguments."""

  window_strides: Pair
  lhs_dilation: Pair
  rhs_dilation: Pair


_DENSE = _Geometry((1, 1), (1, 1), (1, 1))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(lhs: Array, rhs: Array, geometry: _Geometry, padding: tuple[Pair, ...], precision: Any) -> Array:
  return lax.conv_general_dilated(
    lhs, rhs, padding=padding, dimension_numbers=_NHWC, precision=precision, **geometry._asdict()
  )


def _convolve_forward(
  lhs: Array, rhs: Array, geometry: _Geometry, padding: tuple[Pair, ...], precision: Any
) -> tuple[Array, tuple[Array, Array]]:
  return _convolve(lhs, rhs, geometry, padding, precision), (lhs, rhs)


def _convolve_backward(
  geometry: _Geometry,
  padding: tuple[Pair, ...],
  precision: Any,
  residuals: tuple[Array, Array],
  gradient: Array,
) -> tuple[Array, Array]:
  lhs, rhs = residuals
  stride, lhs_gap, rhs_gap = geometry
  low = [pad[0] for pad in padding]
  kernel = _extents(rhs.shape[:2], rhs_gap)
  flipped_low = [size - 1 - pad for size, pad in zip(kernel, low, strict=True)]

  if geometry == _DENSE and rhs.shape[2] <= 12:
    d_lhs = _scatter_patches(lhs.shape[1:3], gradient, rhs, low, precision)
  else:
    d_lhs = _convolve_onto(
      lhs.shape[1:3],
      gradient,
      rhs[::-1, ::-1].transpose(0, 1, 3, 2),
      _Geometry(window_strides=lhs_gap, lhs_dilation=stride, rhs_dilation=rhs_gap),
      flipped_low,
      precision,
    )
  # Input and output gradient can change places in the weight gradient. The one with gaps should be
  # the kernel: XLA skips the gaps of a kernel and fills those of an input with zeros.
  if max(lhs_gap) > max(stride):
    flipped = _convolve_onto(
      rhs.shape[:2],
      gradient.transpose(3, 1, 2, 0),
      lhs.transpose(1, 2, 0, 3),
      _Geometry(window_strides=rhs_gap, lhs_dilation=stride, rhs_dilation=lhs_gap),
      flipped_low,
      precision,
    )
    return d_lhs, flipped[:, ::-1, ::-1].transpose(1, 2, 3, 0)
  d_rhs = _convolve_onto(
    rhs.shape[:2],
    lhs.transpose(3, 1, 2, 0),
    gradient.transpose(1, 2, 0, 3),
    _Geometry(window_strides=rhs_gap, lhs_dilation=lhs_gap, rhs_dilation=stride),
    low,
    precision,
  )
  return d_lhs, d_rhs.transpose(1, 2, 0, 3)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _mix_channels(lhs: Array, rhs: Array, strides: Pair, padding: tuple[Pair, ...], precision: Any) -> Array:
  """A convolution by a kernel of one pixel, which is one matrix product, and so are its gradients."""
  if any(pad for axis in padding for pad in axis):
    lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), [(0, 0, 0), *((*axis, 0) for axis in padding), (0, 0, 0)])
  lhs = lhs[:, :: strides[0], :: strides[1]]
  pixels = lhs.reshape(-1, lhs.shape[-1])  # as a product of more axes XLA would transpose them first
  return jnp.matmul(pixels, rhs[0, 0], precision=precision).reshape(*lhs.shape[:3], rhs.shape[-1])


def _scatter_patches(
  size: Sequence[int], gradient: Array, rhs: Array, low: Sequence[int], precision: Any
) -> Array:
  """The input gradient of a dense convolution as one matrix product, scattered patch by patch.

  For inputs of few channels: as a convolution it would have few output channels, which XLA's CPU backend
  is slow at (an image of 3 channels, 3x3 kernels, 64 maps: 25 ms, this way 4 ms).
  """
  patches = jnp.einsum("nhwo,klio->klnhwi", gradient, rhs, precision=precision)
  offsets = itertools.product(range(rhs.shape[0]), range(rhs.shape[1]))
  total = jnp.zeros((), gradient.dtype)
  for k, l in offsets:
    start = (k - low[0], l - low[1])
    edges = [(at, full - at - part, 0) for at, full, part in zip(start, size, gradient.shape[1:3], strict=True)]
    zero = jnp.zeros((), gradient.dtype)
    total = total + lax.pad(patches[k, l], zero, [(0, 0, 0), *edges, (0, 0, 0)])
  return total


def _columns_to_fold(kernel: Sequence[int], geometry: _Geometry) -> int:
  """How many neighbouring columns of an image to treat as channels: 1 where channels are many already."""
  if geometry != _DENSE or kernel[1] == 1:
    return 1
  _, _, inputs, outputs = kernel
  return next((n for n in (4, 2) if n * inputs <= 16 and n * outputs <= 32), 1)


def _convolve_folded(lhs: Array, rhs: Array, columns: int, padding: tuple[Pair, ...], precision: Any) -> Array:
  """A convolution of few channels as one of more channels and fewer columns; stride 1.

  XLA's CPU backend gathers the patches of an image channel by channel and multiplies them a vector of
  output channels at a time; with 1 channel in and 6 out (LeNet-5's C1) it does little else than gather.
  `columns` neighbouring output columns are computed at once, from a kernel that holds the given one
  once for each of them, shifted by a column.
  """
  batch, height, width, inputs = lhs.shape
  kernel_height, kernel_width, _, outputs = rhs.shape
  (top, bottom), (left, right) = padding
  out_width = width + left + right - kernel_width + 1
  blocks = -(-out_width // columns)  # of output columns
  reach = -(-(columns + kernel_width - 1) // columns)  # blocks of input that one of output sees
  total = (blocks + reach - 1) * columns
  lhs = jnp.pad(lhs, ((0, 0), (0, 0), (left, max(0, total - left - width)), (0, 0)))[:, :, :total]
  lhs = lhs.reshape(batch, height, blocks + reach - 1, columns * inputs)
  spare = reach * columns - kernel_width
  shifted = [jnp.pad(rhs, ((0, 0), (j, spare - j), (0, 0), (0, 0))) for j in range(columns)]
  rhs = jnp.stack(shifted, axis=3).reshape(kernel_height, reach, columns * inputs, columns * outputs)
  out = _convolve(lhs, rhs, _DENSE, ((top, bottom), (0, 0)), precision)
  return out.reshape(batch, out.shape[1], blocks * columns, outputs)[:, :, :out_width]


def _convolve_onto(
  size: Sequence[int],
  lhs: Array,
  rhs: Array,
  geometry: _Geometry,
  low: Sequence[int],
  precision: Any,
) -> Array:
  """Convolves with the high padding that makes the output exactly `size` (height, width)."""
  extents = zip(
    low,
    _extents(lhs.shape[1:3], geometry.lhs_dilation),
    _extents(rhs.shape[:2], geometry.rhs_dilation),
    _extents(size, geometry.window_strides),
    strict=True,
  )
  padding = tuple((pad, out - 1 + kernel - in_ - pad) for pad, in_, kernel, out in extents)
  return _convolve(lhs, rhs, geometry, padding, precision)


def _extents(sizes: Sequence[int], dilation: Sequence[int]) -> list[int]:
  """Sizes per axis with the gaps of a dilation counted."""
  return [max(0, (size - 1) * gap + 1) for size, gap in zip(sizes, dilation, strict=True)]


def _is_nhwc(lhs: Array, rhs: Array, dimension_numbers: Any) -> bool:
  if lhs.ndim != 4:
    return False
  return lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == lax.conv_dimension_numbers(
    lhs.shape, rhs.shape, _NHWC
  )


def _is_depthwise(lhs: Array, rhs: Array, groups: int, *dilations: Sequence[int] | None) -> bool:
  """Whether each channel has one kernel of its own, without gaps."""
  no_gaps = all(max(dilation or (1,)) == 1 for dilation in dilations)
  return groups > 1 and no_gaps and groups == lhs.shape[-1] == rhs.shape[-1] and rhs.ndim == 4


def _is_product(lhs: Array, rhs: Array, geometry: _Geometry, padding: tuple[Pair, ...]) -> bool:
  """Whether the kernel covers the input exactly, as in LeNet-5's C5: a matrix product is faster."""
  dense = geometry.lhs_dilation == geometry.rhs_dilation == (1, 1)
  return dense and lhs.shape[1:3] == rhs.shape[:2] and padding == ((0, 0), (0, 0))


def _transpose_padding(kernel_size: Pair, strides: Pair, padding: Padding) -> list[Pair]:
  """Padding of the dilated input of a transposed convolution, as `lax.conv_transpose` chooses it.

  Raises:
    ValueError: `padding` is a word other than "SAME" and "VALID".
  """
  if not isinstance(padding, str):
    return [(k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel_size, padding, strict=True)]
  if padding not in ("SAME", "VALID"):
    raise ValueError(f"padding must be 'SAME', 'VALID' or pairs, got {padding!r}")
  pads = []
  for k, s in zip(kernel_size, strides, strict=True):
    if padding == "VALID":
      pads.append((k - 1, max(k, s) - 1))
    else:
      low = k - 1 if s >= k else (k + s - 1) // 2
      pads.append((low, k + s - 2 - low))
  return pads
