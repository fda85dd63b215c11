import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import convolve2d

from dlcourse.theory import convolution as theory

RNG = np.random.default_rng(0)
# Small integers: products and sums are exact in float32 too, so that XLA's result can be compared bit for bit.
IMAGE = RNG.integers(-9, 10, (7, 6, 3))
KERNELS = RNG.integers(-9, 10, (3, 2, 3, 4))
STEP = np.repeat([[9, 9, 9, 0, 0, 0]], 6, axis=0)  # bright left, dark right


def of_xla(image, kernels, stride, padding):
  pads = padding if isinstance(padding, str) else [(padding, padding)] * 2
  return jax.lax.conv_general_dilated(
    jnp.asarray(image, jnp.float32)[None],
    jnp.asarray(kernels, jnp.float32),
    (stride, stride),
    pads,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )[0]


@pytest.mark.parametrize("padding", [0, 1, 2, "VALID", "SAME"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolve_equals_xla(stride, padding):
  np.testing.assert_array_equal(
    theory.convolve(IMAGE, KERNELS, stride, padding), of_xla(IMAGE, KERNELS, stride, padding)
  )


def test_circular_padding_takes_the_other_side():
  wrapped = np.take(np.take(IMAGE, range(-1, 8), axis=0, mode="wrap"), range(7), axis=1, mode="wrap")
  np.testing.assert_array_equal(theory.convolve(IMAGE, KERNELS, 1, "CIRCULAR"), of_xla(wrapped, KERNELS, 1, 0))


def test_the_three_results_of_the_handbook_have_its_sizes():
  kernel = theory.VERTICAL
  assert theory.convolve_matrix(STEP, kernel).shape == (4, 4)  # H2.3
  assert theory.convolve_matrix(STEP, kernel, stride=2).shape == (2, 2)  # H2.3
  volume, filters = np.ones((6, 6, 3)), np.ones((3, 3, 3, 2))
  assert theory.convolve(volume, filters).shape == (4, 4, 2)  # H2.5
  assert np.all(theory.convolve(volume, filters) == 27)


def test_a_kernel_is_not_flipped_as_it_is_in_signal_processing():
  matrix, kernel = IMAGE[..., 0], KERNELS[..., 0, 0]
  assert not np.array_equal(theory.convolve_matrix(matrix, kernel), convolve2d(matrix, kernel, "valid"))
  np.testing.assert_array_equal(
    theory.convolve_matrix(matrix, kernel[::-1, ::-1]), convolve2d(matrix, kernel, "valid")
  )


def test_a_single_one_copies_the_image():
  np.testing.assert_array_equal(theory.convolve_matrix(STEP, [[1]]), STEP)


def test_a_filter_spans_all_channels():
  by_channel = sum(theory.convolve_matrix(IMAGE[..., c], KERNELS[..., c, 1]) for c in range(3))
  np.testing.assert_array_equal(theory.convolve(IMAGE, KERNELS)[..., 1], by_channel)


def test_small_integer_types_do_not_overflow():
  assert theory.convolve_matrix(np.full((3, 3), 255, np.uint8), np.full((3, 3), 255, np.uint8)) == 9 * 255**2
  assert theory.convolve(np.ones((2, 2, 1), np.float32), np.ones((2, 2, 1, 1), np.float32)).dtype == np.float64


def test_edge_filters_find_their_edge_and_nothing_in_a_flat_region():
  found = theory.convolve_matrix(STEP, theory.VERTICAL)
  np.testing.assert_array_equal(found, [[0, 27, 27, 0]] * 4)
  np.testing.assert_array_equal(theory.convolve_matrix(9 - STEP, theory.VERTICAL), -found)  # dark to bright
  np.testing.assert_array_equal(theory.convolve_matrix(STEP.T, theory.HORIZONTAL), found.T)
  np.testing.assert_array_equal(theory.convolve_matrix(STEP, theory.SOBEL_VERTICAL), [[0, 36, 36, 0]] * 4)
  np.testing.assert_array_equal(theory.convolve_matrix(STEP.T, theory.SOBEL_HORIZONTAL).T, [[0, 36, 36, 0]] * 4)
  np.testing.assert_array_equal(theory.convolve_matrix(STEP, theory.LAPLACIAN), [[0, -9, 9, 0]] * 4)
  for kernel in (theory.HORIZONTAL, theory.SOBEL_HORIZONTAL):
    assert not theory.convolve_matrix(STEP, kernel).any()


@pytest.mark.parametrize("activation", [theory.relu, np.tanh])
def test_a_layer_adds_its_bias_before_the_activation(activation):
  image, kernels, bias = IMAGE / 50, KERNELS / 50, np.array([-1.0, 0.0, 0.5, 2.0])
  expected = activation(np.asarray(of_xla(image, kernels, 2, 1)) + bias)
  np.testing.assert_allclose(
    theory.convolution_layer(image, kernels, bias, activation, stride=2, padding=1), expected, atol=1e-5
  )


def test_relu_cuts_what_is_negative():
  np.testing.assert_array_equal(theory.relu([-2, 0, 3]), [0, 0, 3])


@pytest.mark.parametrize(("window", "stride"), [(2, None), (3, 1), (2, 3), (3, 2)])
def test_pool_equals_xla(window, stride):
  image = jnp.asarray(IMAGE, jnp.float32)
  shape, strides = (window, window, 1), (stride or window, stride or window, 1)
  largest = jax.lax.reduce_window(image, -jnp.inf, jax.lax.max, shape, strides, "VALID")
  total = jax.lax.reduce_window(image, 0.0, jax.lax.add, shape, strides, "VALID")
  np.testing.assert_array_equal(theory.pool(IMAGE, window, stride), largest)
  np.testing.assert_allclose(theory.pool(IMAGE, window, stride, "avg"), total / window**2, rtol=1e-6)


def test_pool_by_hand():
  image = np.array([[1, 3, 2, 1], [2, 9, 1, 1], [1, 3, 2, 3], [5, 6, 1, 2]])[..., None]
  np.testing.assert_array_equal(theory.pool(image)[..., 0], [[9, 2], [6, 3]])
  np.testing.assert_array_equal(theory.pool(image, kind="avg")[..., 0], [[3.75, 1.25], [3.75, 2]])


def test_flatten_puts_every_element_where_it_says():
  height, width, channels = IMAGE.shape
  vector = theory.flatten(IMAGE)
  assert vector.shape == (height * width * channels,)
  for row, column, channel in np.ndindex(IMAGE.shape):
    assert vector[(row * width + column) * channels + channel] == IMAGE[row, column, channel]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: theory.convolve(IMAGE, KERNELS[:, :, :1]), "the image has 3 channels, the filters have 1"),
    (lambda: theory.convolve(STEP, theory.VERTICAL), "expected shapes .* got \\(6, 6\\) and \\(3, 3\\)"),
    (lambda: theory.convolve(IMAGE, KERNELS, 0), "stride has to be a whole number from 1, got 0"),
    (
      lambda: theory.convolve_matrix(IMAGE, [[1]]),
      "expected two matrices, got shapes \\(7, 6, 3\\) and \\(1, 1\\)",
    ),
    (
      lambda: theory.convolve_matrix([[1, 2]], theory.VERTICAL),
      "a kernel of 3 does not fit into 1 elements .*",
    ),
    (
      lambda: theory.convolution_layer(IMAGE, KERNELS, [0.0]),
      "expected a bias .* 4 filters, got shape \\(1,\\)",
    ),
    (lambda: theory.pool(STEP), "expected an image of shape \\[H, W, C\\], got \\(6, 6\\)"),
    (lambda: theory.pool(IMAGE, kind="mean"), "kind must be one of max, avg, got 'mean'"),
    (lambda: theory.pool(IMAGE, 8), "a kernel of 8 does not fit into 7 elements .*"),
    (lambda: theory.pool(IMAGE, stride=0), "stride has to be a whole number from 1, got 0"),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(call, message):
  with pytest.raises(ValueError, match=f"^{message}$"):
    call()
