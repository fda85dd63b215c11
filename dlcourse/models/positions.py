"""What tells a Transformer the order of its input (H3.12.3).

Shapes: B batch, T places, N heads, D width of a head, M model width.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Positions = Literal["none", "sinusoidal", "learned", "rotary", "relative"]


def sinusoidal(places: jax.Array, width: int) -> jax.Array:
  """PE(pos, 2i) = sin(pos / 10000^(2i/M)), PE(pos, 2i + 1) = cos of the same (Vaswani et al., 2017; H3.12.3).

  Args:
    places: [...] int.
    width: M; where it is odd the last sine has no cosine.

  Returns:
    [..., M].
  """
  angles = _angles(places, -(-width // 2), width)
  both = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)  # [..., M/2, 2]
  return both.reshape(*places.shape, -1)[..., :width]


def rotary(x: jax.Array, places: jax.Array) -> jax.Array:
  """Turns each pair of entries by an angle that grows with the place (Su et al., 2021, arXiv:2104.09864).

  Products of a query and a key so turned depend on the distance of their places alone.

  Args:
    x: [B, T, N, D], queries or keys; D is even.
    places: [B or 1, T] int.
  """
  angles = _angles(places, x.shape[-1] // 2, x.shape[-1])[:, :, None]  # [B, T, 1, D/2]
  pairs = x.reshape(*x.shape[:-1], -1, 2)
  first, second, sine, cosine = pairs[..., 0], pairs[..., 1], jnp.sin(angles), jnp.cos(angles)
  turned = jnp.stack([first * cosine - second * sine, first * sine + second * cosine], axis=-1)
  return turned.reshape(x.shape).astype(x.dtype)


def _angles(places: jax.Array, count: int, width: int) -> jax.Array:
  """places [...] -> pos / 10000^(2i/width), i < count: [..., count]."""
  return places[..., None] / 10_000.0 ** (2 * jnp.arange(count) / width)


def relative_bucket(distance: jax.Array, buckets: int, furthest: int, both_ways: bool) -> jax.Array:
  """Numbers distances: each short one by itself, long ones on a logarithmic scale (Raffel et al., 2020, T5).

  Args:
    distance: [...] int, place of the key minus place of the query.
    buckets: how many numbers there are; half of them for keys that come later, where there are such.
    furthest: distances from here on share the last number.
    both_ways: whether keys that come later count; else all of them are as near as the query itself.

  Returns:
    [...] int in 0 … buckets - 1.
  """
  start = jnp.zeros_like(distance)
  if both_ways:
    buckets //= 2
    start = jnp.where(distance > 0, buckets, 0)
    size = jnp.abs(distance)
  else:
    size = jnp.maximum(-distance, 0)
  exact = buckets // 2
  growth = jnp.log(jnp.maximum(size, 1) / exact) / jnp.log(furthest / exact)
  far = jnp.minimum(exact + (growth * (buckets - exact)).astype(jnp.int32), buckets - 1)
  return start + jnp.where(size < exact, size, far)
