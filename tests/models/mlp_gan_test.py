import jax
import numpy as np
import pytest
from networks import once

from dlcourse.errors import UserError
from dlcourse.models.mlp_gan import Discriminator, Generator

X = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)


def initial(model, x):
  return jax.device_get(once(lambda key: model.init(key, x))(jax.random.key(0)))


def test_the_generator_is_relu_layers_and_a_linear_one():
  g = Generator(latent_dim=3, hidden_dims=(4, 5))
  z = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
  variables = initial(g, z)
  p = variables["params"]
  h = z
  for name in ("Dense_0", "Dense_1"):
    h = np.maximum(h @ p[name]["kernel"] + p[name]["bias"], 0)
  expected = h @ p["output"]["kernel"] + p["output"]["bias"]
  np.testing.assert_allclose(g.apply(variables, z, np.zeros(6, int), train=True), expected, atol=1e-6)
  assert expected.shape == (6, 2)


def test_weights_start_orthogonal_with_factor_eight_tenths():
  kernel = initial(Generator(latent_dim=3, hidden_dims=(4,)), np.zeros((1, 3)))["params"]["Dense_0"]["kernel"]
  np.testing.assert_allclose(kernel @ kernel.T, 0.64 * np.eye(3), atol=1e-5)


def test_the_published_sizes_are_counted_by_hand():
  def count(model, dim):
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, dim), np.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))

  assert count(Generator(), 256) == 257 * 128 + 129 * 128 + 129 * 2
  assert count(Discriminator(), 2) == 3 * 128 + 129


def test_the_discriminator_shows_its_last_hidden_layer():
  d = Discriminator(hidden_dims=(4, 5))
  variables = initial(d, X)
  logits, sown = d.apply(variables, X, mutable=["intermediates"])
  (features,) = sown["intermediates"]["features"]
  assert features.shape == (6, 5)
  out = variables["params"]["output"]
  np.testing.assert_allclose(logits, (features @ out["kernel"] + out["bias"])[:, 0], atol=1e-6)


def test_spectral_norm_takes_the_scale_of_every_kernel():
  d = Discriminator(hidden_dims=(4, 5), norm="spectral")
  variables = initial(d, X)
  apply = once(lambda v: d.apply(v, X, train=True))
  params = jax.tree.map(lambda leaf: leaf * (10 if leaf.ndim > 1 else 1), variables["params"])
  np.testing.assert_allclose(apply(variables | {"params": params}), apply(variables), rtol=1e-4)


def test_batch_norm_leaves_out_masked_points():
  d = Discriminator(hidden_dims=(4,), norm="batch")
  variables = initial(d, X)
  assert set(variables["params"]["Dense_0"]) == {"kernel"}

  def logits(x, mask):
    return d.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])[0]

  mask = np.array([1, 1, 1, 1, 0, 0])
  np.testing.assert_allclose(logits(X, mask)[:4], logits(X[:4], None), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ("model", "field", "value"),
  [
    (Generator, "latent_dim", 0),
    (Generator, "hidden_dims", (4, 0)),
    (Generator, "point_dim", 0),
    (Discriminator, "hidden_dims", (0,)),
  ],
)
def test_a_layer_without_a_unit_is_refused(model, field, value):
  with pytest.raises(UserError, match=f"{field}=0 is too small"):
    model(**{field: value})
