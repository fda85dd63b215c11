"""Linear attentions: what they sum, and how near they come to the softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.models.attention import scaled_dot_product
from dlcourse.models.linear_attention import Features, Pooled, kernel_attention

B, T, N, D = 2, 6, 2, 8


def random(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_sums_over_features_are_a_quotient_of_sums_over_keys(causal, kv_heads):
  query, key = jnp.exp(random(0, B, T, N, D)), jnp.exp(random(1, B, T, kv_heads, D))
  value, keys = random(2, B, T, kv_heads, 3), jnp.arange(T) < jnp.array([6, 4])[:, None]
  scores = np.einsum("btnr,bsnr->bnts", query, np.repeat(key, N // kv_heads, axis=2)) * keys[:, None, None]
  scores = np.tril(scores) if causal else scores
  expected = np.einsum(
    "bnts,bsnd->btnd", scores / scores.sum(-1, keepdims=True), np.repeat(value, N // kv_heads, axis=2)
  )
  np.testing.assert_allclose(kernel_attention(query, key, value, keys, causal), expected, rtol=1e-4, atol=1e-6)


def test_random_features_come_nearer_to_the_softmax_the_more_they_are():
  query, key, value = random(0, B, T, N, D) / 2, random(1, B, T, N, D) / 2, random(2, B, T, N, D)
  exact, _ = scaled_dot_product(query, key, value)

  def error(size):
    errors = []
    for seed in range(8):
      model = Features(size)
      variables = model.init(jax.random.key(seed), query)
      features = model.apply(variables, query, queries=True), model.apply(variables, key)
      errors.append(jnp.abs(kernel_attention(*features, value) - exact).mean())
    return float(np.mean(errors))

  assert error(1024) < 0.5 * error(32)
  assert error(1024) < 0.1


def test_directions_are_orthogonal():
  variables = Features(16).init(jax.random.key(0), random(0, B, T, N, D))
  first = variables["features"]["directions"][:D]
  products = np.asarray(first @ first.T)
  np.testing.assert_allclose(products - np.diag(np.diag(products)), 0, atol=1e-4)


def test_pooled_places_do_not_hold_what_is_not_there():
  x, keys = random(0, B, T, N, D), jnp.arange(T) < 4
  model = Pooled(3, 10)
  variables = model.init(jax.random.key(0), x)
  found = model.apply(variables, x, jnp.broadcast_to(keys, (B, T)))
  assert found.shape == (B, 3, N, D)
  np.testing.assert_allclose(found, model.apply(variables, x[:, :4]), atol=1e-6)
