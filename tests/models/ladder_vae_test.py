import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.ladder_vae import LadderVAE
from dlcourse.theory.gaussians import Gaussian, kl, log_prob

KEY = jax.random.key(3)
MODEL = LadderVAE(latent_dims=(3, 2, 1), width=2, image_shape=(16, 16, 1))
X = np.random.default_rng(0).uniform(size=(4, 16, 16, 1)).astype(np.float32)
SIDES, SIZE = (1, 4, 8), 3 + 2 * 16 + 64


def plausible():
  """Variables in which no head is 0, so that posteriors differ from priors and those from N(0, I)."""
  shapes = jax.eval_shape(MODEL.init, KEY, X, KEY)
  leaves, tree = jax.tree.flatten(shapes)
  rng = np.random.default_rng(1)
  return tree.unflatten([rng.normal(scale=0.2, size=leaf.shape).astype(np.float32) for leaf in leaves])


VARIABLES = plausible()


@jax.jit
def inferred(x, key, variables=VARIABLES):
  return MODEL.apply(variables, x, key)


def method(name):
  return jax.jit(lambda *args: MODEL.apply(VARIABLES, *args, method=name))


encode, decode, drawn = method("encode"), method("decode"), method("draw")


def flat(groups):
  return np.concatenate([np.asarray(group).reshape(len(group), -1) for group in groups], axis=1)


def test_each_level_draws_from_its_posterior_and_its_kl_is_not_negative():
  outputs, latents, code = inferred(X, KEY)
  assert [group.z.shape for group in latents] == [
    (4, s, s, dim) for s, dim in zip(SIDES, (3, 2, 1), strict=True)
  ]
  for level, (z, posterior, prior) in enumerate(latents):
    noise = jax.random.normal(jax.random.fold_in(KEY, level), z.shape)
    np.testing.assert_allclose(z, posterior.mean + jnp.exp(posterior.log_var / 2) * noise, atol=1e-5)
    rates = kl(posterior, prior)
    assert float(rates.min()) >= 0
    assert float(rates.sum()) > 0.1
  np.testing.assert_array_equal(latents[0].prior.mean, 0)
  np.testing.assert_array_equal(latents[0].prior.log_var, 0)
  assert np.abs(latents[1].prior.mean).max() > 0.01
  np.testing.assert_array_equal(code, flat([group.z for group in latents]))
  np.testing.assert_allclose(outputs, decode(code), atol=1e-5)


def test_priors_depend_on_the_levels_above_alone():
  one, other = inferred(X, KEY).latents, inferred(X, jax.random.key(4)).latents
  for level in (1, 2):
    assert not np.allclose(one[level].prior.mean, other[level].prior.mean)
  same = inferred(np.broadcast_to(X[:1], X.shape), KEY).latents
  above = flat([group.z for group in one[:2]])
  assert not np.allclose(above[0], above[1])
  # From the same latents above come the same priors, whatever the image: those of generation.
  found = []

  def choose(level, prior, posterior):
    assert posterior is None
    found.append(prior)
    return one[level].z

  MODEL.apply(VARIABLES, choose, len(X), method="_descend")
  for group, prior in zip(one, found, strict=True):
    chex.assert_trees_all_close(group.prior, prior, atol=1e-5)
  assert not np.allclose(same[2].posterior.mean[1:], one[2].posterior.mean[1:])


def test_the_log_ratio_of_a_draw_is_that_of_one_gaussian_after_another():
  """Brute force, in float64: Σ_l log p(z_l | above) - log q(z_l | above, x)."""
  latents = inferred(X, KEY).latents
  total = np.zeros(4)
  for z, posterior, prior in latents:
    for sign, (mean, log_var, _) in ((1, prior), (-1, posterior)):
      z, mean, log_var = (np.asarray(a, np.float64) for a in (z, mean, log_var))
      density = np.exp(-((z - mean) ** 2) / (2 * np.exp(log_var))) / np.sqrt(2 * np.pi * np.exp(log_var))
      total += sign * np.log(density).reshape(4, -1).sum(axis=1)
  found = sum(log_prob(prior, z) - log_prob(posterior, z) for z, posterior, prior in latents)
  np.testing.assert_allclose(found, total, rtol=1e-3)


def test_log_ratios_average_to_the_kl_of_all_levels():
  def both(key):
    latents = MODEL.apply(VARIABLES, X, key).latents
    ratio = sum(log_prob(group.posterior, group.z) - log_prob(group.prior, group.z) for group in latents)
    rate = sum(kl(group.posterior, group.prior).reshape(4, -1).sum(axis=1) for group in latents)
    return ratio, rate

  ratios, rates = jax.lax.map(jax.jit(both), jax.random.split(KEY, 500))
  difference = np.asarray(ratios - rates)
  errors = difference.std(axis=0) / 500**0.5
  assert np.all(np.abs(difference.mean(axis=0)) < 4 * errors)
  assert np.all(errors < 0.1 * np.asarray(rates).mean(axis=0))


