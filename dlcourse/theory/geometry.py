"""How large the output of a convolution or pooling layer is, and how much of the image one output sees.

The handbook's formula is W' = (W - F + 2P) / S + 1 (H2.10.2.1) along one axis: W elements in, W' out, F side
of the kernel, P zeros added at each end, S stride. It names no rounding. Where S does not divide, the last
window would hang over the end and is left out: the division rounds down. H2.3 needs that for its 2x2 result at
stride 2, if the matrix is the 6x6 one of the example before.

Shapes: H, W image sides, K kernel side, C channels, F filters, H', W' output sides.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Literal, NamedTuple, get_args

Word = Literal["VALID", "SAME", "CIRCULAR"]
Padding = int | Word


def pads(size: int, kernel: int, stride: int = 1, padding: Padding = 0) -> tuple[int, int]:
  """How many elements padding adds before and after one axis (H2.3).

  Args:
    size: elements along the axis.
    kernel: elements of the kernel along it.
    stride: elements between two windows.
    padding: a number: as many at either end; "VALID": none; "SAME": so many that ceil(size / stride) outputs
      come out, an odd one after (TensorFlow's rule, and XLA's); "CIRCULAR": kernel - 1 in all, whatever the
      stride, an odd one after.

  Returns:
    (before, after).

  Raises:
    ValueError: a number is not whole or too small, `padding` is an unknown word, or the kernel does not fit.
  """
  _check_counts(size=size, kernel=kernel, stride=stride)
  before, after = _pads(size, kernel, stride, padding)
  if kernel > size + before + after:
    raise ValueError(f"a kernel of {kernel} does not fit into {size} elements padded by {before} + {after}")
  return before, after


def _check_counts(**counts: int) -> None:
  for name, count in counts.items():
    if not isinstance(count, Integral) or count < 1:
      raise ValueError(f"{name} has to be a whole number from 1, got {count!r}")


def _pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
  if padding == "VALID":
    return 0, 0
  if padding == "CIRCULAR":
    return (kernel - 1) // 2, kernel // 2
  if padding == "SAME":
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
  if not isinstance(padding, Integral) or padding < 0:
    words = ", ".join(get_args(Word))
    raise ValueError(f"padding has to be a whole number from 0 or one of {words}, got {padding!r}")
  return padding, padding


def output_size(size: int, kernel: int, stride: int = 1, padding: Padding = 0) -> int:
  """floor((W - F + 2P) / S) + 1 of a convolution or a pooling layer, along one axis (H2.10.2.1).

  LeNet-5: 32 -> 28 (C1) -> 14 (S2) -> 10 (C3) -> 5 (S4) -> 1 (C5). Where the handbook works out C3 it prints
  (14 - 5 + 0 / 1) + 1, which divides the 0 alone; its result, 10, is right because the stride is 1.

  Args:
    size: W, elements along the axis.
    kernel: F, side of the kernel or of the pooling window.
    stride: S.
    padding: P, or a word (see `pads`).

  Raises:
    ValueError: as `pads`.
  """
  return (size + sum(pads(size, kernel, stride, padding)) - kernel) // stride + 1


def output_shape(
  image: Sequence[int], kernels: Sequence[int], stride: int = 1, padding: Padding = 0
) -> tuple[int, int, int]:
  """The shape of several filters' answers to a volume: one map a filter (H2.4, H2.5).

  Args:
    image: (H, W, C).
    kernels: (K, K, C, F).
    stride: of both axes.
    padding: of both axes (see `pads`).

  Returns:
    (H', W', F).

  Raises:
    ValueError: the shapes have other lengths, their channels differ, or as `pads`.
  """
  if len(image) != 3 or len(kernels) != 4:
    raise ValueError(f"expected shapes [H, W, C] and [K, K, C, F], got {tuple(image)} and {tuple(kernels)}")
  if image[2] != kernels[2]:
    raise ValueError(f"the image has {image[2]} channels, the filters have {kernels[2]}")
  height, width = (output_size(image[i], kernels[i], stride, padding) for i in range(2))
  return height, width, kernels[3]


class ReceptiveField(NamedTuple):
  """What one output of a layer sees of the image, along one axis."""

  size: int
  """Pixels it depends on."""
  jump: int
  """Pixels between what two neighbouring outputs see."""


def receptive_field(layers: Sequence[tuple[int, int]]) -> list[ReceptiveField]:
  """r' = r + (k - 1) j and j' = j s, layer by layer from r = j = 1.

  Why deeper layers see larger structures (H2.2, which gives no formula; Araujo, Norris & Sim, 2019).
  LeNet-5's C5 sees 32 pixels, its whole image; two 3x3 layers see 5 pixels, three see 7 (VGG).

  Args:
    layers: (kernel, stride) of every convolution and pooling layer, the one next to the image first.

  Returns:
    One field a layer.

  Raises:
    ValueError: a kernel or a stride is not a whole number from 1.
  """
  fields = []
  size = jump = 1
  for kernel, stride in layers:
    _check_counts(kernel=kernel, stride=stride)
    size, jump = size + (kernel - 1) * jump, jump * stride
    fields.append(ReceptiveField(size, jump))
  return fields
