"""Batch normalisation over the *global* batch (Ioffe & Szegedy, 2015; H1.4.5), with the gradient of the paper.

What JAX derives reads the image a dozen times; section 3 of the paper gives the gradient in two reductions,
which is 3 to 4 times as fast on a CPU.

Shapes: B batch, C channels; every axis but the last is normalised over.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from dlcourse import platform
from dlcourse.parallel import replica_axis

_Result = tuple[Array, Array, Array]


class BatchNorm(nn.Module):
  """Parameters `scale` and `bias`, running averages `mean` and `var`, as in `flax.linen.BatchNorm`.

  Where one program sees the whole batch its mean is the global one already; under `pmap` the statistics are
  averaged over the replicas.
  """

  train: bool
  """Normalise by the batch and update the running averages; else by the running averages."""
  momentum: float = 0.9
  """Of the running averages, m <- momentum * m + (1 - momentum) * batch."""
  epsilon: float = 1e-5
  """Added to the variance."""

  @nn.compact
  def __call__(self, x: Array, mask: Array | None = None) -> Array:
    """x [B, ..., C] -> [B, ..., C]; the statistics leave out the examples whose mask [B] is 0."""
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones_init(), shape)
    bias = self.param("bias", nn.initializers.zeros_init(), shape)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape)
    if not self.train:
      return (x - running_mean.value) * (lax.rsqrt(running_var.value + self.epsilon) * scale) + bias
    normalise = _normalise if platform.own_gradients() else _plain
    weight = jnp.ones((), x.dtype) if mask is None else mask.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
    y, mean, var = normalise(x, scale, bias, weight, self.epsilon, replica_axis())
    if not self.is_initializing():
      for running, batch in ((running_mean, mean), (running_var, var)):
        fresh = (1 - self.momentum) * lax.stop_gradient(batch)
        running.value = self.momentum * running.value + fresh
    return y


def _plain(x: Array, scale: Array, bias: Array, weight: Array, epsilon: float, axis: str | None) -> _Result:
  """Normalised x, and the weighted mean and variance [C] of the global batch."""
  count = _count(x, weight)
  total, squares = _sum(weight * x), _sum(weight * jnp.square(x))
  if axis:
    total, squares, count = lax.psum((total, squares, count), axis)
  mean = total / count
  var = jnp.maximum(squares / count - jnp.square(mean), 0)  # which rounding can make negative
  return (x - mean) * (lax.rsqrt(var + epsilon) * scale) + bias, mean, var


def _sum(x: Array) -> Array:
  return x.sum(tuple(range(x.ndim - 1)))


def _count(x: Array, weight: Array) -> Array:
  """How many numbers of a channel count."""
  return weight.sum() * (x.size // (x.shape[-1] * weight.size))


_normalise = partial(jax.custom_vjp, nondiff_argnums=(4, 5))(_plain)


def _forward(x: Array, scale: Array, bias: Array, weight: Array, epsilon: float, axis: str | None) -> tuple:
  y, mean, var = _plain(x, scale, bias, weight, epsilon, axis)
  return (y, mean, var), (x, scale, weight, mean, lax.rsqrt(var + epsilon))


def _backward(epsilon: float, axis: str | None, residuals: tuple, gradients: _Result) -> tuple:
  """The equations of section 3; mean and variance go into running averages only, which have no gradient."""
  x, scale, weight, mean, inverse = residuals
  dy, count = gradients[0], _count(x, weight)
  d_bias = _sum(dy)
  d_scale = (_sum(x * dy) - mean * d_bias) * inverse
  bias_sum, scale_sum = d_bias, d_scale
  if axis:
    bias_sum, scale_sum, count = lax.psum((d_bias, d_scale, count), axis)
  from_statistics = weight * (bias_sum + (x - mean) * (inverse * scale_sum)) / count
  return (scale * inverse) * (dy - from_statistics), d_scale, d_bias, jnp.zeros_like(weight)


_normalise.defvjp(_forward, _backward)
