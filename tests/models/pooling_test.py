"""Max pooling by shifts, against Flax's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse import platform
from dlcourse.models.pooling import max_pool

CASES = {
  "quarters": ((2, 8, 6, 3), (2, 2), (2, 2), "VALID"),
  "rest of a stride": ((2, 7, 9, 3), (2, 2), (2, 2), "VALID"),
  "overlapping": ((2, 9, 9, 2), (3, 3), (2, 2), "VALID"),
  "same": ((2, 7, 8, 2), (3, 3), (1, 1), "SAME"),
  "same, strided": ((2, 8, 8, 2), (3, 3), (2, 2), "SAME"),
  "edges": ((1, 8, 7, 2), (3, 2), (2, 1), ((1, 1), (0, 1))),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_flax(case, monkeypatch):
  monkeypatch.setattr(platform, "own_gradients", lambda: True)
  shape, *how = case
  x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
  found = [
    (pool(x, *how), jax.grad(lambda x, p=pool: jnp.sum(p(x, *how) ** 3))(x)) for pool in (max_pool, nn.max_pool)
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *found)


def test_of_equal_values_one_gets_the_whole_gradient(monkeypatch):
  monkeypatch.setattr(platform, "own_gradients", lambda: True)
  gradient = jax.grad(lambda x: max_pool(x, (2, 2), (2, 2)).sum())(jnp.zeros((1, 4, 4, 1)))
  np.testing.assert_array_equal(gradient, nn.max_pool(gradient, (4, 4)) * gradient)
  assert gradient.sum() == 4


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_nan_is_not_lost(at):
  x = jnp.arange(4.0).at[at].set(jnp.nan).reshape(1, 2, 2, 1)
  assert jnp.isnan(max_pool(x, (2, 2), (2, 2))).all()
