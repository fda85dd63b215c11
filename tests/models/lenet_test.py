import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import count
from scipy.signal import correlate2d

from dlcourse.errors import UserError
from dlcourse.models.lenet import C3_TABLE, LeNet5, LeNet5Modern, Subsample, TableConv

IMAGE = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)


def test_every_layer_has_the_published_number_of_parameters():
  params = jax.eval_shape(LeNet5(num_classes=10).init, jax.random.key(0), IMAGE)["params"]
  assert {name: count(layer) for name, layer in params.items()} == {
    "C1": 156,
    "S2": 12,
    "C3": 1_516,
    "S4": 32,
    "C5": 48_120,
    "F6": 10_164,
    "output": 850,
  }
  assert count(params) == 60_850


def test_the_connection_table_is_that_of_the_paper():
  assert [len(row) for row in C3_TABLE] == [3] * 6 + [4] * 9 + [6]
  assert sum(map(len, C3_TABLE)) == 60
  assert len({tuple(sorted(row)) for row in C3_TABLE}) == 16  # no two maps see the same inputs
  assert np.bincount(np.concatenate(C3_TABLE)).tolist() == [10] * 6  # every map of S2 feeds ten
  assert all(row == tuple((row[0] + i) % 6 for i in range(3)) or 0 in row for row in C3_TABLE[:6])


def test_table_convolution_equals_a_loop_over_its_connections():
  table = ((0, 1), (2,), (0, 1, 2))
  x = np.random.default_rng(0).normal(size=(2, 7, 8, 3)).astype(np.float32)
  layer = TableConv(table)
  params = layer.init(jax.random.key(0), x)["params"]
  params = {"kernel": params["kernel"], "bias": jnp.array([0.5, -1.0, 2.0])}
  expected = np.zeros((2, 3, 4, 3))
  connection = 0
  for target, row in enumerate(table):
    for source in row:
      for b in range(2):
        kernel = np.asarray(params["kernel"][:, :, connection])
        expected[b, :, :, target] += correlate2d(x[b, :, :, source], kernel, "valid")
      connection += 1
  expected += [0.5, -1.0, 2.0]
  np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-5)


def test_a_map_ignores_what_its_row_of_the_table_leaves_out():
  layer = TableConv(C3_TABLE)
  x = jax.random.normal(jax.random.key(0), (1, 5, 5, 6))
  variables = layer.init(jax.random.key(1), x)
  moved = layer.apply(variables, x.at[..., 2].add(1.0)) != layer.apply(variables, x)
  np.testing.assert_array_equal(moved[0, 0, 0], [2 in row for row in C3_TABLE])


def test_subsampling_is_sum_times_coefficient_plus_bias():
  x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
  params = {"coefficient": jnp.array([1.0, 0.5, -2.0]), "bias": jnp.array([0.0, 1.0, 3.0])}
  sums = x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
  expected = sums * [1.0, 0.5, -2.0] + [0.0, 1.0, 3.0]
  np.testing.assert_allclose(Subsample().apply({"params": params}, x), expected, atol=1e-5)
  initial = Subsample().init(jax.random.key(0), x)
  np.testing.assert_allclose(Subsample().apply(initial, x), sums / 4, atol=1e-5)  # starts as average pooling


def test_training_and_evaluation_are_the_same_function_and_gradients_reach_every_parameter():
  rng = np.random.default_rng(0)
  x = rng.normal(size=IMAGE.shape).astype(np.float32)
  model = LeNet5(num_classes=3)
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
  variables = jax.tree.map(lambda s: rng.normal(scale=0.1, size=s.shape).astype(np.float32), shapes)
  apply = jax.jit(model.apply, static_argnames="train")
  logits = apply(variables, x)
  assert logits.shape == (2, 3)
  chex.assert_trees_all_equal(logits, apply(variables, x, train=True))
  grads = jax.jit(jax.grad(lambda v: (model.apply(v, x) * np.arange(6).reshape(2, 3)).sum()))(variables)
  assert all(np.all(np.isfinite(g)) and np.any(g) for g in jax.tree.leaves(grads))


def test_the_modern_form_has_full_connections_and_no_parameters_in_its_pooling():
  params = jax.eval_shape(LeNet5Modern(num_classes=10).init, jax.random.key(0), IMAGE)["params"]
  assert {name: count(layer) for name, layer in params.items()} == {
    "C1": 156,
    "C3": 2_416,
    "C5": 48_120,
    "F6": 10_164,
    "output": 850,
  }
  assert count(params) == 61_706


def test_the_modern_form_has_maps_of_the_same_sides_and_takes_32x32_only():
  model = LeNet5Modern(num_classes=10)
  maps, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, features=True), IMAGE)
  assert {name: leaf.shape[1:] for name, leaf in maps.items()} == {
    "C1": (28, 28, 6),
    "S2": (14, 14, 6),
    "C3": (10, 10, 16),
    "S4": (5, 5, 16),
    "C5": (120,),
    "F6": (84,),
  }
  with pytest.raises(UserError, match="takes images of 32x32, not 28x28"):
    jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))


def test_the_modern_form_pools_the_maximum_and_gradients_reach_every_layer():
  x = jax.random.normal(jax.random.key(1), IMAGE.shape)
  model = LeNet5Modern(num_classes=3)
  variables = jax.jit(model.init)(jax.random.key(0), x)
  maps = jax.jit(lambda v, x: model.apply(v, x, features=True))(variables, x)
  np.testing.assert_array_equal(maps["S2"], maps["C1"].reshape(2, 14, 2, 14, 2, 6).max((2, 4)))
  assert min(leaf.min() for leaf in maps.values()) == 0  # ReLU by default
  grads = jax.jit(jax.grad(lambda v: (model.apply(v, x, train=True) ** 2).sum()))(variables)
  assert all(np.all(np.isfinite(g)) and np.any(g) for g in jax.tree.leaves(grads))
