"""Attention whose cost is linear in the length: Linformer and Performer (H3.12.5).

Shapes: B batch, T queries, S keys, K heads of keys, N heads of queries, D width of a head, R size of what
stands for all keys.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Pooled(nn.Module):
  """Learnt sums over the places: R keys, or values, for all S (Wang et al., 2020, Linformer, arXiv:2006.04768).

  Weights are of places, so a sequence has at most `max_length` of them.
  """

  size: int
  """R."""
  max_length: int
  """The most places."""

  @nn.compact
  def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """x [B, S, K, D], keys [B, S] bool, which there are -> [B, R, K, D]."""
    weights = self.param("weights", nn.initializers.lecun_normal(), (self.max_length, self.size))
    if keys is not None:
      x = jnp.where(keys[:, :, None, None], x, 0.0)
    return jnp.einsum("bskd,sr->brkd", x, weights[: x.shape[1]])


class Features(nn.Module):
  """Positive random features of the softmax kernel, FAVOR+ (Choromanski et al., 2021, arXiv:2009.14794).

  φ(x) = exp(w x - |x|²/2) / sqrt(R) for R orthogonal random w, so that φ(q) φ(k) is exp(q k) in the mean. They
  are drawn once and kept beside the parameters.
  """

  size: int
  """R."""

  @nn.compact
  def __call__(self, x: jax.Array, queries: bool = False) -> jax.Array:
    """x [B, T, N, D] -> [B, T, N, R], of x / D^(1/4); of queries up to a factor each, which cancels."""
    width = x.shape[-1]
    drawn = self.variable(
      "features", "directions", lambda: _orthogonal(self.make_rng("params"), self.size, width)
    )
    x = x * width**-0.25
    exponents = jnp.einsum("btnd,rd->btnr", x, drawn.value) - 0.5 * jnp.sum(x**2, axis=-1, keepdims=True)
    if queries:  # keys cannot be shifted by what comes later; their exponents are at most |w|²/2
      exponents -= jax.lax.stop_gradient(exponents.max(axis=-1, keepdims=True))
    return (jnp.exp(exponents) + 1e-6) / self.size**0.5


def _orthogonal(key: jax.Array, size: int, width: int) -> jax.Array:
  """[R, D]: directions at right angles to each other, D at a time, with the lengths of normal vectors."""
  blocks = -(-size // width)
  directions, lengths = jax.random.split(key)
  squares = jax.vmap(lambda key: jnp.linalg.qr(jax.random.normal(key, (width, width)))[0])(
    jax.random.split(directions, blocks)
  )
  norms = jnp.linalg.norm(jax.random.normal(lengths, (size, width)), axis=-1)
  return squares.reshape(-1, width)[:size] * norms[:, None]


def kernel_attention(
  query: jax.Array, key: jax.Array, value: jax.Array, keys: jax.Array | None = None, causal: bool = False
) -> jax.Array:
  """φ(Q) (φ(K)ᵀ V), divided by φ(Q) Σ φ(K): no T x S scores (Katharopoulos et al., 2020, arXiv:2006.16236).

  Args:
    query: features [B, T, N, R].
    key: features [B, S, K, R], K divides N.
    value: [B, S, K, D].
    keys: [B, S] bool, which there are; None: all.
    causal: whether sums are over the keys up to the query's own.

  Returns:
    [B, T, N, D].
  """
  share = query.shape[2] // key.shape[2]
  key, value = (jnp.repeat(x, share, axis=2) for x in (key, value))  # [B, S, N, ...]
  if keys is not None:
    key = jnp.where(keys[:, :, None, None], key, 0.0)
  if not causal:
    total = jnp.einsum("bsnr,bsnd->bnrd", key, value)
    return jnp.einsum("btnr,bnrd->btnd", query, total) / _at_least(
      jnp.einsum("btnr,bnr->btn", query, key.sum(axis=1))
    )

  def step(sums, now):
    query, key, value = now  # [B, N, ...]
    total, weight = sums
    total, weight = total + key[..., None] * value[..., None, :], weight + key
    context = jnp.einsum("bnr,bnrd->bnd", query, total)
    return (total, weight), context / _at_least(jnp.einsum("bnr,bnr->bn", query, weight))

  batch, _, heads, size = key.shape
  zeros = (
    jnp.zeros((batch, heads, size, value.shape[-1]), value.dtype),
    jnp.zeros((batch, heads, size), key.dtype),
  )
  in_time = tuple(jnp.moveaxis(x, 1, 0) for x in (query, key, value))
  return jnp.moveaxis(jax.lax.scan(step, zeros, in_time)[1], 0, 1)


def _at_least(weight: jax.Array) -> jax.Array:
  return jnp.maximum(weight, 1e-9)[..., None]
