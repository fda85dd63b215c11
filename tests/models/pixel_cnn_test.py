import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.pixel_cnn import PixelCNN

SHAPE = (7, 6, 1)


@pytest.fixture(scope="module")
def grey():
  model = PixelCNN(width=8, depth=2, components=2, image_shape=SHAPE)
  return model, model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))


def test_a_pixel_depends_on_all_before_it_in_reach_and_on_nothing_else(grey):
  model, variables = grey
  x = jax.random.uniform(jax.random.key(1), SHAPE)

  def outputs(x):
    return model.apply(variables, x[None], method="outputs")[0]

  found = np.abs(jax.jacobian(outputs)(x)).max(axis=2)[..., 0] > 0  # [H, W, H, W]
  row, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
  for i, j in np.ndindex(*SHAPE[:2]):
    before = (row < i) | ((row == i) & (column < j))
    near = (i - row <= model.depth + 2) & (abs(j - column) <= 2)
    assert not found[i, j][~before].any()
    # What is above and near is seen, without the blind spot of masked kernels.
    assert found[i, j][before & near & (i - row <= 1)].all()


def test_the_levels_of_a_pixel_have_mass_one(grey):
  model, variables = grey
  x = jnp.zeros((256, *SHAPE)).at[:, -1, -1, 0].set(jnp.arange(256) / 255)
  nats = model.apply(variables, x)  # which differ in the last pixel alone
  others = model.apply(variables, x[:1]) - nats[0]
  assert others == 0
  first = model.clone(image_shape=(1, 1, 1))
  ends = jnp.arange(256.0).reshape(256, 1, 1, 1) / 255
  total = jnp.exp(-first.apply(variables, ends)).sum()
  np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_drawing_with_a_window_is_drawing_with_the_whole_image(grey):
  model, variables = grey
  last = variables["params"]["last"] | {"bias": jnp.array([0.0, 0.0, 0.4, 0.6, 0.0, 0.0])}
  params = {"params": {**variables["params"], "last": last}}
  made = model.apply(params, jax.random.key(3), jnp.zeros(3), method="draw")  # the likeliest each time
  assert made.shape == (3, *SHAPE)

  whole = jnp.zeros((1, *SHAPE))
  for i, j in np.ndindex(*SHAPE[:2]):
    logits, mean, _ = jnp.split(model.apply(params, whole, method="outputs")[0, i, j], 3)
    level = jnp.clip(jnp.rint(255 * mean[logits.argmax()]), 0, 255) / 255
    whole = whole.at[0, i, j, 0].set(level)
  chex.assert_trees_all_close(made, jnp.broadcast_to(whole, made.shape), atol=1e-6)
  assert len(np.unique(made)) > 2  # of all 0 there would be nothing to compare


def test_draws_of_one_pixel_follow_its_distribution():
  model = PixelCNN(width=4, depth=1, components=2, image_shape=(1, 1, 1))
  variables = model.init(jax.random.key(0), jnp.zeros((1, 1, 1, 1)))
  bias = jnp.array([0.0, 1.0, 0.3, 0.6, -3.0, -2.5])
  variables = {"params": {**variables["params"], "last": {**variables["params"]["last"], "bias": bias}}}
  drawn = np.asarray(model.apply(variables, jax.random.key(1), jnp.ones(40_000), method="draw")).ravel()
  levels = jnp.arange(256.0).reshape(256, 1, 1, 1) / 255
  masses = np.exp(-model.apply(variables, levels))
  found = np.bincount(np.rint(drawn * 255).astype(int), minlength=256) / len(drawn)
  assert np.abs(np.cumsum(found) - np.cumsum(masses)).max() < 0.01


def test_colours_are_refused():
  with pytest.raises(UserError, match="grey images"):
    PixelCNN(image_shape=(8, 8, 3))
