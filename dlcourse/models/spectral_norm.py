"""Spectral normalisation (Miyato et al., 2018, arXiv:1802.05957, section 2 and algorithm 1; H4.6.4).

Each kernel is divided by its largest singular value σ, which bounds the layer's Lipschitz constant. One power
iteration a step follows σ while the kernel changes; the collection "spectral" keeps its vector under the path
of the layer. (`flax.linen.SpectralNorm` wraps a layer, keeps vectors under names of its own, with slashes,
takes an iteration in evaluation too, and fails where they may not change, as in the generator's step.)

Shapes: I inputs of one output (kernel size times channels), O outputs.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from dlcourse.models.convolution import Conv
from dlcourse.models.dense import Dense

_START_ITERATIONS = 15  # as in PyTorch: from a vector drawn at random the first σ would be too small


def power_iteration(matrix: Array, u: Array) -> tuple[Array, Array]:
  """One step towards the singular vectors of the largest singular value (algorithm 1, step 1).

  Args:
    matrix: [I, O].
    u: [O], the estimate so far, of length 1.

  Returns:
    v [I], for the u that was given, and the next u [O], both of length 1.
  """
  v = _unit(matrix @ u)
  return v, _unit(v @ matrix)


def _unit(x: Array) -> Array:
  return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def _start(key: Array, matrix: Array) -> Array:
  """A vector [O] that is near the singular one already."""
  u = _unit(jax.random.normal(key, matrix.shape[-1:], matrix.dtype))
  return lax.fori_loop(0, _START_ITERATIONS, lambda _, u: power_iteration(matrix, u)[1], u)


def _normalised(layer: nn.Module, kernel: Array) -> Array:
  """The kernel over its σ = vᵀWu; gradients go through W only (equation 11)."""
  matrix = kernel.reshape(-1, kernel.shape[-1])  # [I, O]
  fixed = lax.stop_gradient(matrix)
  kept = layer.variable("spectral", "u", lambda: _start(layer.make_rng("params"), fixed))
  u = kept.value
  v, following = power_iteration(fixed, u)
  if layer.train and not layer.is_initializing():
    u = following
    if layer.is_mutable_collection("spectral"):
      kept.value = u
  return kernel / (v @ matrix @ u)


class _Spectral(nn.Module):
  """What makes a layer with a kernel a spectrally normalised one."""

  train: bool = False
  """Take a power iteration; it is kept where the collection "spectral" is mutable."""

  def param(self, name: str, init_fn: Callable, *init_args) -> Array:
    """The parameter as the layer uses it: the kernel normalised, the bias as it is."""
    value = super().param(name, init_fn, *init_args)
    return _normalised(self, value) if name == "kernel" else value


class SpectralConv(_Spectral, Conv):
  """`Conv` with its kernel, as a matrix [-1, out], divided by the largest singular value."""


class SpectralDense(_Spectral, Dense):
  """`Dense` with its kernel divided by the largest singular value."""
