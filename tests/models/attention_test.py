"""Attention: the formula, its masks, caches and heads."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.attention import (
  KeysValues,
  MultiHeadAttention,
  Seen,
  check_heads,
  scaled_dot_product,
  visible,
)

B, T, S, N, D = 2, 5, 7, 4, 3


def random(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def by_hand(query, key, value, mask=None, bias=None, scale=None):
  """Row by row, head by head, in float64."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  share, out = query.shape[2] // key.shape[2], np.zeros(query.shape)
  for b, t, n in np.ndindex(query.shape[:3]):
    scores = key[b, :, n // share] @ query[b, t, n] * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias[0, n, t]
    seen = np.ones(len(scores), bool) if mask is None else np.broadcast_to(mask, (B, 1, T, S))[b, 0, t]
    weights = np.where(seen, np.exp(scores - scores[seen].max()), 0)
    out[b, t, n] = weights @ value[b, :, n // share] / weights.sum()
  return out


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_scaled_dot_product_is_the_formula(kv_heads, masked):
  query, key, value = random(0, B, T, N, D), random(1, B, S, kv_heads, D), random(2, B, S, kv_heads, D)
  mask = np.tril(np.ones((T, S), bool))[None, None] if masked else None
  bias = np.asarray(random(3, 1, N, T, S)) if masked else None
  found, weights = scaled_dot_product(query, key, value, mask, bias)
  np.testing.assert_allclose(found, by_hand(query, key, value, mask, bias), atol=1e-5)
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
  if masked:
    assert not np.asarray(weights)[:, :, ~mask[0, 0]].any()


@pytest.mark.parametrize("masked", [False, True])
def test_the_formula_equals_that_of_jax(masked):
  query, key, value = random(0, B, T, N, D), random(1, B, T, N, D), random(2, B, T, N, D)
  mask, _ = visible(T, jnp.array([5, 3]), causal=True) if masked else (None, None)
  expected = jax.nn.dot_product_attention(query, key, value, mask=mask)
  np.testing.assert_allclose(scaled_dot_product(query, key, value, mask)[0], expected, atol=1e-6)


def test_masks_of_lengths_and_of_the_future():
  mask, keys = visible(3, jnp.array([3, 2]), causal=True)
  np.testing.assert_array_equal(keys, [[1, 1, 1], [1, 1, 0]])
  np.testing.assert_array_equal(mask[0, 0], np.tril(np.ones((3, 3))))
  np.testing.assert_array_equal(mask[1, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 0]])
  assert visible(3) == (None, None)


def layer(**fields):
  return MultiHeadAttention(**{"hidden_dim": 8, "num_heads": 4, "num_kv_heads": 4, "head_dim": 2, **fields})


def outputs(model, x, seen, plain, monkeypatch):
  """Output and gradients, by our own gradients or by those that JAX derives."""
  monkeypatch.setenv("DLCOURSE_PLAIN_GRADIENTS", str(int(plain)))
  params = model.init(jax.random.key(0), x, seen)

  def loss(params, x):
    return jnp.sum(jnp.sin(model.apply(params, x, seen)[0]))

  return model.apply(params, x, seen)[0], jax.grad(loss, argnums=(0, 1))(params, x)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_our_own_are_those_that_jax_derives(masked, monkeypatch):
  mask, keys = visible(T, jnp.array([5, 3]), causal=True) if masked else (None, None)
  both = [outputs(layer(), random(0, B, T, 8), Seen(mask, keys), plain, monkeypatch) for plain in (False, True)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *both)


def test_attention_is_that_of_flax():
  x, ours = random(0, B, T, 8), layer()
  params = ours.init(jax.random.key(0), x, Seen())["params"]
  shaped = {
    name: {"kernel": params[name]["kernel"].reshape(8, 4, 2), "bias": random(1, 4, 2)}
    for name in ("query", "key", "value")
  }
  shaped["out"] = {"kernel": params["out"]["kernel"].reshape(4, 2, 8), "bias": params["out"]["bias"]}
  params = {
    name: {"kernel": params[name]["kernel"], "bias": shaped[name]["bias"].reshape(-1)} for name in params
  }
  expected = nn.MultiHeadDotProductAttention(4, qkv_features=8).apply({"params": shaped}, x)
  np.testing.assert_allclose(ours.apply({"params": params}, x, Seen())[0], expected, atol=1e-6)


def test_weights_can_be_looked_at():
  x = random(0, B, T, 8)
  params = layer().init(jax.random.key(0), x, Seen())["params"]
  _, found = layer().apply({"params": params}, x, Seen(), mutable=["intermediates"])
  (weights,) = found["intermediates"]["weights"]
  np.testing.assert_allclose(weights.sum(-1), np.ones((B, 4, T)), atol=1e-5)


def test_what_is_beyond_the_end_of_a_cache_is_lost():
  x, model = random(0, B, 3, 8), layer()
  cache = KeysValues(*jnp.zeros((2, B, 4, 6, 2)))
  seen = Seen(start=jnp.array([0, 4]))
  params = model.init(jax.random.key(0), x, Seen())
  _, kept = model.apply(params, x, seen, cache)
  own = model.apply(params, x, method="look_at")
  np.testing.assert_array_equal(kept.keys[0, :, :3], jnp.swapaxes(own.keys[0], 0, 1))
  np.testing.assert_array_equal(kept.keys[1, :, 4:], jnp.swapaxes(own.keys[1, :2], 0, 1))
  assert not kept.values[0, :, 3].any()


@pytest.mark.parametrize(
  ("sizes", "said"),
  [((10, 4, None, None), "num_heads=4 has to divide"), ((8, 4, 3, None), "num_kv_heads=3 has to divide")],
)
def test_heads_that_do_not_fit_are_refused(sizes, said):
  with pytest.raises(UserError, match=said):
    check_heads(*sizes)
  check_heads(10, 4, 2, 3)