def test_codes_are_the_means_each_given_those_above():
  codes = encode(X)
  assert codes.shape == (4, SIZE)
  np.testing.assert_allclose(codes[:, :3], inferred(X, KEY).latents[0].posterior.mean.reshape(4, 3), atol=1e-6)
  still = jax.tree.map(jnp.asarray, VARIABLES)
  for level in range(3):  # without variance a draw is the mean
    head = still["params"][f"levels_{level}"]["difference"]
    dim = MODEL.latent_dims[level]
    head["kernel"], head["bias"] = head["kernel"].at[:, dim:].set(0), head["bias"].at[dim:].set(-1e3)
    if level:
      head = still["params"][f"levels_{level}"]["prior_head"]
      head["kernel"], head["bias"] = head["kernel"].at[:, dim:].set(0), head["bias"].at[dim:].set(-1e3)
  spread = [float(jnp.exp(group.posterior.log_var / 2).max()) for group in inferred(X, KEY, still).latents]
  assert max(spread) < 0.1
  np.testing.assert_allclose(inferred(X, KEY, still).code[:, 3:35], codes[:, 3:35], atol=0.2)


def test_draws_follow_the_priors_level_by_level():
  chosen, temperature = [], np.array([1, 0.5, 0, 0], np.float32)

  def choose(level, prior, posterior):
    noise = jax.random.normal(jax.random.fold_in(KEY, level), prior.mean.shape)
    chosen.append(prior.mean + temperature.reshape(4, 1, 1, 1) * jnp.exp(prior.log_var / 2) * noise)
    return chosen[-1]

  outputs = MODEL.apply(VARIABLES, choose, 4, method="_descend")
  np.testing.assert_allclose(drawn(KEY, temperature), outputs, atol=1e-5)
  np.testing.assert_allclose(decode(flat(chosen)), outputs, atol=1e-5)
  np.testing.assert_array_equal(outputs[2], outputs[3])  # without a deviation all draws are one
  assert not np.allclose(drawn(jax.random.key(5), temperature)[0], outputs[0])


def test_untrained_posteriors_are_their_priors_and_those_are_standard_normal():
  variables = jax.jit(MODEL.init)(KEY, X, KEY)
  for _, posterior, prior in inferred(X, KEY, variables).latents:
    for gaussian in (posterior, prior):
      chex.assert_trees_all_equal(gaussian, Gaussian(*(jnp.zeros_like(posterior.mean),) * 2))


@pytest.mark.parametrize(
  ("side", "channels", "dims", "places"),
  [(28, 1, (16, 4, 1), (1, 49, 196)), (32, 3, (8, 2, 2, 1), (1, 16, 64, 256)), (32, 1, (8, 2), (1, 16))],
)
def test_levels_double_in_side_from_a_vector(side, channels, dims, places):
  model = LadderVAE(latent_dims=dims, width=4, image_shape=(side, side, channels))
  x = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
  made, _ = jax.eval_shape(model.init_with_output, KEY, x, KEY)
  assert made.outputs.shape == x.shape
  assert made.code.shape == (2, sum(dim * count for dim, count in zip(dims, places, strict=True)))
  assert len(made.latents) == len(dims)


def test_parameters_at_28_pixels():
  model = LadderVAE(image_shape=(28, 28, 1))
  params = jax.eval_shape(model.init, KEY, np.zeros((1, 28, 28, 1)), KEY)
  up = 16 * 1 * 16 + 16 + 16 * 16 * 32 + 32
  top = (49 * 32 + 1) * 32 + (16 + 1) * 49 * 32
  second = (32 + 1) * 8 + (64 + 1) * 8 + (4 + 1) * 32 + 2 * (9 * 32 * 32 + 32) + 16 * 32 * 16 + 16
  third = (16 + 1) * 2 + (32 + 1) * 2 + (1 + 1) * 16 + 2 * (9 * 16 * 16 + 16) + 16 * 16 + 1
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == up + top + second + third


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"width": 0}, r"--task\.model\.width=0 is too small"),
    ({"latent_dims": (4, 0)}, r"--task\.model\.latent_dims=0 is too small"),
    ({"latent_dims": (4,)}, "at least two of them"),
  ],
  ids=str,
)
def test_a_field_that_makes_no_hierarchy_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    LadderVAE(**fields)


def test_more_levels_than_sides_are_refused():
  model = LadderVAE(latent_dims=(4, 3, 2, 1), image_shape=(28, 28, 1))
  with pytest.raises(UserError, match="have room for 3 levels, not 4"):
    jax.eval_shape(model.init, KEY, np.zeros((1, 28, 28, 1)), KEY)
