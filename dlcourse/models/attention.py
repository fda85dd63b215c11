"""Attention from its formula, with several heads, and who may look at whom (H3.12.2).

Shapes: B batch, T queries, S keys, N heads, K heads of keys and values, D width of a head, M model width.
"""

from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse import platform
from dlcourse.errors import UserError
from dlcourse.models.dense import Dense
from dlcourse.models.linear_attention import Features, Pooled, kernel_attention
from dlcourse.models.positions import rotary

Kind = Literal["softmax", "performer", "linformer"]


class Seen(NamedTuple):
  """Who may look at whom, and from where; the same for all layers.

  Attributes:
    mask: [B or 1, 1, T, S] bool, 1 = may look; None: everybody at everything.
    keys: [B, S] bool, which keys there are; None: all.
    bias: [B or 1, N, T, S], added to the scores; None: nothing.
    places: [B or 1, T] int, of the queries, for rotary positions; None: these are not used.
    start: [B] int, where in a cache the queries' own keys belong; None: there is no cache.
  """

  mask: jax.Array | None = None
  keys: jax.Array | None = None
  bias: jax.Array | None = None
  places: jax.Array | None = None
  start: jax.Array | None = None


class KeysValues(NamedTuple):
  """What is looked at: of a whole source, or so far.

  Attributes:
    keys: [B, S, K, D]; in a cache [B, K, S, D], so that a query meets them without a copy.
    values: likewise.
  """

  keys: jax.Array
  values: jax.Array


class Memory(NamedTuple):
  """What a decoder carries from token to token; every leaf has the batch as leading axis.

  Attributes:
    cache: keys and values [B, K, S, D] of the places so far, for each layer.
    time: [B] int, how many these are.
  """

  cache: tuple[KeysValues, ...]
  time: jax.Array


def visible(
  times: int, lengths: jax.Array | None = None, causal: bool = False, window: int | None = None
) -> tuple[jax.Array | None, jax.Array | None]:
  """The masks of T places that look at themselves.

  Args:
    times: T.
    lengths: [B] int, places that there are; None: all.
    causal: whether each place sees only itself and what is before it.
    window: of a causal one, how many places it sees at most; None: all.

  Returns:
    `mask` and `keys` of `Seen`.
  """
  places = jnp.arange(times)
  keys = None if lengths is None else places < lengths[:, None]
  mask = None if keys is None else keys[:, None, None]
  if causal:
    before = looking_back(places, places, window)[None, None]
    mask = before if mask is None else mask & before
  return mask, keys


def looking_back(places: jax.Array, keys: jax.Array, window: int | None) -> jax.Array:
  """places [..., T], keys [S] -> [..., T, S] bool: itself and what is before it, `window` at most."""
  before = keys <= places[..., None]
  return before if window is None else before & (keys > places[..., None] - window)


def further(memory: Memory, count: int, window: int | None = None) -> tuple[Seen, jax.Array, jax.Array]:
  """What as many places after those in a memory see, where they are [B, T], and where its keys are [S]."""
  places = memory.time[:, None] + jnp.arange(count)
  room = jnp.arange(memory.cache[0].keys.shape[2])
  return Seen(mask=looking_back(places, room, window)[:, None], start=memory.time), places, room


def scaled_dot_product(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  mask: jax.Array | None = None,
  bias: jax.Array | None = None,
  scale: float | None = None,
) -> tuple[jax.Array, jax.Array]:
  """softmax(Q Kᵀ / sqrt(D)) V, the formula (Vaswani et al., 2017, equation 1; H3.12.2).

  N / K neighbouring heads of queries share one of keys and values (Ainslie et al., 2023, arXiv:2305.13245).

  Args:
    query: [B, T, N, D].
    key: [B, S, K, D].
    value: [B, S, K, D].
    mask: [B or 1, 1, T, S] bool, 1 = may look; a query that may look at nothing looks at all alike.
    bias: [B or 1, N, T, S], added to the scaled scores.
    scale: of the scores; None: 1 / sqrt(D).

  Returns:
    [B, T, N, D], and the weights [B, N, T, S].
  """
  return _over_heads(query, jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2), mask, bias, scale)


