"""What every task shares: global means, step keys, what a model leaves to the data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.metrics import mean
from dlcourse.models.lenet import LeNet5
from dlcourse.parallel import _under_axis
from dlcourse.task import complete, descend, gradient, new_state, skipping, step_key


def objective(inputs, mask):
  return lambda w: (jnp.sum(mask * (inputs @ w) ** 2), jnp.sum(mask), None)


def test_gradient_is_that_of_the_mean_over_unmasked_rows():
  inputs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  mask, w = np.array([1, 1, 0, 1, 0, 0], np.float32), jnp.ones(3)
  grads, _ = gradient(objective(inputs, mask), w)
  expected = jax.grad(lambda w: jnp.mean((inputs[[0, 1, 3]] @ w) ** 2))(w)
  np.testing.assert_allclose(grads, expected, rtol=1e-6)


def test_gradient_over_replicas_with_unequal_padding_is_the_global_one():
  inputs = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
  mask, w = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32), jnp.ones(3)

  def replica(inputs, mask, w):
    with _under_axis("data"):
      return gradient(objective(inputs, mask), w)[0]

  split = jax.pmap(replica, axis_name="data", in_axes=(0, 0, None), devices=jax.devices()[:2])
  both = split(inputs.reshape(2, 4, 3), mask.reshape(2, 4), w)
  whole, _ = gradient(objective(inputs, mask), w)
  np.testing.assert_allclose(both, np.stack([whole, whole]), rtol=1e-6)


def test_step_keys_differ_by_step_and_by_run_and_consume_nothing():
  state = new_state(jax.random.key(0), {}, {})
  other = new_state(jax.random.key(1), {}, {})
  keys = [step_key(state), step_key(state.replace(step=state.step + 1)), step_key(other)]
  assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == 3
  assert (jax.random.key_data(step_key(state)) == jax.random.key_data(keys[0])).all()


def halving(state, batch):
  """A step that halves the distance of w to the mean of a batch, and measures that."""
  w = (state.params["w"] + jnp.mean(batch["x"])) / 2
  return state.replace(step=state.step + 1, params={"w": w}), {"loss": mean(w)}


def test_a_batch_that_is_not_finite_changes_nothing_but_the_count():
  state = new_state(jax.random.key(0), {"w": jnp.zeros(())}, (jnp.zeros(()),))
  batches = [{"x": jnp.full(4, x)} for x in (1.0, jnp.nan, jnp.inf, 3.0)]
  losses, skipped = [], []
  for batch in batches:
    state, measured = jax.jit(skipping(halving))(state, batch)
    losses.append((float(measured["loss"].total), float(measured["loss"].weight)))
    skipped.append(measured["skipped"].value())
  assert (int(state.step), float(state.params["w"])) == (4, 1.75)  # 0 -> 0.5 -> 1.75
  assert losses == [(0.5, 1), (0, 0), (0, 0), (1.75, 1)]
  assert skipped == [0, 1, 1, 0]


def test_replicas_skip_what_one_of_them_finds():
  state = new_state(jax.random.key(0), {"w": jnp.zeros(())}, (jnp.zeros(()),))

  def replica(state, x):
    with _under_axis("data"):
      return skipping(halving)(state, {"x": x})

  split = jax.pmap(replica, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:2])
  state, measured = split(state, jnp.array([[1.0, 1.0], [1.0, jnp.nan]]))
  np.testing.assert_array_equal(state.params["w"], [0, 0])
  np.testing.assert_array_equal(measured["skipped"].total, [1, 1])


def test_complete_fills_only_what_the_model_leaves_open():
  spec = Spec({"image": jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.uint8)}, classes=("a", "b", "c"))
  assert complete(LeNet5(), spec).num_classes == 3
  assert complete(LeNet5(num_classes=3), spec).num_classes == 3
  with pytest.raises(UserError, match="num_classes=2 does not fit the data's 3"):
    complete(LeNet5(num_classes=2), spec)


def test_descend_applies_one_update():
  params = {"w": jnp.array([1.0, 2.0])}
  optimizer = optax.sgd(0.5)
  params, _ = descend(optimizer, {"w": jnp.array([1.0, -1.0])}, optimizer.init(params), params)
  np.testing.assert_allclose(params["w"], [0.5, 2.5])
