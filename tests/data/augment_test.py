import jax
import numpy as np
import pytest

from dlcourse.data.augment import Flip, Shift
from dlcourse.errors import UserError

IMAGES = np.random.default_rng(0).uniform(0.1, 1, size=(64, 6, 5, 2)).astype(np.float32)


def moved(image, down, right):
  """The image rolled in NumPy, with zeros where it came in from outside."""
  rolled = np.roll(image, (down, right), axis=(0, 1))
  rows, columns = np.arange(image.shape[0]) - down, np.arange(image.shape[1]) - right
  inside = ((rows >= 0) & (rows < image.shape[0]))[:, None] & ((columns >= 0) & (columns < image.shape[1]))
  return rolled * inside[..., None]


@pytest.mark.parametrize("pixels", [1, 2])
def test_every_shifted_image_is_its_original_moved_by_at_most_so_many_pixels(pixels):
  shifted = np.asarray(jax.jit(Shift(pixels))(jax.random.key(1), IMAGES))
  steps = range(-pixels, pixels + 1)
  found = []
  for before, after in zip(IMAGES, shifted, strict=True):
    found += [(d, r) for d in steps for r in steps if np.array_equal(moved(before, d, r), after)]
  assert len(found) == len(IMAGES)
  if pixels == 1:
    assert len(set(found)) == 9  # every direction occurs, zero and both extremes included


def test_no_shift_changes_nothing():
  np.testing.assert_array_equal(Shift(0)(jax.random.key(0), IMAGES), IMAGES)


def test_a_shift_that_makes_no_sense_is_refused():
  with pytest.raises(UserError, match="pixels=-1 is too small"):
    Shift(-1)
  assert Shift(4)(jax.random.key(0), IMAGES).shape == IMAGES.shape
  with pytest.raises(UserError, match="pixels=5 leaves nothing of an image of 6x5"):
    Shift(5)(jax.random.key(0), IMAGES)


def test_about_half_of_the_images_are_mirrored_left_to_right_and_the_others_kept():
  images = np.tile(IMAGES, (8, 1, 1, 1))
  flipped = np.asarray(jax.jit(Flip())(jax.random.key(0), images))
  same = (flipped == images).all(axis=(1, 2, 3))
  mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
  assert np.all(same ^ mirrored)
  assert 0.4 < mirrored.mean() < 0.6


@pytest.mark.parametrize("augmentation", [Shift(2), Flip()])
def test_an_augmentation_is_a_function_of_its_key(augmentation):
  first, again, other = (augmentation(jax.random.key(seed), IMAGES) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)
