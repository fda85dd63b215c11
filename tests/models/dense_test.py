"""Products by matrices: those of Flax, and their gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.models.dense import Dense, Embed, matrix_product


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (2, 3, 2, 5)])
@pytest.mark.parametrize("features", [3, 8])
def test_a_dense_layer_is_that_of_flax(shape, features):
  x = jax.random.normal(jax.random.key(0), shape)
  variables = Dense(features).init(jax.random.key(1), x)

  def loss(layer, variables, x):
    return jnp.sum(jnp.sin(layer.apply(variables, x)))

  for layer in (Dense(features), nn.Dense(features)):
    assert layer.apply(variables, x).shape == (*shape[:-1], features)
  both = [
    jax.grad(loss, argnums=(1, 2))(layer, variables, x) for layer in (Dense(features), nn.Dense(features))
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *both)


def test_attend_is_that_of_flax():
  query = jax.random.normal(jax.random.key(0), (2, 3, 4))
  variables = Embed(7, 4).init(jax.random.key(1), jnp.zeros(1, int))
  found, expected = (layer.apply(variables, query, method="attend") for layer in (Embed(7, 4), nn.Embed(7, 4)))
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_products_are_plain_where_gradients_of_our_own_are_turned_off(monkeypatch):
  monkeypatch.setenv("DLCOURSE_PLAIN_GRADIENTS", "1")
  x, kernel = jnp.ones((2, 3, 4)), jnp.ones((4, 5))
  _, tangent = jax.jvp(lambda x: matrix_product(x, kernel), (x,), (x,))  # a custom_vjp would refuse
  np.testing.assert_allclose(tangent, np.full((2, 3, 5), 4.0))
