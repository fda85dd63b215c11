"""Divergences against closed forms, integrals and samples."""

import numpy as np
import pytest
from scipy import integrate, stats

from dlcourse.theory.divergences import (
  jensen_shannon,
  kullback_leibler,
  normal,
  optimal_discriminator,
  trained_discriminator,
  uniform,
  value_of_game,
  wasserstein,
)

GRID = np.linspace(-12, 12, 24_001)
WIDTH = GRID[1] - GRID[0]
P, Q = normal(GRID, -1, 1), normal(GRID, 0.5, 0.7)


def test_the_best_discriminator_turns_the_value_of_the_game_into_the_divergence():
  value = value_of_game(P, Q, optimal_discriminator(P, Q), WIDTH)
  p, q = stats.norm(-1, 1).pdf, stats.norm(0.5, 0.7).pdf

  def middle(x):
    return (p(x) + q(x)) / 2

  jsd = sum(
    integrate.quad(lambda x, f=f: 0.5 * f(x) * np.log(f(x) / middle(x)), -10, 10, epsabs=1e-10)[0]
    for f in (p, q)
  )
  assert value == pytest.approx(-np.log(4) + 2 * jsd, abs=1e-4)
  assert jensen_shannon(P, Q, WIDTH) == pytest.approx(jsd, abs=1e-6)


def test_no_other_discriminator_reaches_that_value():
  best = optimal_discriminator(P, Q)
  at_best = value_of_game(P, Q, best, WIDTH)
  for other in (np.full_like(best, 0.5), 0.9 * best, np.clip(best + 0.05 * np.sin(GRID), 1e-6, 1 - 1e-6)):
    assert value_of_game(P, Q, other, WIDTH) < at_best


def test_where_both_agree_nothing_can_be_told_apart():
  assert (optimal_discriminator(P, P) == 0.5).all()
  assert value_of_game(P, P, optimal_discriminator(P, P), WIDTH) == pytest.approx(-np.log(4), abs=1e-6)
  assert jensen_shannon(P, P, WIDTH) == wasserstein(P, P, WIDTH) == 0
  assert (optimal_discriminator(np.zeros(3), np.zeros(3)) == 0.5).all()


def test_apart_the_divergence_saturates_and_the_distance_does_not():
  grid = np.arange(-1, 12, 0.01)
  for shift in (1, 2, 5, 10):
    p, q = uniform(grid, 0), uniform(grid, shift)
    assert jensen_shannon(p, q, 0.01) == pytest.approx(np.log(2), abs=1e-9)
    assert kullback_leibler(p, q, 0.01) == np.inf
    assert wasserstein(p, q, 0.01) == pytest.approx(shift, rel=1e-6)
  half = jensen_shannon(uniform(grid, 0), uniform(grid, 0.5), 0.01)
  assert half == pytest.approx(np.log(2) / 2, rel=1e-6)


def test_the_distance_of_two_normals_of_one_width_is_that_of_their_means_and_kl_its_closed_form():
  shifted = normal(GRID, 2, 1)
  assert wasserstein(P, shifted, WIDTH) == pytest.approx(3, abs=1e-5)
  closed = np.log(0.7 / 1) + (1 + 1.5**2) / (2 * 0.49) - 0.5
  assert kullback_leibler(P, Q, WIDTH) == pytest.approx(closed, rel=1e-6)


def test_a_trained_discriminator_comes_near_the_best_one():
  rng = np.random.default_rng(0)
  real, fake = rng.normal(-1, 1, 4_000), rng.normal(1, 1, 4_000)
  at = np.linspace(-3, 3, 25)
  best = optimal_discriminator(stats.norm(-1, 1).pdf(at), stats.norm(1, 1).pdf(at))
  np.testing.assert_allclose(best, 1 / (1 + np.exp(2 * at)), rtol=1e-9)
  assert np.abs(trained_discriminator(real, fake, at, steps=500) - best).max() < 0.08
