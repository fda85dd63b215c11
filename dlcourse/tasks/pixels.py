"""What tasks make of the pixels of a batch before they learn from them."""

from typing import Literal

import jax

Binarise = Literal["none", "threshold", "sample"]


def binarised(pixels: jax.Array, how: Binarise, key: jax.Array | None) -> jax.Array:
  """Pixels as 0 or 1: by 0.5, or at random, grey being the probability of 1 (Salakhutdinov & Murray, 2008).

  Args:
    pixels: in [0, 1].
    how: see there; "none" leaves them as they are.
    key: of this step; None, at evaluation: the same draw each time, so that an image stays the same.
  """
  if how == "threshold":
    return (pixels > 0.5).astype(pixels.dtype)
  if how == "sample":
    key = jax.random.key(0) if key is None else jax.random.fold_in(key, 2)
    return jax.random.bernoulli(key, pixels).astype(pixels.dtype)
  return pixels
