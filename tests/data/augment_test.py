import jax
import numpy as np
import pytest

from dlcourse.data.augment import Colour, Cutout, Flip, Shift
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


@pytest.mark.parametrize("augmentation", [Shift(2), Flip(), Colour(), Cutout()])
def test_an_augmentation_is_a_function_of_its_key(augmentation):
  first, again, other = (augmentation(jax.random.key(seed), IMAGES) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_colours_change_brightness_by_the_mean_and_contrast_and_saturation_around_it():
  changed = np.asarray(Colour(0.5)(jax.random.key(2), IMAGES), np.float64)
  factors = []
  for before, after in zip(IMAGES.astype(np.float64), changed, strict=True):
    grey, grey_after = before.mean(axis=-1), after.mean(axis=-1)  # what saturation leaves alone
    centred, centred_after = grey - grey.mean(), grey_after - grey_after.mean()
    contrast = (centred * centred_after).sum() / (centred**2).sum()
    np.testing.assert_allclose(centred_after, contrast * centred, atol=1e-5)
    apart, apart_after = before - grey[..., None], after - grey_after[..., None]
    saturation = (apart * apart_after).sum() / (apart**2).sum() / contrast
    np.testing.assert_allclose(apart_after, contrast * saturation * apart, atol=1e-5)
    factors.append((after.mean() - before.mean(), contrast, saturation))
  for drawn, (low, high) in zip(np.transpose(factors), ((-0.25, 0.25), (0.5, 1.5), (0, 2)), strict=True):
    assert low - 1e-6 <= drawn.min() < 0.9 * low + 0.1 * high
    assert 0.1 * low + 0.9 * high < drawn.max() <= high + 1e-6


def test_cutout_blanks_one_rectangle_of_at_most_the_given_sides():
  images = np.ones((64, 8, 6, 1), np.float32)
  blank = np.asarray(Cutout(0.5)(jax.random.key(0), images))[..., 0] == 0
  for image in blank:
    rows, columns = image.any(axis=1), image.any(axis=0)
    np.testing.assert_array_equal(image, rows[:, None] & columns[None, :])
    assert rows.sum() <= 4
    assert columns.sum() <= 3
    for line in (rows, columns):  # without a gap
      assert np.abs(np.diff(line.astype(int))).sum() <= 2
  assert blank.any(axis=(1, 2)).all()
  assert (blank.sum(axis=(1, 2)) == 12).mean() > 0.2


@pytest.mark.parametrize("augmentation", [Shift(2), Flip(), Colour(), Cutout()])
def test_what_a_discriminator_sees_has_a_slope(augmentation):
  slope = jax.grad(lambda x: augmentation(jax.random.key(0), x).sum())(IMAGES)
  assert np.all(np.isfinite(slope))
  assert np.abs(slope).max() > 0.5


@pytest.mark.parametrize(
  ("make", "said"), [(lambda: Colour(0.6), "strength=0.6"), (lambda: Cutout(1.1), "share=1.1")]
)
def test_a_strength_out_of_range_is_refused(make, said):
  with pytest.raises(UserError, match=said):
    make()
