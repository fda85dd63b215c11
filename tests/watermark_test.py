"""A mark is read again from real images, grey and in colour, also where clipping and JPEG work against it."""

import numpy as np
import pytest
import scipy.fft
from sklearn.datasets import load_digits, load_sample_image

from dlcourse.data.image_sources import load_images
from dlcourse.errors import UserError
from dlcourse.evaluators.watermark import jpeg
from dlcourse.theory.image_similarity import psnr
from dlcourse.watermark import PAYLOAD, STEP, embed, read

DIGITS = np.minimum(load_digits().images[:100, ..., None] * 16, 255).astype(np.uint8).repeat(4, 1).repeat(4, 2)
BITS = np.random.default_rng(1).integers(0, 2, 16)


def photos():
  """Pieces of two photographs, [180, 32, 32, 3]."""
  whole = [load_sample_image(name)[:416:2, :640:2] for name in ("china.jpg", "flower.jpg")]
  return np.concatenate(
    [x[:192].reshape(6, 32, 10, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3) for x in whole]
  )


def shares(images, bits=BITS):
  """Shares of right bits: as they are, and after JPEG 75; mean PSNR."""
  marked = embed(images, bits)
  right = [(read(x, len(bits)) == bits).mean() for x in (marked, jpeg(marked, 75))]
  return *right, psnr(marked, images, 255).mean()


@pytest.mark.parametrize("images", [DIGITS, photos()], ids=["digits", "photographs"])
def test_it_is_read_again_and_after_jpeg(images):
  plain, compressed, decibels = shares(images)
  assert plain >= 0.99
  assert compressed >= 0.99  # the issue asks for 0.9
  assert decibels > 35


def test_black_and_white_images_leave_room_for_it():
  black_and_white = np.where(DIGITS > 127, 255, 0).astype(np.uint8)[:, :28, 2:30]
  plain, compressed, decibels = shares(black_and_white)
  assert plain >= 0.99
  assert compressed >= 0.9
  assert decibels > 33
  for value in (0, 255):
    assert shares(np.full((1, 28, 28, 1), value, np.uint8))[:2] == (1, 1)


@pytest.mark.data
@pytest.mark.parametrize("side", [28, 32])
def test_mnist_of_either_size_keeps_it(side):
  images = load_images("mnist_5k", 28).splits["all"]["image"][::25]
  margin = (side - 28) // 2
  plain, compressed, _ = shares(np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0))))
  assert plain >= 0.99
  assert compressed >= 0.9


def test_without_clipping_the_coefficients_lie_where_the_formula_says_and_nothing_else_moves():
  image = np.random.default_rng(0).integers(100, 156, (1, 8, 8, 1)).astype(np.uint8)
  before, after = (
    scipy.fft.dctn(x[0, ..., 0].astype(float), norm="ortho") for x in (image, embed(image, [1, 0]))
  )
  moved = np.abs(after - before) > 2  # more than rounding does
  assert moved.sum() <= 10
  assert not moved[0, 0]
  assert np.abs(after - before).max() <= STEP / 2 + 2
  low = [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2), (0, 3), (3, 0)]
  extreme = np.abs(np.sin(2 * np.pi * np.array([after[place] for place in low]) / STEP))
  assert extreme.min() > np.cos(2 * np.pi * 2 / STEP)


def test_rows_beyond_the_last_block_stay_as_they_are():
  images = DIGITS[:20, :28, :30]
  marked = embed(images, BITS)
  assert marked.shape == images.shape
  assert marked.dtype == np.uint8
  np.testing.assert_array_equal(marked[:, 24:], images[:, 24:])
  np.testing.assert_array_equal(marked[:, :, 24:], images[:, :, 24:])
  assert np.any(marked[:, :24, :24] != images[:, :24, :24], axis=(1, 2, 3)).all()


def test_without_the_mark_or_with_another_key_half_of_the_bits_agree_by_chance():
  images = photos()
  assert (read(images, 16) == PAYLOAD).mean() == pytest.approx(0.5, abs=0.05)
  marked = embed(images, PAYLOAD, key=1)
  assert (read(marked, 16, key=1) == PAYLOAD).mean() == 1
  assert 0.2 < (read(marked, 16) == PAYLOAD).mean() < 0.8


def test_what_has_no_room_is_refused():
  with pytest.raises(UserError, match="11 bits does not fit; images of this size have room for 1 to 10"):
    embed(np.zeros((1, 8, 15, 1), np.uint8), np.ones(11))
  with pytest.raises(UserError, match="room for 1 to 40"):
    read(np.zeros((1, 16, 16, 1), np.uint8), 0)
  with pytest.raises(UserError, match="these have 4 channels"):
    embed(np.zeros((1, 16, 16, 4), np.uint8), BITS)
