"""Drawings become pictures like those of the training."""

import numpy as np
import pytest

from dlcourse.app.ink import UNKNOWN, ink_of, picture_of
from dlcourse.errors import UserError


def strokes(light):
  """Two 12 x 12 pictures with a bar of 6 x 2."""
  images = np.zeros((2, 12, 12, 1), np.uint8)
  images[0, 3:9, 5:7] = images[1, 5:7, 3:9] = 200
  return images if light else 255 - images


@pytest.mark.parametrize("light", [True, False])
def test_strokes_are_told_from_the_ground_by_the_edges(light):
  ink = ink_of(strokes(light))
  assert ink.light is light
  assert ink.share == pytest.approx(6 / 12)
  assert ("dark, so strokes are light" in ink.why) is light


def test_pictures_without_strokes_have_the_usual_share():
  assert ink_of(np.zeros((2, 12, 12, 1), np.uint8)).share == UNKNOWN.share


@pytest.mark.parametrize("light", [True, False])
def test_a_drawing_is_centred_and_as_large_as_those_of_the_training(light):
  sketch = np.full((100, 140, 3), 255, np.uint8)
  sketch[10:50, 100:120] = 0  # 40 x 20, in a corner
  picture = picture_of(sketch, 20, light, share=0.5)
  expected = np.zeros((20, 20, 1), np.uint8)
  expected[5:15, 7:12] = 255  # 10 x 5, in the middle
  np.testing.assert_array_equal(picture, expected if light else 255 - expected)


def test_an_empty_sketch_is_nothing_to_predict():
  with pytest.raises(UserError, match="nothing is drawn yet"):
    picture_of(np.full((100, 100, 3), 255, np.uint8), 28, True, 0.5)
