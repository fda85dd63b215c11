import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from dlcourse.theory.disentanglement import information_of_factors, mutual_information_gap

RNG = np.random.default_rng(0)
FACTORS = np.stack([RNG.integers(4, size=20_000), RNG.integers(3, size=20_000)], axis=1)


def test_a_latent_for_each_factor_has_the_gap_one_and_two_for_one_have_none():
  noise = RNG.normal(size=(20_000, 2))
  apart = np.concatenate([FACTORS[:, ::-1] * [-2.0, 5.0], noise], axis=1)
  assert mutual_information_gap(apart, FACTORS) == pytest.approx(1, abs=0.01)
  twice = np.concatenate([FACTORS, 3 - FACTORS], axis=1).astype(float)
  assert mutual_information_gap(twice, FACTORS) == pytest.approx(0, abs=1e-9)
  assert mutual_information_gap(noise, FACTORS) == pytest.approx(0, abs=0.01)


def test_a_latent_that_knows_half_of_a_factor_leaves_the_other_half_as_gap():
  factor = np.arange(4).repeat(100)[:, None]
  codes = np.concatenate([factor, factor // 2], axis=1)  # log 4 and log 2 nats of it
  assert mutual_information_gap(codes, factor) == pytest.approx(0.5)


@pytest.mark.parity
def test_information_is_that_of_scikit_learn():
  codes = RNG.integers(6, size=(500, 3))
  codes[:6] = np.arange(6)[:, None]
  factors = codes[:, :2] // 2 + RNG.integers(2, size=(500, 2))
  information, entropies = information_of_factors(codes, factors, bins=6)  # of width 5/6, each with one integer
  for z in range(3):
    for k in range(2):
      assert information[z, k] == pytest.approx(mutual_info_score(codes[:, z], factors[:, k]), abs=1e-12)
  assert entropies[0] == pytest.approx(mutual_info_score(factors[:, 0], factors[:, 0]), abs=1e-12)


def test_what_has_no_gap_is_refused():
  with pytest.raises(ValueError, match="between two latents"):
    mutual_information_gap(RNG.normal(size=(9, 1)), RNG.integers(2, size=(9, 1)))
  with pytest.raises(ValueError, match="one value"):
    mutual_information_gap(RNG.normal(size=(9, 2)), np.ones((9, 1), int))
