import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.vae import MLPVAE

MODEL = MLPVAE(hidden_dim=7, latent_dim=3, activation="tanh", image_shape=(2, 4, 1))
X = np.random.default_rng(0).uniform(size=(5, 2, 4, 1)).astype(np.float32)
KEY = jax.random.key(7)
VARIABLES = jax.jit(MODEL.init)(jax.random.key(0), X, KEY)


def dense(name, x, variables=VARIABLES):
  p = variables["params"][name]
  return x @ p["kernel"] + p["bias"]


def test_encoder_and_decoder_have_one_hidden_layer_each():
  hidden = np.tanh(dense("encoder_hidden", X.reshape(5, 8)))
  (group,) = MODEL.apply(VARIABLES, X, KEY).latents
  np.testing.assert_allclose(group.posterior.mean, dense("posterior_mean", hidden), atol=1e-5)
  np.testing.assert_allclose(group.posterior.log_var, dense("posterior_log_var", hidden), atol=1e-5)
  chex.assert_trees_all_equal(group.posterior.mean, MODEL.apply(VARIABLES, X, method="encode"))
  z = np.ones((5, 3), np.float32)
  logits = dense("pixels", np.tanh(dense("decoder_hidden", z))).reshape(5, 2, 4, 1)
  np.testing.assert_allclose(MODEL.apply(VARIABLES, z, method="decode"), logits, atol=1e-5)


def test_the_latent_is_mean_plus_deviation_times_noise_and_its_prior_standard_normal():
  outputs, (group,), code = MODEL.apply(VARIABLES, X, KEY)
  mean, log_var, lower = group.posterior
  z = mean + jnp.exp(log_var / 2) * jax.random.normal(KEY, (5, 3))
  np.testing.assert_allclose(group.z, z, atol=1e-6)
  assert lower is None
  assert group.prior.lower is None
  np.testing.assert_array_equal(group.prior.mean, np.zeros((5, 3)))
  np.testing.assert_array_equal(group.prior.log_var, np.zeros((5, 3)))
  chex.assert_trees_all_equal(code, group.z)
  np.testing.assert_allclose(outputs, MODEL.apply(VARIABLES, code, method="decode"), atol=1e-5)


def test_draws_decode_a_standard_normal():
  temperature = np.arange(6, dtype=np.float32)
  drawn = MODEL.apply(VARIABLES, KEY, temperature, method="draw")
  z = temperature[:, None] * jax.random.normal(KEY, (6, 3))
  expected = MODEL.apply(VARIABLES, z, method="decode")
  np.testing.assert_allclose(drawn, expected, atol=1e-6)


def test_gradients_flow_through_the_draw_into_mean_and_variance():
  loss = jax.grad(lambda v: jnp.sum(MODEL.apply(v, X, KEY).outputs ** 2))
  grads = jax.jit(loss)(VARIABLES)["params"]
  for name in ("posterior_mean", "posterior_log_var", "encoder_hidden"):
    assert np.any(grads[name]["kernel"])


def test_a_full_covariance_starts_diagonal_and_its_lower_triangle_moves_the_draw():
  model = MODEL.clone(posterior="full")
  variables = model.init(jax.random.key(0), X, KEY)
  plain = {name: value for name, value in variables["params"].items() if name != "posterior_lower"}
  np.testing.assert_allclose(
    model.apply(variables, X, KEY).outputs, MODEL.apply({"params": plain}, X, KEY).outputs, atol=1e-6
  )
  head = variables["params"]["posterior_lower"] | {"bias": jnp.array([1.0, 2.0, 3.0])}
  variables = {"params": variables["params"] | {"posterior_lower": head}}
  (group,) = model.apply(variables, X, KEY).latents
  np.testing.assert_array_equal(group.posterior.lower[0], [[0, 0, 0], [1, 0, 0], [2, 3, 0]])
  epsilon = jax.random.normal(KEY, (5, 3))
  moved = group.z - group.posterior.mean - jnp.exp(group.posterior.log_var / 2) * epsilon
  np.testing.assert_allclose(moved[:, 2], 2 * epsilon[:, 0] + 3 * epsilon[:, 1], atol=1e-5)


@pytest.mark.parametrize("posterior", ["none", "rectified"])
def test_a_deterministic_autoencoder_has_a_code_and_no_latents(posterior):
  model = MODEL.clone(posterior=posterior)
  variables = model.init(jax.random.key(0), X, KEY)
  outputs, latents, code = model.apply(variables, X, KEY)
  linear = dense("posterior_mean", np.tanh(dense("encoder_hidden", X.reshape(5, 8), variables)), variables)
  np.testing.assert_allclose(code, np.maximum(linear, 0) if posterior == "rectified" else linear, atol=1e-5)
  assert latents == ()
  assert "posterior_log_var" not in variables["params"]
  np.testing.assert_array_equal(outputs, model.apply(variables, X, jax.random.key(8)).outputs)
  np.testing.assert_array_equal(code, model.apply(variables, X, method="encode"))


def test_a_conditional_model_tells_both_ways_the_class():
  model = MODEL.clone(conditional=True, num_classes=4)
  labels = np.array([0, 1, 2, 3, 0])
  variables = model.init(jax.random.key(0), X, KEY, labels)
  same = np.broadcast_to(X[:1], X.shape)
  codes = model.apply(variables, same, labels, method="encode")
  drawn = model.apply(variables, np.ones((5, 3), np.float32), labels, method="decode")
  for made in (codes, drawn):
    np.testing.assert_allclose(made[4], made[0], atol=1e-6)
    assert len(np.unique(np.round(made.reshape(5, -1)[:, 0], 5))) == 4
  with pytest.raises(ValueError, match="needs the label"):
    model.apply(variables, X, KEY)


def test_784_400_20_has_652_824_parameters():
  model = MLPVAE(image_shape=(28, 28, 1))
  params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 28, 28, 1)), jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(params)) == 785 * 400 + 2 * 401 * 20 + 21 * 400 + 401 * 784


@pytest.mark.parametrize(
  "fields", [{"hidden_dim": 0}, {"latent_dim": -1}, {"latent_dim": 1, "posterior": "full"}], ids=str
)
def test_a_field_that_makes_no_network_is_refused(fields):
  field, value = next(iter(fields.items()))
  with pytest.raises(UserError, match=f"--task.model.{field}={value} (is|has)"):
    MLPVAE(**fields)
