"""Positions: closed forms, and what makes them relative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.models.positions import relative_bucket, rotary, sinusoidal


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoidal_positions_follow_the_formula(width):
  found = sinusoidal(jnp.arange(5)[None], width)
  assert found.shape == (1, 5, width)
  for place in range(5):
    for i in range(width):
      angle = place / 10_000 ** ((i - i % 2) / width)
      np.testing.assert_allclose(found[0, place, i], np.cos(angle) if i % 2 else np.sin(angle), atol=1e-6)


def test_rotary_products_depend_on_the_distance_alone():
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

  def product(place_of_query, place_of_key):
    turned = rotary(q, jnp.array([[place_of_query]])), rotary(k, jnp.array([[place_of_key]]))
    return float(jnp.sum(turned[0] * turned[1]))

  assert product(9, 4) == pytest.approx(product(25, 20), abs=1e-4)
  assert product(0, 0) == pytest.approx(float(jnp.sum(q * k)), abs=1e-6)
  assert abs(product(9, 4) - product(9, 5)) > 1e-3


def test_rotary_turns_pairs_and_keeps_their_length():
  x = jax.random.normal(jax.random.key(0), (1, 3, 2, 4))
  turned = rotary(x, jnp.array([[0, 1, 2]]))
  pairs = np.reshape(x, (1, 3, 2, 2, 2)), np.reshape(turned, (1, 3, 2, 2, 2))
  np.testing.assert_allclose(*(np.linalg.norm(each, axis=-1) for each in pairs), rtol=1e-5)
  first = pairs[0][0, 1, 0, 0] @ np.array([[np.cos(1), np.sin(1)], [-np.sin(1), np.cos(1)]])
  np.testing.assert_allclose(pairs[1][0, 1, 0, 0], first, atol=1e-6)


def test_relative_buckets_are_those_of_t5():
  """Short distances by themselves, far ones on a logarithmic scale up to the furthest."""
  found = relative_bucket(jnp.array([0, -1, -7, -8, -16, -127, -500, 1, 7, 200]), 32, 128, both_ways=True)
  np.testing.assert_array_equal(found, [0, 1, 7, 8, 10, 15, 15, 17, 23, 31])
  found = relative_bucket(jnp.array([5, 0, -15, -16, -500]), 32, 128, both_ways=False)
  np.testing.assert_array_equal(found, [0, 0, 15, 16, 31])
