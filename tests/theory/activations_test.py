import jax
import numpy as np
import pytest

from dlcourse.theory.activations import ACTIVATIONS, largest_slope, softmax_slopes, value_range
from dlcourse.theory.softmax import softmax

OURS = {name: getattr(jax.nn, name) for name in ACTIVATIONS if name not in ("tanh", "gelu")}
OURS |= {"tanh": jax.numpy.tanh, "gelu": lambda x: jax.nn.gelu(x, approximate=False)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_slopes_are_those_of_jax(name):
  x = np.linspace(-8, 8, 162)  # without 0, where three of them have a corner
  with jax.enable_x64(True):
    value, slope = jax.vmap(jax.value_and_grad(OURS[name]))(x)
  np.testing.assert_allclose(ACTIVATIONS[name].value(x), value, atol=1e-12)
  np.testing.assert_allclose(ACTIVATIONS[name].slope(x), slope, atol=1e-12)


def test_ranges_are_the_known_ones():
  lows = {name: value_range(name).low for name in ACTIVATIONS}
  expected = {
    "sigmoid": 0,
    "tanh": -1,
    "relu": 0,
    "leaky_relu": -0.3,
    "elu": -1,
    "gelu": -0.1699712,
    "swish": -0.2784645,
  }
  assert lows == pytest.approx(expected, abs=1e-7)
  # Where a product's slope is 0: x = -1.2784645 solves 1 + x σ(-x) = 0, and the value there is x + 1.
  assert value_range("swish").at_low == pytest.approx(-1.2784645, abs=1e-4)
  assert [value_range(name).high for name in ("sigmoid", "tanh")] == pytest.approx([1, 1])
  assert all(
    value_range(name).high == pytest.approx(30) for name in ("relu", "leaky_relu", "elu", "gelu", "swish")
  )


def test_largest_slopes():
  assert largest_slope("sigmoid") == 0.25
  assert largest_slope("tanh") == 1
  assert largest_slope("gelu") == pytest.approx(1.12890, abs=1e-4)  # at the square root of 2


def test_slopes_of_softmax_are_those_of_jax():
  logits = np.array([0.5, -1.0, 2.0])
  with jax.enable_x64(True):
    expected = jax.jacobian(jax.nn.softmax)(logits)
  np.testing.assert_allclose(softmax_slopes(softmax(logits)), expected, atol=1e-12)
