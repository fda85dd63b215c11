"""Batch norm over the global batch, against its formulas and Flax's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse import platform
from dlcourse.models.batch_norm import BatchNorm


def test_batch_norm_normalises_each_channel_over_batch_and_space():
  x = np.random.default_rng(0).normal(3.0, 2.0, size=(4, 5, 5, 3)).astype(np.float32)
  norm = BatchNorm(True, momentum=0.9, epsilon=0.1)
  variables = norm.init(jax.random.key(0), x)
  variables = {"params": {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.array([0.0, 1.0, -1.0])}} | {
    "batch_stats": variables["batch_stats"]
  }
  y, updated = norm.apply(variables, x, mutable=["batch_stats"])
  mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
  np.testing.assert_allclose(
    y, [1.0, 2.0, 3.0] * (x - mean) / np.sqrt(variance + 0.1) + [0.0, 1.0, -1.0], atol=1e-5
  )
  np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, rtol=1e-4)
  np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * variance, rtol=1e-4)


def test_batch_norm_at_evaluation_uses_the_running_averages():
  x = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
  stats = {"mean": jnp.array([1.0, -1.0]), "var": jnp.array([4.0, 0.25])}
  params = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
  y = BatchNorm(False, epsilon=0.0).apply({"params": params, "batch_stats": stats}, x)
  np.testing.assert_allclose(y, (x - [1.0, -1.0]) / [2.0, 0.5], rtol=1e-5)


@pytest.mark.parametrize("mask", [None, np.array([1, 0, 1, 1], np.float32)])
@pytest.mark.parametrize("fast", [True, False])
def test_gradients_are_those_of_flax(fast, mask, monkeypatch):
  monkeypatch.setattr(platform, "own_gradients", lambda: fast)
  rng = np.random.default_rng(0)
  x, weight = (rng.normal(1.0, 2.0, size=(4, 3, 5, 6)).astype(np.float32) for _ in range(2))
  params = {"scale": rng.normal(size=6).astype(np.float32), "bias": rng.normal(size=6).astype(np.float32)}
  stats = {"mean": np.zeros(6, np.float32), "var": np.ones(6, np.float32)}
  found = []
  flax_mask = None if mask is None else mask[:, None, None, None]
  for norm, given in (
    (BatchNorm(True, epsilon=0.1), mask),
    (nn.BatchNorm(False, momentum=0.9, epsilon=0.1), flax_mask),
  ):

    def loss(params, x, norm=norm, given=given):
      y, updated = norm.apply({"params": params, "batch_stats": stats}, x, mask=given, mutable=["batch_stats"])
      return jnp.sum(jnp.sin(y) * weight), updated

    found.append(jax.grad(loss, (0, 1), has_aux=True)(params, x))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)
