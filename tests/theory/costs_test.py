"""Counts against networks that are traced, and fits against laws that are known."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.cells import CellName
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.summary import summarise
from dlcourse.models.transformer import Layer, Transformer
from dlcourse.theory import costs

SIZES = (16, 32, 64, 128, 256)


def products(body, steps, width):
  inputs = jax.ShapeDtypeStruct((1, steps, width), jnp.float32)
  return sum(layer.multiply_adds for layer in summarise(body.init, jax.random.key(0), inputs))


@pytest.mark.parametrize("cell", get_args(CellName))
def test_the_products_of_a_recurrent_layer_are_those_that_it_takes(cell):
  assert costs.recurrent_products(cell, 7, 12) == products(RecurrentStack(cell, 12), 7, 12)


@pytest.mark.parametrize("steps", [5, 40])
def test_the_products_of_a_transformer_layer_are_those_that_it_takes(steps):
  found = products(Transformer(Layer(12, num_heads=3), num_layers=1), steps, 12)
  assert sum(costs.transformer_products(steps, 12)) == found


def test_both_parts_of_a_transformer_layer_are_equal_at_six_times_the_width():
  linear, quadratic = costs.transformer_products(6 * 128, 128)
  assert linear == quadratic == 1.5 * costs.recurrent_products("lstm", 6 * 128, 128)


def test_an_unknown_cell_is_refused():
  with pytest.raises(UserError, match="unknown cell 'lstmm'; perhaps you meant 'lstm'"):
    costs.recurrent_products("lstmm", 1, 1)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_the_exponent_of_a_power_law_is_found(power):
  assert costs.fitted_exponent(SIZES, [3e-4 * size**power for size in SIZES]) == pytest.approx(power, abs=1e-9)


def test_the_terms_of_a_sum_are_found():
  taken = [0.03 * size + 2e-5 * size**2 for size in SIZES]
  np.testing.assert_allclose(costs.fitted_terms(SIZES, taken), (0.03, 2e-5), rtol=1e-6)


def test_a_term_never_counts_less_than_nothing():
  linear, quadratic = costs.fitted_terms(SIZES, [size**0.9 for size in SIZES])
  assert linear > 0
  assert quadratic == 0


def test_no_other_terms_have_smaller_relative_errors():
  sizes, taken = np.array(SIZES, float), np.array([2.2, 3.0, 9.0, 20.0, 75.0])
  linear, quadratic = costs.fitted_terms(sizes, taken)
  assert min(linear, quadratic) > 0
  errors = 1 - (linear * sizes + quadratic * sizes**2) / taken
  for term in (sizes, sizes**2):
    assert errors @ (term / taken) == pytest.approx(0, abs=1e-6 * max(term / taken))


def test_power_laws_cross_where_they_are_equal():
  """2 T² = 100 T at T = 50, between the points."""
  assert costs.crossing(SIZES, [2 * s**2 for s in SIZES], [100 * s for s in SIZES]) == pytest.approx(50)
  assert costs.crossing(SIZES, [100 * s for s in SIZES], [2 * s**2 for s in SIZES]) == pytest.approx(50)


def test_the_last_crossing_counts():
  assert costs.crossing(SIZES, [1, 4, 1, 1, 4], [2, 2, 2, 2, 2]) == pytest.approx(128 * 2**0.5)


def test_costs_that_do_not_cross_have_no_crossing():
  assert costs.crossing(SIZES, SIZES, [2 * s for s in SIZES]) is None
