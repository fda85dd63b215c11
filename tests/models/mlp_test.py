import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.mlp import MLP

X = np.random.default_rng(0).normal(size=(6, 2, 2, 1)).astype(np.float32)


def test_without_norm_and_dropout_it_is_two_matrix_products():
  model = MLP(hidden_dims=(3,), activation="tanh", norm=False, dropout=0.0, num_classes=2)
  variables = model.init(jax.random.key(0), X)
  p = jax.device_get(variables["params"])
  hidden = np.tanh(X.reshape(6, 4) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
  expected = hidden @ p["output"]["kernel"] + p["output"]["bias"]
  np.testing.assert_allclose(model.apply(variables, X), expected, atol=1e-5)


def test_a_layer_before_batch_norm_has_no_bias():
  shapes = jax.eval_shape(
    MLP(hidden_dims=(256, 128), num_classes=10).init, jax.random.key(0), np.ones((1, 784))
  )
  params = shapes["params"]
  assert set(params["Dense_0"]) == set(params["Dense_1"]) == {"kernel"}
  count = 784 * 256 + 2 * 256 + 256 * 128 + 2 * 128 + 128 * 10 + 10
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_the_scale_of_the_input_cancels_under_batch_norm():
  model = MLP(hidden_dims=(4,), dropout=0.0, num_classes=2)
  variables = jax.jit(model.init)(jax.random.key(0), X)
  apply = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"])[0])
  outputs = [apply(x) for x in (X, 100 * X)]
  np.testing.assert_allclose(*outputs, atol=1e-3)


def test_dropout_is_off_at_evaluation_and_random_in_training():
  model = MLP(hidden_dims=(64,), norm=False, dropout=0.5, num_classes=2)
  variables = jax.jit(model.init)(jax.random.key(0), X)
  without = MLP(hidden_dims=(64,), norm=False, dropout=0.0, num_classes=2)
  chex.assert_trees_all_equal(model.apply(variables, X), without.apply(variables, X))

  def trained(seed):
    return model.apply(variables, X, train=True, rngs={"dropout": jax.random.key(seed)})

  draws = jax.jit(jax.vmap(trained))(np.array([1, 1, *range(2, 400)]))
  np.testing.assert_allclose(draws[0], draws[1], atol=1e-6)
  assert np.abs(draws[1] - draws[2]).max() > 1e-2
  mean = draws.mean(axis=0)  # dropout scales what it keeps, so that the expectation stays
  np.testing.assert_allclose(mean, model.apply(variables, X), atol=0.2)


def test_evaluation_does_not_depend_on_the_other_rows_of_a_batch():
  model = MLP(hidden_dims=(8, 8), num_classes=3)
  variables = jax.jit(model.init)(jax.random.key(0), X)
  np.testing.assert_allclose(model.apply(variables, X)[:2], model.apply(variables, X[:2]), atol=1e-6)
  assert model.apply(variables, jnp.array(X)).shape == (6, 3)


@pytest.mark.parametrize(
  ("field", "value", "named"),
  [("hidden_dims", (8, 0), "0"), ("dropout", 1.0, "1.0"), ("dropout", -0.1, "-0.1")],
)
def test_a_field_that_makes_no_network_is_refused(field, value, named):
  with pytest.raises(UserError, match=f"--task.model.{field}={named} (is|has)"):
    MLP(**{field: value})


def test_without_a_hidden_layer_it_is_linear():
  params = jax.eval_shape(MLP(hidden_dims=(), num_classes=2).init, jax.random.key(0), X)["params"]
  assert set(params) == {"output"}
