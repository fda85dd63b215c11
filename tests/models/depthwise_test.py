"""Depthwise convolutions as sums of shifted images, against JAX's grouped ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dlcourse import platform
from dlcourse.models import convolution
from dlcourse.models.depthwise import depthwise

# Input [B, H, W, C], kernel [K, L], strides, padding.
CASES = {
  "same": ((2, 7, 8, 5), (3, 3), (1, 1), "SAME"),
  "strided, even side": ((2, 8, 8, 4), (3, 3), (2, 2), "SAME"),
  "strided, odd side": ((2, 9, 7, 4), (5, 5), (2, 2), "SAME"),
  "strides differ": ((1, 9, 8, 3), (3, 2), (3, 1), "VALID"),
  "rest of a stride": ((2, 10, 9, 3), (3, 3), (4, 4), "VALID"),
  "around": ((2, 8, 8, 4), (5, 5), (2, 2), [(2, 2), (2, 2)]),
  "wide": ((1, 4, 4, 2), (2, 2), (1, 1), [(3, 4), (5, 2)]),
  "cropped": ((2, 9, 9, 2), (3, 3), (1, 1), [(-1, -2), (0, -1)]),
  "covered": ((2, 3, 4, 3), (3, 4), (1, 1), "VALID"),
}


def convolve(function, strides, padding):
  def call(x, kernel):
    return function(
      x,
      kernel,
      strides,
      padding,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=x.shape[-1],
    )

  return call


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_of_first_and_second_order(case, monkeypatch):
  monkeypatch.setattr(platform, "own_gradients", lambda: True)
  shape, kernel_shape, strides, padding = case
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=shape), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(*kernel_shape, 1, shape[-1])), jnp.float32)
  found = []
  for function in (convolution.conv_general_dilated, lax.conv_general_dilated):
    call = convolve(function, strides, padding)

    def loss(x, kernel, call=call):
      return jnp.sum(jnp.sin(call(x, kernel)))

    def slope(x, kernel, loss=loss):
      return sum(jnp.sum(jnp.cos(g)) for g in jax.grad(loss, (0, 1))(x, kernel))

    found.append((call(x, kernel), jax.grad(loss, (0, 1))(x, kernel), jax.grad(slope, (0, 1))(x, kernel)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *found)


def test_it_is_taken_for_depthwise_convolutions_only(monkeypatch):
  monkeypatch.setattr(platform, "own_gradients", lambda: True)
  x = jnp.ones((1, 5, 5, 4))

  def jaxpr(kernel, groups):
    numbers = ("NHWC", "HWIO", "NHWC")
    call = lambda x, k: convolution.conv_general_dilated(  # noqa: E731
      x, k, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )
    return str(jax.make_jaxpr(call)(x, kernel))

  assert "conv_general_dilated" not in jaxpr(jnp.ones((3, 3, 1, 4)), 4)
  assert "feature_group_count=2" in jaxpr(jnp.ones((3, 3, 2, 4)), 2)
  assert "feature_group_count=4" in jaxpr(jnp.ones((3, 3, 1, 8)), 4)  # two kernels a channel


def test_the_batch_is_never_cut():
  def loss(x, kernel):
    return depthwise(x, kernel, (1, 1), ((1, 1), (1, 1))).sum()

  text = str(jax.make_jaxpr(jax.grad(loss, 1))(jnp.ones((7, 5, 5, 2)), jnp.ones((3, 3, 1, 2))))
  assert "scan" in text
  assert "length=5" in text
