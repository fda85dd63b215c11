"""An invisible mark in generated images, which says later that they were generated (H4.10.3).

Quantisation index modulation (Chen & Wornell, 2001, IEEE Trans. Inf. Theory 47(4)) of the low
frequencies of 8x8 blocks of luma, those that JPEG keeps best. It is bound to the grid of blocks: a picture that
was cropped, turned or resized has lost it.
Shapes: N images, K blocks of an image, F frequencies, M bits.
"""

from typing import NamedTuple

import numpy as np
import scipy.fft

from dlcourse.data.scaling import LUMA
from dlcourse.errors import UserError

STEP = 24.0
PAYLOAD = np.unpackbits(np.frombuffer(b"dl", np.uint8))  # 16 bits, of `sample --watermark`
_SIDE = 8  # of a block, that of JPEG
_LUMA = {1: (1.0,), 3: LUMA}
# Row and column of the coefficients whose step in JPEG's table of quality 75 is 8 or less; not of the mean,
# which black and white blocks need free to make room for the others.
_FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2), (0, 3), (3, 0))
_ROUNDS = 50  # of embedding and clipping


class _Layout(NamedTuple):
  """The bit of each coefficient, one-hot [K * F, M], and whether it points the other way there, ±1 [K * F]."""

  bits: np.ndarray
  signs: np.ndarray


def embed(images: np.ndarray, bits: np.ndarray, strength: float = STEP, key: int = 0) -> np.ndarray:
  """Writes the same bits into every image, each many times.

  A coefficient c says 1 where sin(2πc / strength) is 1, and 0 where it is -1 (or the other way round, by the
  key), and is moved to the nearest such value. Where pixels are black or white that is clipped: moving and
  clipping take turns (projections onto convex sets), which shifts the mean of such a block until there is room.

  Args:
    images: uint8 [N, H, W, C], grey or RGB; rows and columns beyond the last whole block stay as they are.
    bits: 0 or 1, [M].
    strength: step of the quantiser, in grey levels of an orthonormal DCT; `read` has to know it.
    key: of the places; `read` has to know it.

  Returns:
    uint8 [N, H, W, C].

  Raises:
    UserError: the images are too small for so many bits, or neither grey nor RGB.
  """
  blocks, basis, luma = _blocks(images), _basis(), _luma(images)
  layout = _layout(blocks.shape[1], len(bits), key)
  sides = layout.signs * (layout.bits @ (2.0 * np.asarray(bits) - 1.0))
  quarters = sides.reshape(-1, len(_FREQUENCIES)) / 4  # [K, F]
  target = strength * (np.round(blocks @ luma @ basis / strength - quarters) + quarters)  # [N, K, F]
  for _ in range(_ROUNDS):
    missing = target - blocks @ luma @ basis
    blocks = np.clip(blocks + (missing @ basis.T)[..., None], 0, 255)
  return _with_blocks(images, np.round(blocks).astype(np.uint8))


def read(images: np.ndarray, count: int, strength: float = STEP, key: int = 0) -> np.ndarray:
  """The bits in each image, by a vote of their places; the original is not needed.

  A coefficient that is 0, as all of a block without contrast are, has no vote.

  Args:
    images: uint8 [N, H, W, C].
    count: M, how many bits were embedded.
    strength: with which they were.
    key: likewise.

  Returns:
    0 or 1, int [N, M].

  Raises:
    UserError: see `embed`.
  """
  blocks = _blocks(images)
  layout = _layout(blocks.shape[1], count, key)
  found = blocks @ _luma(images) @ _basis()
  votes = np.sin(2 * np.pi * found / strength).reshape(len(images), -1) * layout.signs
  return (votes @ layout.bits > 0).astype(int)


def _layout(blocks: int, count: int, key: int) -> _Layout:
  places = blocks * len(_FREQUENCIES)
  if not 0 < count <= places:
    raise UserError(f"a mark of {count} bits does not fit; images of this size have room for 1 to {places}")
  rng = np.random.default_rng(key)
  return _Layout(np.eye(count)[rng.permutation(places) % count], rng.choice([-1.0, 1.0], places))


def _basis() -> np.ndarray:
  """The frequencies as patterns of pixels, [64, F], orthonormal."""
  patterns = np.zeros((len(_FREQUENCIES), _SIDE, _SIDE))
  for pattern, place in zip(patterns, _FREQUENCIES, strict=True):
    pattern[place] = 1
  return scipy.fft.idctn(patterns, axes=(1, 2), norm="ortho").reshape(len(patterns), -1).T


def _luma(images: np.ndarray) -> np.ndarray:
  if images.shape[-1] not in _LUMA:
    raise UserError(f"a mark is for grey or RGB images; these have {images.shape[-1]} channels")
  return np.array(_LUMA[images.shape[-1]])


def _blocks(images: np.ndarray) -> np.ndarray:
  """[N, H, W, C] -> [N, K, 64, C], without what is beyond the last whole block."""
  count, height, width, channels = images.shape
  down, across = height // _SIDE, width // _SIDE
  whole = images[:, : down * _SIDE, : across * _SIDE].reshape(count, down, _SIDE, across, _SIDE, channels)
  return whole.swapaxes(2, 3).reshape(count, down * across, _SIDE**2, channels)


def _with_blocks(images: np.ndarray, blocks: np.ndarray) -> np.ndarray:
  """The inverse of `_blocks`; what is beyond the blocks is that of the images."""
  count, height, width, channels = images.shape
  down, across = height // _SIDE, width // _SIDE
  whole = blocks.reshape(count, down, across, _SIDE, _SIDE, channels).swapaxes(2, 3)
  made = images.copy()
  made[:, : down * _SIDE, : across * _SIDE] = whole.reshape(count, down * _SIDE, across * _SIDE, channels)
  return made
