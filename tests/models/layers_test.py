import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from dlcourse.models.layers import activate, batch_norm

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


def test_batch_norm_normalises_each_channel_over_batch_and_space():
  x = np.random.default_rng(0).normal(3.0, 2.0, size=(4, 5, 5, 3)).astype(np.float32)
  norm = batch_norm(True, momentum=0.9, epsilon=0.1)
  variables = norm.init(jax.random.key(0), x)
  variables = {"params": {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.array([0.0, 1.0, -1.0])}} | {
    "batch_stats": variables["batch_stats"]
  }
  y, updated = norm.apply(variables, x, mutable=["batch_stats"])
  mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
  np.testing.assert_allclose(
    y, [1.0, 2.0, 3.0] * (x - mean) / np.sqrt(variance + 0.1) + [0.0, 1.0, -1.0], atol=1e-5
  )
  np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, rtol=1e-4)
  np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * variance, rtol=1e-4)


def test_batch_norm_at_evaluation_uses_the_running_averages():
  x = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
  stats = {"mean": jnp.array([1.0, -1.0]), "var": jnp.array([4.0, 0.25])}
  params = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
  y = batch_norm(False, epsilon=0.0).apply({"params": params, "batch_stats": stats}, x)
  np.testing.assert_allclose(y, (x - [1.0, -1.0]) / [2.0, 0.5], rtol=1e-5)
