import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.theory.gaussians import Gaussian, kl, log_prob, sample, standard_normal

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
MEAN = RNG.normal(size=(1, 3)).astype(np.float32)
LOG_VAR = RNG.normal(size=(1, 3)).astype(np.float32)
LOWER = np.tril(RNG.normal(size=(1, 3, 3)), -1).astype(np.float32)
PRIOR = Gaussian(*RNG.normal(size=(2, 1, 3)).astype(np.float32))
POSTERIORS = {"diagonal": Gaussian(MEAN, LOG_VAR), "full": Gaussian(MEAN, LOG_VAR, LOWER)}
DRAWS = 200_000


def many(gaussian):
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (DRAWS, *x.shape[1:])), gaussian)


def covariance(gaussian):
  scale = np.diag(np.exp(gaussian.log_var[0] / 2))
  scale = scale if gaussian.lower is None else scale + gaussian.lower[0]
  return scale @ scale.T


@pytest.mark.parametrize("prior", [standard_normal(MEAN), PRIOR], ids=["standard", "other"])
@pytest.mark.parametrize("name", POSTERIORS)
def test_the_closed_form_of_the_divergence_equals_monte_carlo(name, prior):
  posterior = many(POSTERIORS[name])
  z = sample(posterior, KEY)
  ratios = np.asarray(log_prob(posterior, z) - log_prob(many(prior), z), np.float64)
  expected = float(kl(POSTERIORS[name], prior).sum())
  assert abs(ratios.mean() - expected) < 4 * ratios.std() / DRAWS**0.5


@pytest.mark.parametrize("name", POSTERIORS)
def test_draws_have_the_mean_and_the_covariance_of_the_gaussian(name):
  z = np.asarray(sample(many(POSTERIORS[name]), KEY))
  expected = covariance(POSTERIORS[name])
  spread = np.sqrt(np.diag(expected))
  np.testing.assert_allclose(z.mean(0), MEAN[0], atol=4 * spread.max() / DRAWS**0.5)
  np.testing.assert_allclose(np.cov(z.T), expected, atol=0.02 * spread.max() ** 2)


@pytest.mark.parametrize("name", POSTERIORS)
def test_the_density_is_that_of_the_mean_and_the_covariance(name):
  expected, z = covariance(POSTERIORS[name]).astype(np.float64), RNG.normal(size=3)
  error = z - MEAN[0]
  exponent = error @ np.linalg.solve(expected, error) + 3 * np.log(2 * np.pi) + np.linalg.slogdet(expected)[1]
  found = log_prob(POSTERIORS[name], jnp.asarray(z[None], jnp.float32))
  np.testing.assert_allclose(found, [-exponent / 2], rtol=1e-4)


def test_a_term_of_a_full_covariance_is_the_mean_divergence_given_the_earlier_dimensions():
  posterior, prior = many(POSTERIORS["full"]), many(PRIOR)
  epsilon = jax.random.normal(KEY, (DRAWS, 3))
  mean = posterior.mean + jnp.einsum("bij,bj->bi", posterior.lower, epsilon)  # of z_i given z_1 … z_(i-1)
  given = np.asarray(kl(Gaussian(mean, posterior.log_var), prior), np.float64)
  error = 4 * given.std(axis=0) / DRAWS**0.5 + 1e-5
  assert np.all(np.abs(given.mean(axis=0) - kl(POSTERIORS["full"], PRIOR)[0]) < error)


def test_without_anything_below_the_diagonal_a_full_covariance_is_a_diagonal_one():
  plain, full = Gaussian(MEAN, LOG_VAR), Gaussian(MEAN, LOG_VAR, jnp.zeros((1, 3, 3)))
  np.testing.assert_allclose(sample(full, KEY), sample(plain, KEY), rtol=1e-6)
  z = sample(plain, KEY)
  np.testing.assert_allclose(log_prob(full, z), log_prob(plain, z), rtol=1e-5)
  np.testing.assert_allclose(kl(full, PRIOR), kl(plain, PRIOR), rtol=1e-6)


def test_the_divergence_is_0_from_itself_and_above_0_from_others():
  itself = Gaussian(MEAN, LOG_VAR)
  np.testing.assert_allclose(kl(itself, itself), 0, atol=1e-6)
  others = Gaussian(*jax.random.normal(KEY, (2, 50, 3)))
  assert np.all(kl(others, standard_normal(others.mean)) > 0)
  np.testing.assert_allclose(
    kl(others, standard_normal(others.mean)),
    0.5 * (others.mean**2 + np.exp(others.log_var) - 1 - others.log_var),
    rtol=1e-4,
    atol=1e-6,
  )


def test_maps_have_a_term_for_each_place_and_one_density():
  maps = Gaussian(*jax.random.normal(KEY, (2, 4, 2, 2, 3)))
  flat = jax.tree.map(lambda x: x.reshape(4, -1), maps)
  z = sample(maps, KEY)
  assert kl(maps, standard_normal(z)).shape == (4, 2, 2, 3)
  np.testing.assert_allclose(log_prob(maps, z), log_prob(flat, z.reshape(4, -1)), rtol=1e-5)


def test_a_prior_whose_dimensions_hang_together_is_refused():
  with pytest.raises(ValueError, match="independent"):
    kl(Gaussian(MEAN, LOG_VAR), POSTERIORS["full"])


def test_the_reparameterised_slope_equals_that_of_the_score_function():
  """Of E f(z) with f(z) = Σ z³ + z_1 z_2, in the mean and log variance, from groups of draws (H5.2.3)."""
  at, groups = (jnp.asarray(MEAN), jnp.asarray(LOG_VAR) - 1), 100
  drawn = jax.lax.stop_gradient(sample(many(Gaussian(*at)), KEY))

  def f(z):
    return (z**3).sum(axis=1) + z[:, 0] * z[:, 1]

  def through_the_draw(at):
    return f(sample(many(Gaussian(*at)), jax.random.key(1)))

  def through_the_density(at):
    return (f(drawn) - f(drawn).mean()) * log_prob(many(Gaussian(*at)), drawn)  # less a baseline

  def slopes(of):
    return jax.jit(jax.jacrev(lambda at: of(at).reshape(groups, -1).mean(axis=1)))(at)

  for a, b in zip(slopes(through_the_draw), slopes(through_the_density), strict=True):
    error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / groups)
    assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4 * error)
    assert np.all(np.abs(a.mean(axis=0)).max() > 10 * error.max())  # there is something to agree on
