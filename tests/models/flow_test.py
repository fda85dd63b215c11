import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.flow import LEVELS, Flow, Step

SHAPE = (4, 4, 1)


def moved(params):
  """Other weights than those before training, of which half change nothing."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(7), len(leaves))
  return tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


@pytest.fixture(scope="module")
def flow():
  model = Flow(width=3, depth=2, image_shape=SHAPE)
  return model, moved(model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))["params"])


def test_step_counts_the_volume_that_it_changes():
  step, x = Step(width=3, channels=4), jax.random.normal(jax.random.key(1), (1, 2, 2, 4))
  params = moved(step.init(jax.random.key(0), x)["params"])

  def flat(x):
    return step.apply({"params": params}, x.reshape(1, 2, 2, 4))[0].reshape(-1)

  _, log_det = jnp.linalg.slogdet(jax.jacobian(flat)(x.reshape(-1)))
  y, counted = step.apply({"params": params}, x)
  np.testing.assert_allclose(counted, log_det[None], rtol=1e-5)
  chex.assert_trees_all_close(step.apply({"params": params}, y, method="inverse"), x, atol=1e-5)


def test_nats_are_the_change_of_variables_by_the_whole_jacobian(flow):
  model, params = flow
  x = jnp.rint(255 * jax.random.uniform(jax.random.key(2), (1, *SHAPE))) / 255
  u = (jnp.rint(x * 255) + jax.random.uniform(jax.random.key(0), x.shape)) / LEVELS

  def latents(u):
    return model.apply({"params": params}, u.reshape(1, *SHAPE), method="_latents")[0][0]

  z, jacobian = latents(u.reshape(-1)), jax.jacobian(latents)(u.reshape(-1))
  normal = -0.5 * (jnp.square(z) + jnp.log(2 * jnp.pi)).sum()
  expected = 16 * jnp.log(256.0) - normal - jnp.linalg.slogdet(jacobian)[1]
  np.testing.assert_allclose(model.apply({"params": params}, x), expected[None], rtol=1e-4)


def test_decoding_undoes_encoding_for_each_level(flow):
  model, params = flow
  x = jnp.rint(255 * jax.random.uniform(jax.random.key(3), (8, *SHAPE))) / 255
  x = x.at[0].set(0.0).at[1].set(1.0)
  z = model.apply({"params": params}, x, method="encode")
  assert z.shape == (8, 16)
  chex.assert_trees_all_close(model.apply({"params": params}, z, method="decode"), x, atol=1e-6)


def test_each_image_has_noise_of_its_own_in_training_only(flow):
  model, params = flow
  x = jnp.full((2, *SHAPE), 0.5)
  in_training = model.apply({"params": params}, x, True, rngs={"dropout": jax.random.key(5)})
  again = model.apply({"params": params}, x)
  assert in_training[0] != in_training[1]
  chex.assert_trees_all_equal(model.apply({"params": params}, x), again)


def test_a_side_that_is_not_halved_twice_is_refused():
  with pytest.raises(UserError, match="halves the side twice"):
    Flow(image_shape=(30, 30, 1))
