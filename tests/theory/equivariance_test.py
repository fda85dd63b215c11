import numpy as np
import pytest

from dlcourse.theory import convolution, equivariance

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(6, 8, 2))
KERNELS = RNG.normal(size=(3, 3, 2, 3))
SHIFTS = [(1, 0), (0, 1), (2, 3), (-1, -4), (6, 8)]


def circular(image, stride=1):
  return convolution.convolve(image, KERNELS, stride, "CIRCULAR")


def test_shift_moves_down_and_right():
  dot = np.zeros((4, 4, 1))
  dot[3, 1] = 1
  assert np.argwhere(equivariance.shift(dot, 2, 1)).tolist() == [[1, 2, 0]]


@pytest.mark.parametrize(("rows", "columns"), SHIFTS)
def test_a_circular_convolution_moves_with_its_image_to_the_last_bit(rows, columns):
  assert equivariance.equivariance_gap(circular, IMAGE, rows, columns) == 0.0


@pytest.mark.parametrize(("rows", "columns"), SHIFTS)
def test_a_strided_one_does_for_multiples_of_its_stride(rows, columns):
  assert equivariance.equivariance_gap(lambda x: circular(x, 2), IMAGE, rows, columns, stride=2) == 0.0


def test_a_strided_one_does_not_for_the_shifts_in_between():
  strided = circular(IMAGE, 2)
  moved = circular(equivariance.shift(IMAGE, 1, 0), 2)
  assert not any(np.allclose(moved, equivariance.shift(strided, rows, 0)) for rows in range(3))


def test_zeros_at_the_border_break_it_there_and_only_there():
  def zero_padded(image):
    return convolution.convolve(image, KERNELS, padding="SAME")

  assert equivariance.equivariance_gap(zero_padded, IMAGE, 1, 0) > 0.1
  assert (
    equivariance.equivariance_gap(lambda x: zero_padded(np.pad(x, ((2, 2), (2, 2), (0, 0)))), IMAGE, 0, 0) == 0
  )
  moved = zero_padded(equivariance.shift(IMAGE, 1, 0))
  np.testing.assert_array_equal(moved[2:-1], zero_padded(IMAGE)[1:-2])


def test_pooling_moves_with_its_image_by_whole_windows():
  assert equivariance.equivariance_gap(convolution.pool, IMAGE, 1, 2, stride=2) == 0.0


def test_a_global_maximum_over_the_maps_is_invariant():
  expected = circular(IMAGE).max(axis=(0, 1))
  for rows, columns in SHIFTS:
    np.testing.assert_array_equal(circular(equivariance.shift(IMAGE, rows, columns)).max(axis=(0, 1)), expected)


def test_the_gap_of_unsigned_pixels_is_not_wrapped():
  image = np.zeros((2, 2, 1), np.uint8)
  image[0, 0] = 1
  assert equivariance.equivariance_gap(lambda x: x * np.array([[[1]], [[0]]], np.uint8), image, 1, 0) == 1
