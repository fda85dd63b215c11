import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import rosen_der

from dlcourse.theory import optimizers
from dlcourse.theory.optimizers import rosenbrock_slope, trajectory

START = np.array([-0.5, 0.8])
PAIRS = {
  "sgd": (optimizers.sgd(1e-3), optax.sgd(1e-3)),
  "momentum": (optimizers.momentum(1e-4), optax.sgd(1e-4, 0.9)),
  "nesterov": (optimizers.momentum(1e-4, nesterov=True), optax.sgd(1e-4, 0.9, nesterov=True)),
  "rmsprop": (optimizers.rmsprop(1e-2), optax.rmsprop(1e-2)),
  "adagrad": (optimizers.adagrad(0.1), optax.adagrad(0.1)),
  "adam": (optimizers.adam(1e-2), optax.adam(1e-2)),
  "adamw": (optimizers.adam(1e-2, decay=0.1), optax.adamw(1e-2, weight_decay=0.1)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_hundred_steps_are_those_of_optax(name):
  ours, theirs = PAIRS[name]
  found = trajectory(ours, lambda theta, t: rosenbrock_slope(theta), START, 100)
  with jax.enable_x64(True):
    theta = jnp.asarray(START)
    state = theirs.init(theta)
    for point in found[1:]:
      updates, state = theirs.update(jnp.asarray(rosenbrock_slope(np.asarray(theta))), state, theta)
      theta = optax.apply_updates(theta, updates)
      np.testing.assert_allclose(point, theta, atol=1e-9)


def test_the_first_step_of_adam_is_the_rate_and_without_correction_more_than_three_of_it():
  def first(**options):
    return trajectory(optimizers.adam(0.01, **options), lambda theta, t: np.array([7.0]), np.zeros(1), 1)[1]

  np.testing.assert_allclose(first(), -0.01, rtol=1e-6)
  np.testing.assert_allclose(first(corrected=False), -0.01 * 0.1 / 0.001**0.5, rtol=1e-6)


def test_the_slope_of_the_valley_is_that_of_scipy():
  np.testing.assert_allclose(rosenbrock_slope(START), rosen_der(START))
