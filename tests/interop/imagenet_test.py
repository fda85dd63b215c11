"""Photographs as networks expect them: the middle, square, around zero."""

import numpy as np
from PIL import Image

from dlcourse.interop.imagenet import centre_crop, lite_input


def test_the_middle_is_cut_out_and_scaled():
  pixels = np.zeros((256, 300, 3), np.uint8)
  pixels[16:240, 38:262] = 200  # 224 / 256 of the shorter side
  crop = np.asarray(centre_crop(Image.fromarray(pixels)))
  assert crop.shape == (224, 224, 3)
  assert (crop == 200).all()
  half = np.asarray(centre_crop(Image.fromarray(pixels).resize((600, 512))))
  assert half.shape == (224, 224, 3)
  assert (half[2:-2, 2:-2] > 195).all()


def test_grey_becomes_colour_around_zero():
  grey = Image.fromarray(np.array([[127, 255], [0, 191]], np.uint8))
  x = lite_input(grey)
  assert x.dtype == np.float32
  np.testing.assert_array_equal(x[..., 0], [[0, 1], [-127 / 128, 0.5]])
  np.testing.assert_array_equal(x, np.repeat(x[..., :1], 3, axis=2))
