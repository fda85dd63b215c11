"""Dense layers over many places, with products that a CPU does at full speed."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse import platform


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[P, D] [D, F] -> [P, F]."""
  return x @ kernel


def _forward(x, kernel):
  return x @ kernel, (x, kernel)


def _backward(saved, upstream):
  x, kernel = saved
  # XLA's CPU backend takes a narrow matrix on the left at twice the speed of a wide one.
  if x.shape[1] <= upstream.shape[1]:
    return upstream @ kernel.T, x.T @ upstream
  return upstream @ kernel.T, jax.lax.optimization_barrier(upstream.T @ x).T


_product.defvjp(_forward, _backward)


def matrix_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x [..., D] times kernel [D, F] -> [..., F], as one product of two matrices, in the gradients too.

  Where x has several axes of places, XLA's CPU backend otherwise sums the gradient of the kernel over both of
  them at less than half the speed.
  """
  if not platform.own_gradients():
    return x @ kernel
  return _product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


def _dot_general(x: jax.Array, kernel: jax.Array, dimensions: Any, precision: Any = None) -> jax.Array:
  """What `nn.Dense` asks for, by `matrix_product`."""
  del dimensions, precision
  return matrix_product(x, kernel)


class Dense(nn.Dense):
  """`nn.Dense` by `matrix_product`: the same parameters and outputs."""

  dot_general: Callable = _dot_general


class Embed(nn.Embed):
  """`nn.Embed` whose `attend` goes by `matrix_product`."""

  def attend(self, query: jax.Array) -> jax.Array:
    """query [..., M] -> its products with all vectors, [..., V]."""
    query, table = self.promote_dtype(query, self.embedding, dtype=self.dtype)
    return matrix_product(query, jnp.asarray(table).T)
