import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_reach, count, gradients_of, maps_of, once, variables_of

from dlcourse.errors import UserError
from dlcourse.models.small_cnn import SmallCNN

X = np.random.default_rng(0).normal(size=(2, 10, 10, 3)).astype(np.float32)


@pytest.mark.parametrize(("global_pool", "total"), [(False, 421_642), (True, 28_426)])
def test_it_has_the_parameters_of_the_same_layers_in_keras(global_pool, total):
  model = SmallCNN(global_pool=global_pool, num_classes=10)
  images = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
  dense = 64 * 128 + 128 if global_pool else 7 * 7 * 64 * 128 + 128
  expected = {"conv1": 320, "conv2": 18_496, "dense": dense, "output": 1_290}
  assert {name: count(layer) for name, layer in params.items()} == expected
  assert count(params) == total


@pytest.mark.parametrize(("global_pool", "pooled"), [(False, 3 * 3 * 64), (True, 64)])
def test_maps_halve_and_lose_an_odd_row(global_pool, pooled):
  maps = maps_of(SmallCNN(global_pool=global_pool, num_classes=5), 14)
  assert maps == {"conv1": (14, 14, 32), "conv2": (7, 7, 64), "pool": (pooled,), "dense": (128,)}


@pytest.mark.parametrize("global_pool", [False, True])
def test_it_is_the_sequence_of_its_layers(global_pool):
  model = SmallCNN((4, 5), 6, global_pool, num_classes=3)
  variables = variables_of(model, X)
  p = variables["params"]

  def sequence(x):
    for name in ("conv1", "conv2"):
      x = nn.Conv(p[name]["bias"].size, (3, 3)).apply({"params": p[name]}, x)
      x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
    x = x.mean(axis=(1, 2)) if global_pool else x.reshape(2, -1)
    x = nn.relu(x @ p["dense"]["kernel"] + p["dense"]["bias"])
    return x @ p["output"]["kernel"] + p["output"]["bias"]

  np.testing.assert_allclose(once(model.apply)(variables, X), once(sequence)(X), atol=1e-4)


@pytest.mark.parametrize("global_pool", [False, True])
def test_gradients_reach_every_layer(global_pool):
  gradients = gradients_of(SmallCNN((4, 5), 6, global_pool, dropout=0.1, num_classes=3), X)
  assert_reach(gradients, ["conv1", "conv2", "dense", "output"])


def test_dropout_is_for_training():
  model = SmallCNN((4, 5), 64, num_classes=3)
  variables = variables_of(model, X)
  without = SmallCNN((4, 5), 64, dropout=0.0, num_classes=3).apply(variables, X, train=True)
  np.testing.assert_allclose(model.apply(variables, X), without, atol=1e-5)
  dropped = model.apply(variables, X, train=True, rngs={"dropout": jax.random.key(0)})
  assert np.abs(dropped - without).max() > 1e-2


@pytest.mark.parametrize(("field", "value"), [("filters", (0, 8)), ("dense_dim", 0), ("dropout", 1.0)])
def test_a_field_that_makes_no_network_is_refused(field, value):
  with pytest.raises(UserError, match=f"--task.model.{field}="):
    SmallCNN(**{field: value})


def test_images_that_poolings_would_use_up_are_refused():
  with pytest.raises(UserError, match="images of 3x3 are too small"):
    jax.eval_shape(SmallCNN(num_classes=2).init, jax.random.key(0), X[:, :3, :3])
