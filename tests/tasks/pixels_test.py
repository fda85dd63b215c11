import jax
import numpy as np
import pytest

from dlcourse.tasks.pixels import binarised

GREY = np.full((2, 100, 100, 1), 0.3, np.float32)


def test_pixels_are_left_alone_or_cut_at_one_half():
  np.testing.assert_array_equal(binarised(GREY, "none", None), GREY)
  x = np.array([0, 0.5, 0.51, 1], np.float32)
  np.testing.assert_array_equal(binarised(x, "threshold", None), [0, 0, 1, 1])


def test_sampled_pixels_are_white_as_often_as_they_are_bright():
  made = np.asarray(binarised(GREY, "sample", jax.random.key(0)))
  np.testing.assert_array_equal(np.unique(made), [0, 1])
  assert made.mean() == pytest.approx(0.3, abs=0.015)
  other = np.asarray(binarised(GREY, "sample", jax.random.key(1)))
  assert not np.array_equal(made, other)
  once, again = (np.asarray(binarised(GREY, "sample", None)) for _ in range(2))
  np.testing.assert_array_equal(once, again)