def _over_heads(query, key, value, mask, bias, scale) -> tuple[jax.Array, jax.Array]:
  """`scaled_dot_product` with key and value [B, K, S, D]."""
  batch, times, heads, width = query.shape
  groups = query.reshape(batch, times, key.shape[1], -1, width)
  scores = jnp.einsum("btkgd,bksd->bkgts", groups, key).reshape(batch, heads, times, key.shape[2])
  scores *= width**-0.5 if scale is None else scale
  if bias is not None:
    scores += bias
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  weights = nn.softmax(scores.astype(jnp.float32), axis=-1).astype(value.dtype)
  grouped = weights.reshape(batch, key.shape[1], -1, times, key.shape[2])
  return jnp.einsum("bkgts,bksd->btkgd", grouped, value).reshape(query.shape), weights


@jax.custom_vjp
def _fast_context(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
  """The context of `scaled_dot_product` for scaled queries, as many heads of keys and no bias.

  Heads come before places, and gradients are written so that no product has a wide matrix transposed on its
  left: XLA's CPU backend takes two thirds of the time that it needs for the derived ones.
  """
  return _fast_forward(query, key, value, mask)[0]


def _fast_forward(query, key, value, mask):
  query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # [B, N, T, D]
  scores = jnp.einsum("bntd,bnsd->bnts", query, key)
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  weights = nn.softmax(scores.astype(jnp.float32), axis=-1).astype(value.dtype)
  context = jnp.einsum("bnts,bnsd->bntd", weights, value)
  return jnp.swapaxes(context, 1, 2), (query, key, value, weights, context)


def _fast_backward(saved, upstream):
  query, key, value, weights, context = saved
  upstream = jnp.swapaxes(upstream, 1, 2)
  seen = jnp.sum(upstream * context, axis=-1, keepdims=True)  # [B, N, T, 1]
  scores = weights * (jnp.einsum("bntd,bnsd->bnts", upstream, value) - seen)
  to_query = jnp.einsum("bnts,bnsd->bntd", scores, key)
  to_key = jnp.einsum("bntd,bnts->bnds", query, scores)
  to_value = jnp.einsum("bntd,bnts->bnds", upstream, weights)
  return jnp.swapaxes(to_query, 1, 2), *(jnp.transpose(x, (0, 3, 1, 2)) for x in (to_key, to_value)), None


_fast_context.defvjp(_fast_forward, _fast_backward)


class MultiHeadAttention(nn.Module):
  """N heads that each look with D entries of a projected query (Vaswani et al., 2017, section 3.2.2)."""

  hidden_dim: int
  """M."""
  num_heads: int
  """N."""
  num_kv_heads: int
  """K, which divides N."""
  head_dim: int
  """D."""
  bias: bool = True
  """Whether the projections add one."""
  scaled: bool = True
  """Whether scores are divided by sqrt(D); T5 has that in its initialisation."""
  kind: Kind = "softmax"
  """softmax (exact), or at a cost that is linear in T: performer (FAVOR+), linformer."""
  causal: bool = False
  """Whether no query sees what comes later; `Seen.mask` says so too."""
  size: int = 256
  """Of a linear attention: random features of a performer, places that a linformer keeps."""
  max_length: int = 512
  """Of a linformer, which has weights for each place."""
  dtype: jnp.dtype = jnp.float32
  """Of the computation."""

  def setup(self) -> None:
    """The four projections."""
    narrow = self.num_kv_heads * self.head_dim
    widths = {"query": self.num_heads * self.head_dim, "key": narrow, "value": narrow, "out": self.hidden_dim}
    usual = nn.initializers.lecun_normal()
    # Without the division the query's weights are as much smaller, as in T5.
    query = usual if self.scaled else nn.initializers.variance_scaling(1 / self.head_dim, "fan_in", "normal")
    for name, width in widths.items():
      initial = query if name == "query" else usual
      setattr(self, name, Dense(width, use_bias=self.bias, dtype=self.dtype, kernel_init=initial))
    if self.kind == "performer":
      self.features = Features(self.size)
    elif self.kind == "linformer":
      self.pooled = Pooled(self.size, self.max_length)

  def __call__(
    self, x: jax.Array, seen: Seen, cache: KeysValues | None = None
  ) -> tuple[jax.Array, KeysValues | None]:
    """Each place looks at the places of its own sequence.

    Args:
      x: [B, T, M].
      seen: who looks at whom; with a cache, S is its size.
      cache: what came before, [B, K, S, D]; None: x is the whole.

    Returns:
      [B, T, M], and the cache with x's keys and values.
    """
    query, own = self._heads(self.query(x), self.num_heads), self.look_at(x)
    if seen.places is not None:
      query, own = rotary(query, seen.places), own._replace(keys=rotary(own.keys, seen.places))
    if cache is not None:
      cache = _extended(cache, own, seen.start)
      context, _ = _over_heads(query, *cache, seen.mask, seen.bias, self._scale())
      return self._joined(context), cache
    return self._joined(self._attend(query, own, seen)), None

  def look_at(self, x: jax.Array) -> KeysValues:
    """x [B, S, M] -> what queries see of it."""
    return KeysValues(
      self._heads(self.key(x), self.num_kv_heads), self._heads(self.value(x), self.num_kv_heads)
    )

  def across(self, x: jax.Array, source: KeysValues, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each place looks at another sequence, by the formula.

    Args:
      x: [B, T, M].
      source: of `look_at`.
      mask: [B, S] bool, which places of it there are.

    Returns:
      [B, T, M], and the weights, a mean over the heads: [B, T, S].
    """
    query = self._heads(self.query(x), self.num_heads)
    context, weights = scaled_dot_product(query, *source, mask[:, None, None], scale=self._scale())
    return self._joined(context), weights.mean(axis=1)

  def _attend(self, query: jax.Array, own: KeysValues, seen: Seen) -> jax.Array:
    match self.kind:
      case "performer":
        queries, keys = self.features(query, queries=True), self.features(own.keys)
        return kernel_attention(queries, keys, own.values, seen.keys, self.causal)
      case "linformer":
        keys, values = self.pooled(own.keys, seen.keys), self.pooled(own.values, seen.keys)
        return scaled_dot_product(query, keys, values, scale=self._scale())[0]
      case "softmax":
        if platform.fused_attention(self.dtype):
          return jax.nn.dot_product_attention(
            query, *own, bias=seen.bias, mask=seen.mask, scale=self._scale(), implementation="cudnn"
          )
        plain = seen.bias is not None or self.num_kv_heads < self.num_heads or not platform.own_gradients()
        if not plain and not self.is_mutable_collection("intermediates"):
          return _fast_context(query * self._scale(), *own, seen.mask)
        context, weights = scaled_dot_product(query, *own, seen.mask, seen.bias, self._scale())
        self.sow("intermediates", "weights", weights)
        return context
    raise ValueError(f"attention {self.kind!r} is none of {', '.join(get_args(Kind))}")

  def _scale(self) -> float:
    return self.head_dim**-0.5 if self.scaled else 1.0

  def _heads(self, x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(*x.shape[:2], heads, self.head_dim)

  def _joined(self, context: jax.Array) -> jax.Array:
    return self.out(context.reshape(*context.shape[:2], -1))


def _extended(cache: KeysValues, own: KeysValues, start: jax.Array) -> KeysValues:
  """The cache with keys and values of further places, from `start` [B] on; what is beyond its end is lost."""
  rows = jnp.arange(own.keys.shape[0])[:, None]
  places = start[:, None] + jnp.arange(own.keys.shape[1])
  return KeysValues(
    *(old.at[rows, :, places].set(new, mode="drop") for old, new in zip(cache, own, strict=True))
  )


def check_heads(hidden_dim: int, num_heads: int, num_kv_heads: int | None, head_dim: int | None) -> None:
  """Raises a `UserError` where the heads cannot share the width, or the keys."""
  if head_dim is None and hidden_dim % num_heads:
    raise UserError(f"num_heads={num_heads} has to divide hidden_dim={hidden_dim}, or set head_dim")
  if num_kv_heads is not None and num_heads % num_kv_heads:
    raise UserError(f"num_kv_heads={num_kv_heads} has to divide num_heads={num_heads}")
