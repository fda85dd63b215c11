"""Translation: what convolution does to a shifted image, as a number that is exactly 0 (H2.2).

H2.2 asks for invariance, a cat is a cat anywhere. A convolution gives equivariance: where the image moves by
some pixels, so do its maps, conv(shift(x)) == shift(conv(x)). A global maximum over such maps is invariant.
On a finite image this holds to the last bit where the image closes in a ring (circular padding); a frame of
zeros breaks it at the border.

Shapes: H, W image sides, C channels, H', W', F the same after the operation.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def shift(image: ArrayLike, rows: int, columns: int) -> np.ndarray:
  """Moves [H, W, C] down and to the right; what leaves on one side enters on the other."""
  return np.roll(image, (rows, columns), axis=(0, 1))


def equivariance_gap(
  operation: Callable[[np.ndarray], np.ndarray], image: ArrayLike, rows: int, columns: int, stride: int = 1
) -> float:
  """max |operation(shift(x)) - shift(operation(x))|: 0 where the operation moves with its image (H2.2).

  An operation of stride s moves its output by 1 where the image moves by s, if s divides H and W; it says
  nothing about shifts in between, which is why strided networks are not equivariant to every shift.

  Args:
    operation: [H, W, C] -> [H', W', F].
    image: [H, W, C].
    rows, columns: the shift of the output; that of the image is `stride` times as large.
    stride: pixels of the image to one of the output.
  """
  image = np.asarray(image)
  moved = operation(shift(image, rows * stride, columns * stride))
  gap = np.subtract(moved, shift(operation(image), rows, columns), dtype=np.float64)
  return float(np.max(np.abs(gap)))
