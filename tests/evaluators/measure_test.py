import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse import metrics
from dlcourse.data.batches import in_order
from dlcourse.data.images import Images
from dlcourse.data.recipe import Data, Spec
from dlcourse.evaluators import Evaluator, Report, measure
from dlcourse.models.mlp import MLP
from dlcourse.optim import Sgd
from dlcourse.tasks.supervised import Classify


def test_neither_batch_size_nor_padding_changes_what_is_measured():
  values = []
  state = None
  for size in (7, 90, 1000):  # 1797 images give 180 for testing at most: ragged, even, one padded batch
    data = Images("digits", batch_size=size, size=8).build()
    task = Classify(MLP(hidden_dims=(), norm=False), Sgd()).build(data.spec, 1)
    state = state or jax.jit(task.init)(jax.random.key(0), data.batch(0, 0))
    program = types.SimpleNamespace(eval_step=jax.jit(task.eval_step))
    values.append(measure(program, state, data, "test"))
  assert set(values[0]) == {"loss", "accuracy"}
  assert values[0] == pytest.approx(values[1], rel=1e-6)
  assert values[0] == pytest.approx(values[2], rel=1e-6)
  parts = list(data.eval_batches("test"))
  x = np.concatenate([part["image"][part["mask"] > 0] for part in parts]).reshape(-1, 64) / 255
  labels = np.concatenate([part["label"][part["mask"] > 0] for part in parts])
  p = jax.device_get(state.params["output"])
  assert values[0]["accuracy"] == pytest.approx(((x @ p["kernel"] + p["bias"]).argmax(-1) == labels).mean())


def test_every_batch_has_its_own_key_which_depends_on_the_seed():
  def eval_step(state, key, batch):
    return {"draw": metrics.mean(jax.random.uniform(key, (2,)), jnp.array(batch["mask"]))}

  arrays = {"x": np.arange(6)}
  data = Data(Spec({}), None, lambda split: in_order(arrays, 2), {}, "", "")
  keys = []
  program = types.SimpleNamespace(eval_step=lambda *args: keys.append(args[1]) or eval_step(*args))
  first = measure(program, None, data, "test")
  assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3
  assert measure(program, None, data, "test") == first
  assert measure(program, None, data, "test", seed=1) != first


def test_a_report_of_nothing_is_empty():
  assert Report() == ({}, {}, {})
  with pytest.raises(NotImplementedError):
    Evaluator()(None, None, None, None)
