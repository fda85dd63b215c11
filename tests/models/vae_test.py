import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.vae import MLPVAE

MODEL = MLPVAE(hidden_dim=7, latent_dim=3, activation="tanh", image_shape=(2, 4, 1))
X = np.random.default_rng(0).uniform(size=(5, 2, 4, 1)).astype(np.float32)
VARIABLES = jax.jit(MODEL.init)(jax.random.key(0), X, jax.random.key(1))


def dense(name, x):
  p = VARIABLES["params"][name]
  return x @ p["kernel"] + p["bias"]


def test_encoder_and_decoder_have_one_hidden_layer_each():
  hidden = np.tanh(dense("encoder_hidden", X.reshape(5, 8)))
  mean, log_var = MODEL.apply(VARIABLES, X, method="encode")
  np.testing.assert_allclose(mean, dense("posterior_mean", hidden), atol=1e-5)
  np.testing.assert_allclose(log_var, dense("posterior_log_var", hidden), atol=1e-5)
  z = np.ones((5, 3), np.float32)
  logits = dense("pixels", np.tanh(dense("decoder_hidden", z))).reshape(5, 2, 4, 1)
  np.testing.assert_allclose(MODEL.apply(VARIABLES, z, method="decode"), logits, atol=1e-5)


def test_the_latent_is_mean_plus_deviation_times_noise():
  key = jax.random.key(7)
  logits, mean, log_var = MODEL.apply(VARIABLES, X, key)
  z = mean + jnp.exp(log_var / 2) * jax.random.normal(key, (5, 3))
  np.testing.assert_allclose(logits, MODEL.apply(VARIABLES, z, method="decode"), atol=1e-5)
  chex.assert_trees_all_equal((mean, log_var), MODEL.apply(VARIABLES, X, method="encode"))


def test_gradients_flow_through_the_draw_into_mean_and_variance():
  loss = jax.grad(lambda v: jnp.sum(MODEL.apply(v, X, jax.random.key(7))[0] ** 2))
  grads = jax.jit(loss)(VARIABLES)["params"]
  for name in ("posterior_mean", "posterior_log_var", "encoder_hidden"):
    assert np.any(grads[name]["kernel"])


def test_784_400_20_has_652_824_parameters():
  model = MLPVAE(image_shape=(28, 28, 1))
  params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 28, 28, 1)), jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(params)) == 785 * 400 + 2 * 401 * 20 + 21 * 400 + 401 * 784


@pytest.mark.parametrize(("field", "value"), [("hidden_dim", 0), ("latent_dim", -1)])
def test_a_field_that_makes_no_network_is_refused(field, value):
  with pytest.raises(UserError, match=f"--task.model.{field}={value} (is|has)"):
    MLPVAE(**{field: value})
