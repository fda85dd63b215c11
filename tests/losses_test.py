import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_gaussian_nll_equals_the_density():
  rng = np.random.default_rng(0)
  mean, true, log_scale = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), -0.7
  density = np.exp(-0.5 * ((true - mean) / np.exp(log_scale)) ** 2) / np.sqrt(2 * np.pi) / np.exp(log_scale)
  found = losses.gaussian_nll(jnp.array(mean), jnp.float32(log_scale), jnp.array(true))
  np.testing.assert_allclose(found, -np.log(density).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.4, 1.0, 1.5])
@pytest.mark.parametrize("scale", [0.003, 0.05, 2.0])
def test_a_logistic_pixel_has_the_mass_of_each_of_256_levels_and_1_in_all(mean, scale):
  levels = np.arange(256) / 255
  ends = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
  expected = np.diff(1 / (1 + np.exp(-(ends - mean) / scale)))  # the brute force: differences of the integral
  means, targets = jnp.full((256, 1), mean, jnp.float32), jnp.array(levels[:, None], jnp.float32)
  found = np.exp(-losses.logistic_nll(means, jnp.log(scale), targets))
  assert found.sum() == pytest.approx(1, abs=1e-4)
  np.testing.assert_allclose(found, expected, atol=2e-4 * expected.max())


@pytest.mark.parametrize("name", losses.LIKELIHOODS)
def test_outputs_of_100_are_finite_and_so_are_their_slopes(name):
  likelihood = losses.LIKELIHOODS[name]
  outputs = jnp.array([-100.0, -1.0, 0.0, 1.0, 100.0])[:, None] * jnp.ones((1, 3))
  targets = jnp.array([[0.0, 0.2, 1.0]] * 5)
  for log_scale in (-7.0, 0.0, 5.0):
    each = likelihood.distortion(outputs, jnp.float32(log_scale), targets)
    slopes = jax.grad(lambda *x: likelihood.distortion(*x, targets).sum(), argnums=(0, 1))(
      outputs, jnp.float32(log_scale)
    )
    assert np.isfinite(each).all()
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert np.any(slopes[0][0])  # what is far off still has somewhere to go
  pixels = likelihood.pixels(jnp.array([0.0, 0.25]))
  np.testing.assert_allclose(pixels, [0.5, 1 / (1 + np.exp(-0.25))] if name == "bernoulli" else [0, 0.25])


def test_squared_error_is_summed_over_the_pixels():
  found = losses.squared_error(jnp.full((2, 2, 3, 1), 2.0), jnp.zeros((2, 2, 3, 1)))
  np.testing.assert_array_equal(found, [24, 24])


def test_the_importance_bound_is_the_log_of_the_mean_weight_however_small():
  weights = np.array([[0.1, 2.0], [0.3, 4.0]])
  found = losses.importance_bound(jnp.log(weights) - 1_000)
  np.testing.assert_allclose(found, np.log(weights.mean(axis=0)) - 1_000, rtol=1e-6)


def test_real_fake_nll_is_minus_the_log_probability_of_the_label():
  logits = np.array([-3.0, 0.0, 2.0])
  probability = 1 / (1 + np.exp(-logits))
  for label in (1.0, 0.0, 0.9):
    expected = -label * np.log(probability) - (1 - label) * np.log(1 - probability)
    np.testing.assert_allclose(losses.real_fake_nll(jnp.array(logits), label), expected, rtol=1e-5)


X = np.array([-2.0, -0.5, 0.0, 3.0])
D = 1 / (1 + np.exp(-X))
FORMULAS = {  # of outputs x: of the discriminator on real images, on fakes, of the generator
  "non_saturating": (-np.log(D), -np.log(1 - D), -np.log(D)),
  "minimax": (-np.log(D), -np.log(1 - D), np.log(1 - D)),
  "least_squares": ((X - 1) ** 2 / 2, X**2 / 2, (X - 1) ** 2 / 2),
  "hinge": (np.maximum(0, 1 - X), np.maximum(0, 1 + X), -X),
  "wasserstein": (-X, X, -X),
}


@pytest.mark.parametrize("name", losses.GAMES)
def test_each_game_is_its_papers_formula(name):
  game, x = losses.GAMES[name], jnp.array(X)
  for found, expected in zip((game.real(x, 1.0), game.fake(x), game.generator(x)), FORMULAS[name], strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(game.score(x), D if "square" not in name and game.labelled else X, rtol=1e-5)


def test_only_the_saturating_generator_learns_nothing_from_a_sure_discriminator():
  slopes = {name: float(jax.grad(game.generator)(-20.0)) for name, game in losses.GAMES.items()}
  assert abs(slopes.pop("minimax")) < 1e-8
  assert all(slope <= -1 + 1e-6 for slope in slopes.values())


def test_slopes_of_a_linear_critic_are_its_weights():
  w, rng = np.array([3.0, 4.0]), np.random.default_rng(0)
  real, fake = rng.normal(size=(2, 5, 2)).astype(np.float32)

  def critic(x, scale=1.0):
    return scale * x @ jnp.array(w) + 7

  np.testing.assert_allclose(losses.squared_slopes(critic, real), np.full(5, 25), rtol=1e-5)
  share = jnp.linspace(0, 1, 5)
  np.testing.assert_allclose(losses.one_lipschitz_penalty(critic, real, fake, share), np.full(5, 16), rtol=1e-5)
  # (5 s - 1)² at s = 1 has the slope 2 (5 - 1) 5.
  slope = jax.grad(lambda s: losses.one_lipschitz_penalty(lambda x: critic(x, s), real, fake, share)[0])(1.0)
  assert slope == pytest.approx(40, rel=1e-5)


def test_the_penalty_is_taken_between_a_real_image_and_its_fake():
  real, fake, share = jnp.array([[1.0], [2.0]]), jnp.array([[5.0], [-2.0]]), jnp.array([0.25, 0.5])
  found = losses.one_lipschitz_penalty(lambda x: (x**2).sum(axis=1) / 2, real, fake, share)  # its slope is x
  np.testing.assert_allclose(found, [(4 - 1) ** 2, (0 - 1) ** 2], rtol=1e-6)


def test_a_flat_critic_has_a_penalty_without_a_slope_and_no_nan():
  penalty = jax.grad(
    lambda s: losses.one_lipschitz_penalty(
      lambda x: s * x.sum(axis=1), jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.ones(1)
    )[0]
  )
  assert float(penalty(0.0)) == 0


def test_mean_features_leave_out_what_is_masked():
  real, fake = jnp.array([[1.0, 0.0], [3.0, 0.0], [99.0, 9.0]]), jnp.array([[0.0, 1.0], [0.0, 3.0], [5.0, 5.0]])
  assert losses.mean_distance(real, fake, jnp.array([1.0, 1.0, 0.0])) == pytest.approx(8)
