import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.conditional_vae import ConditionalVAE
from dlcourse.theory.gaussians import kl

KEY = jax.random.key(3)
MODEL = ConditionalVAE(latent_dim=3, width=2, image_shape=(8, 8, 1))
RNG = np.random.default_rng(0)
X, SOURCE = (RNG.uniform(size=(4, 8, 8, channels)).astype(np.float32) for channels in (1, 2))


def unlike_the_first():
  """Variables in which no head is 0, so that posteriors differ from priors and those from N(0, I)."""
  leaves, tree = jax.tree.flatten(jax.eval_shape(MODEL.init, KEY, X, KEY, SOURCE))
  return tree.unflatten([RNG.normal(scale=0.3, size=leaf.shape).astype(np.float32) for leaf in leaves])


VARIABLES = unlike_the_first()


def method(name):
  return jax.jit(lambda *args: MODEL.apply(VARIABLES, *args, method=name))


inferred, encode, expect, decode, draw = map(method, ("__call__", "encode", "expect", "decode", "draw"))


def changed(before, after):
  """[B] bool: which rows differ."""
  return np.any((np.asarray(before) != np.asarray(after)).reshape(len(before), -1), axis=1).tolist()


def test_before_training_the_prior_is_standard_and_the_posterior_agrees_with_it():
  variables = jax.jit(MODEL.init)(KEY, X, KEY, SOURCE)
  (group,) = MODEL.apply(variables, X, KEY, SOURCE).latents
  for gaussian in (group.prior, group.posterior):
    np.testing.assert_array_equal(gaussian.mean, np.zeros((4, 3)))
    np.testing.assert_array_equal(gaussian.log_var, np.zeros((4, 3)))


def test_the_prior_sees_the_source_alone_and_the_posterior_both_each_of_its_own_example():
  _, (group,), _ = inferred(X, KEY, SOURCE)
  moved, hinted = X.copy(), SOURCE.copy()
  moved[1] += 0.5
  hinted[2] += 0.5
  (of_x,), (of_source,) = inferred(moved, KEY, SOURCE).latents, inferred(X, KEY, hinted).latents
  for name, seen in (("mean", "mean"), ("log_var", "log_var")):
    assert changed(getattr(group.prior, name), getattr(of_x.prior, seen)) == [False] * 4
    assert changed(getattr(group.posterior, name), getattr(of_x.posterior, seen)) == [False, True, False, False]
    for gaussian in ("prior", "posterior"):
      before, after = (getattr(getattr(g, gaussian), name) for g in (group, of_source))
      assert changed(before, after) == [False, False, True, False]
  assert float(kl(group.posterior, group.prior).sum()) > 0.1


def test_codes_are_the_means_and_outputs_are_decoded_from_the_draw_and_the_source():
  outputs, (group,), code = inferred(X, KEY, SOURCE)
  np.testing.assert_allclose(encode(X, SOURCE), group.posterior.mean, atol=1e-5)
  np.testing.assert_allclose(expect(SOURCE), group.prior.mean, atol=1e-5)
  noise = (group.z - group.posterior.mean) * jnp.exp(-0.5 * group.posterior.log_var)
  np.testing.assert_allclose(noise, jax.random.normal(KEY, (4, 3)), atol=1e-4)
  np.testing.assert_allclose(outputs, decode(code, SOURCE), atol=1e-5)
  assert outputs.shape == X.shape
  assert changed(outputs, decode(code.at[1].add(1.0), SOURCE)) == [False, True, False, False]
  hinted = SOURCE.copy()
  hinted[3, 0, 0] += 1
  assert changed(outputs, decode(code, hinted)) == [False, False, False, True]


def test_draws_are_from_the_prior_of_their_source_with_the_temperature():
  _, (group,), _ = inferred(X, KEY, SOURCE)
  temperature = np.array([0.0, 1.0, 2.0, 0.5], np.float32)
  deviation = jnp.exp(0.5 * group.prior.log_var)
  z = group.prior.mean + temperature[:, None] * deviation * jax.random.normal(KEY, (4, 3))
  np.testing.assert_allclose(draw(KEY, temperature, SOURCE), decode(z, SOURCE), atol=1e-5)


def test_what_does_not_fit_is_refused():
  with pytest.raises(UserError, match=r"keeps the side of its source, 4, and the image's is 8"):
    jax.eval_shape(MODEL.init, KEY, X, KEY, SOURCE[:, :4, :4])
  with pytest.raises(UserError, match=r"--task\.model\.latent_dim=0 is too small"):
    ConditionalVAE(latent_dim=0)
  with pytest.raises(UserError, match=r"--task\.model\.width=0 is too small"):
    ConditionalVAE(width=0)
