import jax
import jax.numpy as jnp
import numpy as np

from dlcourse import losses


def test_bernoulli_nll_equals_the_float64_formula_even_at_extreme_logits():
  logits = np.array([[-100.0, -30.0, -1.0], [0.0, 2.0, 100.0]])
  targets = np.array([[1.0, 0.25, 0.0], [0.5, 1.0, 0.0]])
  expected = (targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)).sum(-1)
  found = losses.bernoulli_nll(jnp.array(logits), jnp.array(targets))
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert np.all(np.isfinite(jax.grad(lambda x: losses.bernoulli_nll(x, targets).sum())(jnp.array(logits))))


def test_bernoulli_nll_sums_over_every_axis_but_the_batch():
  found = losses.bernoulli_nll(jnp.zeros((2, 3, 4, 1)), jnp.ones((2, 3, 4, 1)))
  np.testing.assert_allclose(found, [12 * np.log(2)] * 2, rtol=1e-6)


def test_gaussian_kl_equals_a_monte_carlo_estimate():
  mean, log_var = np.array([[0.5, -1.0]]), np.array([[-1.0, 0.7]])
  draws = np.random.default_rng(0).normal(size=(400_000, 2)) * np.exp(log_var / 2) + mean
  log_q = -0.5 * (np.log(2 * np.pi) + log_var + (draws - mean) ** 2 / np.exp(log_var))
  log_p = -0.5 * (np.log(2 * np.pi) + draws**2)
  samples = (log_q - log_p).sum(-1)
  deviation = samples.std() / len(samples) ** 0.5
  assert abs(losses.gaussian_kl(jnp.array(mean), jnp.array(log_var))[0] - samples.mean()) < 4 * deviation


def test_gaussian_kl_is_zero_only_at_the_prior():
  assert losses.gaussian_kl(jnp.zeros((1, 3)), jnp.zeros((1, 3)))[0] == 0
  shift = jax.random.normal(jax.random.key(0), (2, 50, 4))
  assert np.all(losses.gaussian_kl(shift[0], shift[1]) > 0)


def test_real_fake_nll_is_minus_the_log_probability_of_the_label():
  logits = np.array([-3.0, 0.0, 2.0])
  probability = 1 / (1 + np.exp(-logits))
  for label in (1.0, 0.0, 0.9):
    expected = -label * np.log(probability) - (1 - label) * np.log(1 - probability)
    np.testing.assert_allclose(losses.real_fake_nll(jnp.array(logits), label), expected, rtol=1e-5)
