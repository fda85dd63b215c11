"""The same 20 steps on one device and on eight, in every mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse import metrics
from dlcourse.errors import UserError
from dlcourse.experiment import load
from dlcourse.parallel import compile_task, make_mesh, state_shardings

SMALL = ["--data.source=digits", "--data.batch_size=16"]
DETERMINISTIC = {
  "cnn.lenet5": SMALL,
  "cnn.mlp": [*SMALL, "--data.size=8", "--task.model.dropout=0.0", "--task.model.hidden_dims", "32", "16"],
  "recurrent.char_lstm": [
    "--data.batch_size=16",
    "--data.seq_len=8",
    "--task.model.hidden_dim=16",
    "--task.model.embed_dim=8",
  ],
}
RANDOM = {
  "cnn.mlp": [*SMALL, "--data.size=8", "--task.model.hidden_dims", "32", "16"],
  "gan.dcgan": [*SMALL, "--data.size=8", "--task.generator.width=8", "--task.discriminator.width=8"],
  "vae.mlp": [*SMALL, "--data.size=8", "--task.model.hidden_dim=16"],
}
CASES = [
  *((name, mode) for name in DETERMINISTIC for mode in ("jit", "fsdp", "pmap")),
  *((name, mode) for name in RANDOM for mode in ("jit", "fsdp")),
]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
  text = "".join(np.random.default_rng(0).choice(list("abcdef \n"), 6000))
  path = tmp_path_factory.mktemp("corpus") / "letters.txt"
  path.write_text(text)
  return path


def twenty_steps(name, overrides, corpus, mode, devices, per_dispatch=1):
  """Final state (on the host) and summed metrics of 20 steps, in the precision that is switched on."""
  if name.startswith("recurrent"):
    overrides = [*overrides, f"--data.source=file:{corpus}"]
  experiment = load(name, [*overrides, "--steps=20"])
  data = experiment.data.build()
  task = experiment.task.build(data.spec, experiment.steps)
  program = compile_task(task, data.spec.batch, make_mesh(devices), mode)
  state = program.init(jax.random.key(0))
  if jax.config.jax_enable_x64:
    state = jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)
  parts = []
  for start in range(0, 20, per_dispatch):
    batches = [data.batch(0, start + i) for i in range(per_dispatch)]
    if per_dispatch == 1:
      state, measured = program.train_step(state, batches[0])
    else:
      state, measured = program.train_steps(state, batches)
    parts.append(measured)
  return jax.device_get(state), metrics.accumulate(parts)


def overrides_of(name, mode):
  return RANDOM[name] if mode != "pmap" and name in RANDOM else DETERMINISTIC[name]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_eight_devices_equal_one_in_float64(name, mode, corpus):
  with jax.enable_x64(True):
    overrides = overrides_of(name, mode)
    one, one_metrics = twenty_steps(name, overrides, corpus, "jit", 1)
    many, many_metrics = twenty_steps(name, overrides, corpus, mode, 8)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), one.params, many.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), one.carry, many.carry)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), one.model_state, many.model_state
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), one_metrics, many_metrics)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_steps_per_dispatch_changes_nothing(mode, corpus):
  name = "recurrent.char_lstm"
  one, one_metrics = twenty_steps(name, DETERMINISTIC[name], corpus, mode, 2)
  many, many_metrics = twenty_steps(name, DETERMINISTIC[name], corpus, mode, 2, per_dispatch=5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one.params, many.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one_metrics, many_metrics)


def test_fsdp_splits_parameters_and_optimizer_state():
  experiment = load("cnn.mlp", RANDOM["cnn.mlp"])
  data = experiment.data.build()
  task = experiment.task.build(data.spec, 20)
  program = compile_task(task, data.spec.batch, make_mesh(8), "fsdp")
  state = program.init(jax.random.key(0))
  kernel = state.params["Dense_0"]["kernel"]  # [64, 32]
  assert kernel.addressable_shards[0].data.shape == (8, 32)
  moments = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
    if jax.tree_util.keystr(path).endswith("mu['Dense_0']['kernel']")
  ]
  assert [moment.addressable_shards[0].data.shape for moment in moments] == [(8, 32)]


def test_a_leaf_without_a_sharding_rule_is_an_error():
  with pytest.raises(ValueError, match="no fsdp rule matches"):
    state_shardings({"strange": jnp.zeros(8)}, make_mesh(8), "fsdp")


def test_devices_that_cannot_share_a_batch_are_refused():
  spec = {"image": jax.ShapeDtypeStruct((10, 8, 8, 1), jnp.uint8)}
  with pytest.raises(UserError, match="batch_size=8 can"):
    compile_task(None, spec, make_mesh(8), "jit")


def test_more_devices_than_there_are_is_refused():
  with pytest.raises(UserError, match="--devices=9"):
    make_mesh(9)
