import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from dlcourse.models.layers import activate

X = np.linspace(-4, 4, 33)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
  ("name", "formula", "tolerance"),
  [
    ("relu", lambda x: np.maximum(x, 0), 1e-6),
    ("tanh", np.tanh, 1e-6),
    ("sigmoid", sigmoid, 1e-6),
    ("leaky_relu", lambda x: np.maximum(0.01 * x, x), 1e-6),
    ("elu", lambda x: np.where(x > 0, x, np.expm1(x)), 1e-6),
    ("gelu", lambda x: x * (1 + erf(x / 2**0.5)) / 2, 1e-3),  # Flax takes the tanh approximation
    ("swish", lambda x: x * sigmoid(x), 1e-6),
  ],
)
def test_activations_follow_the_table_of_the_handbook(name, formula, tolerance):
  np.testing.assert_allclose(activate(name, jnp.array(X)), formula(X), atol=tolerance)


@pytest.mark.parametrize("name", ["softplus", "Dense", ""])
def test_only_named_activations_are_taken(name):
  with pytest.raises(ValueError, match="is none of relu, tanh"):
    activate(name, jnp.zeros(1))
