import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.theory import five_steps
from dlcourse.theory.five_steps import AFTER, BEFORE, BOAT, TARGET

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(7, 6, 2))  # maps of 5x4: the last row falls out of the pooling
NETWORK = five_steps.initialise(RNG, IMAGE.shape, filters=3, classes=4)


def output_of_jax(network, image):
  numbers = ("NHWC", "HWIO", "NHWC")
  maps = jax.lax.conv_general_dilated(image[None], network.kernels, (1, 1), "VALID", dimension_numbers=numbers)
  maps = jax.nn.relu(maps + network.bias)
  pooled = jax.lax.reduce_window(maps, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
  return jax.nn.softmax(pooled.reshape(-1) @ network.weights + network.offsets)


def error_of_jax(network, image, target):
  return jnp.sum((target - output_of_jax(network, image)) ** 2) / 2


def single(tree):
  return jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), tree)


def test_total_error_gives_both_numbers_of_the_handbook():
  assert five_steps.total_error(TARGET, BEFORE) == pytest.approx(0.55, abs=1e-12)
  assert five_steps.total_error(TARGET, AFTER) == pytest.approx(0.06, abs=1e-12)
  assert five_steps.total_error(TARGET, TARGET) == 0


def test_total_error_refuses_another_number_of_classes():
  with pytest.raises(ValueError, match=r"^expected a target for each output, got shapes \(4,\) and \(1,\)$"):
    five_steps.total_error(TARGET, [0.5])


def test_forward_equals_jax():
  found = five_steps.forward(NETWORK, IMAGE)
  assert (found.maps.shape, found.pooled.shape) == ((5, 4, 3), (2, 2, 3))
  np.testing.assert_allclose(found.output, output_of_jax(single(NETWORK), single(IMAGE)), rtol=1e-5)


def test_gradients_equal_automatic_differentiation():
  network = NETWORK._replace(bias=np.array([0.1, -0.3, 0.2]))
  expected = jax.grad(error_of_jax)(single(network), single(IMAGE), jnp.array(TARGET))
  found = five_steps.gradients(network, IMAGE, TARGET)
  for name in network._fields:
    assert np.abs(getattr(found, name)).max() > 1e-3
    np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-6, err_msg=name)


def test_update_goes_downhill_and_leaves_the_architecture_alone():
  slopes = five_steps.gradients(NETWORK, IMAGE, TARGET)
  after = five_steps.update(NETWORK, slopes, 0.01)
  assert [value.shape for value in after] == [value.shape for value in NETWORK]
  np.testing.assert_array_equal(after.weights, NETWORK.weights - 0.01 * slopes.weights)
  gained = [five_steps.total_error(TARGET, five_steps.forward(n, IMAGE).output) for n in (NETWORK, after)]
  steepness = sum(np.sum(slope**2) for slope in slopes)
  assert gained[0] - gained[1] == pytest.approx(0.01 * steepness, rel=0.1)  # to first order


def test_initial_weights_are_random_and_biases_are_0():
  first, second = (five_steps.initialise(np.random.default_rng(s), (32, 32, 3), 64, 10) for s in (0, 1))
  assert first.kernels.shape == (3, 3, 3, 64)
  assert first.weights.shape == (15 * 15 * 64, 10)
  assert not np.array_equal(first.kernels, second.kernels)
  assert not first.bias.any()
  assert not first.offsets.any()
  assert first.kernels.var() == pytest.approx(2 / 27, rel=0.1)


def test_initialise_refuses_an_image_that_is_too_small():
  with pytest.raises(ValueError, match=r"^a kernel of 2 does not fit into 1 elements padded by 0 \+ 0$"):
    five_steps.initialise(RNG, (3, 3, 1), 2, 4)


def test_train_learns_every_image_of_the_set():
  images, targets = RNG.normal(size=(4, 6, 6, 1)), np.eye(4)
  network = five_steps.initialise(np.random.default_rng(0), (6, 6, 1), 4, 4)
  network, errors = five_steps.train(network, images, targets, learning_rate=0.3, passes=40)
  assert len(errors) == 41
  assert errors[0] > 0.3
  assert errors[-1] < 0.05
  answers = [five_steps.forward(network, image).output.argmax() for image in images]
  assert answers == [0, 1, 2, 3]


def test_one_pass_over_one_image_is_one_update():
  network, errors = five_steps.train(NETWORK, [IMAGE], [TARGET], learning_rate=0.1, passes=1)
  expected = five_steps.update(NETWORK, five_steps.gradients(NETWORK, IMAGE, TARGET), 0.1)
  for found, value in zip(network, expected, strict=True):
    np.testing.assert_array_equal(found, value)
  assert errors[1] < errors[0]


def test_starting_at_sets_the_first_output():
  boat = np.array(BOAT)[..., None]
  network = five_steps.initialise(np.random.default_rng(0), boat.shape, 2, 4)
  output = five_steps.forward(five_steps.starting_at(network, boat, BEFORE), boat).output
  np.testing.assert_allclose(output, BEFORE, rtol=1e-12)


@pytest.mark.parametrize("output", [TARGET, (0.5, 0.5, 0.5, 0.5)])
def test_starting_at_refuses_what_softmax_cannot_answer(output):
  with pytest.raises(ValueError, match=r"^expected probabilities above 0 that sum to 1, got "):
    five_steps.starting_at(NETWORK, IMAGE, output)


def test_the_boat_goes_from_the_first_error_of_the_handbook_to_its_second():
  rows = five_steps.boat_example()
  assert [row.updates for row in rows] == [0, 1, 2, 3, 4, 5]
  np.testing.assert_allclose(rows[0].output, BEFORE, rtol=1e-12)
  np.testing.assert_allclose(
    [row.error for row in rows], [0.55, 0.4554, 0.3773, 0.2899, 0.1661, 0.0597], atol=5e-5
  )
  np.testing.assert_allclose(rows[-1].output, AFTER, atol=0.016)


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_other_weights_learn_the_boat_too(seed):
  errors = [row.error for row in five_steps.boat_example(learning_rate=0.2, updates=30, seed=seed)]
  assert errors[0] == pytest.approx(0.55)
  assert all(after < before for before, after in itertools.pairwise(errors))
  assert errors[-1] < 0.06
