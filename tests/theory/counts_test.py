import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import count

from dlcourse.models.lenet import LeNet5
from dlcourse.theory import convolution, counts


class Counted:
  """A number that counts the products it takes part in."""

  products = 0

  def __mul__(self, other):
    Counted.products += 1
    return 0


def test_multiplications_are_those_of_the_handbook():
  assert counts.multiplications((6, 6, 1), (3, 3, 1, 1)) == 4 * 4 * 3 * 3 == 144  # H2.3
  assert counts.multiplications((6, 6, 1), (3, 3, 1, 1), stride=2) == 2 * 2 * 3 * 3 == 36  # H2.3
  assert counts.multiplications((5, 5, 1), (3, 3, 1, 1), stride=2) == 36
  assert counts.multiplications((6, 6, 3), (3, 3, 3, 2)) == 4 * 4 * 2 * 27 == 864  # H2.5


@pytest.mark.parametrize(
  ("image", "kernels", "stride", "padding"),
  [((6, 6, 1), (3, 3, 1, 1), 2, 0), ((6, 6, 3), (3, 3, 3, 2), 1, 0), ((5, 7, 2), (3, 2, 2, 3), 2, "SAME")],
)
def test_multiplications_are_those_the_loop_takes(image, kernels, stride, padding):
  Counted.products = 0
  lit = np.array([Counted() for _ in range(np.prod(image))]).reshape(image)
  if padding == "SAME":  # the zeros of the padding are plain numbers, which would not count
    lit = np.pad(lit, ((1, 1), (0, 1), (0, 0)), constant_values=Counted())
  convolution.convolve(lit, np.ones(kernels, int), stride)
  assert Counted.products == counts.multiplications(image, kernels, stride, padding)


def test_multiplications_refuse_other_channels():
  with pytest.raises(ValueError, match=r"^the image has 3 channels, the filters have 1$"):
    counts.multiplications((6, 6, 3), (3, 3, 1, 2))


def test_parameters_are_those_of_the_handbook():
  assert counts.convolution_parameters((5, 5, 1, 6)) == 156  # H2.10.2.1
  groups = [
    counts.convolution_parameters((5, 5, maps, filters)) for maps, filters in ((3, 6), (4, 6), (4, 3), (6, 1))
  ]
  assert groups == [456, 606, 303, 151]  # H2.10.2.4
  assert sum(groups) == 1_516
  assert counts.convolution_parameters((5, 5, 16, 120)) == 48_120  # H2.10.2.6
  assert counts.dense_parameters(120, 84) == 10_164  # H2.10.2.7
  assert (counts.subsampling_parameters(6), counts.subsampling_parameters(16)) == (12, 32)  # H2.10.2.2, .5


def test_parameters_are_those_of_the_network():
  image = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
  params = jax.eval_shape(LeNet5(num_classes=10).init, jax.random.key(0), image)["params"]
  assert counts.convolution_parameters(params["C1"]["kernel"].shape) == count(params["C1"])
  assert counts.convolution_parameters(params["C5"]["kernel"].shape) == count(params["C5"])
  assert counts.dense_parameters(*params["output"]["kernel"].shape) == count(params["output"]) == 850
  assert counts.subsampling_parameters(6) == count(params["S2"])


def test_a_bias_can_be_left_out():
  assert counts.convolution_parameters((3, 3, 64, 64), bias=False) == 36_864
  assert counts.dense_parameters(3, 4, bias=False) == 12


def test_parameters_refuse_another_shape():
  with pytest.raises(ValueError, match=r"^expected kernels of shape .* got \(3, 3\)$"):
    counts.convolution_parameters((3, 3))


def test_a_fully_connected_layer_on_an_image_has_millions_of_parameters():  # H2.2
  pixels = 224 * 224 * 3
  assert pixels == 150_528
  assert counts.dense_parameters(pixels, 1_000) == 150_529_000
  assert counts.convolution_parameters((3, 3, 3, 64)) == 1_792


def test_connections_are_those_of_the_handbook():
  assert counts.connections(25, (28, 28, 6)) == 122_304  # H2.10.2.1
  assert counts.connections(4, (14, 14, 6)) == 5_880  # H2.10.2.2
  c3 = [counts.connections(25 * maps, (10, 10, filters)) for maps, filters in ((3, 6), (4, 9), (6, 1))]
  assert sum(c3) == 1_516 * 10 * 10 == 151_600  # H2.10.2.4
  assert counts.connections(4, (5, 5, 16)) == 2_000  # H2.10.2.5
  assert counts.connections(400, (1, 1, 120)) == 48_120  # H2.10.2.6
  assert counts.connections(120, (1, 1, 84)) == 10_164  # H2.10.2.7
