"""The same 20 steps on one device, on eight, and in two processes of four, in every mode."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import free_port
from twenty_steps import CASES, DETERMINISTIC, overrides_of, save, twenty_steps

from dlcourse.errors import UserError
from dlcourse.experiment import load
from dlcourse.parallel import compile_task, make_mesh, state_shardings


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
  text = "".join(np.random.default_rng(0).choice(list("abcdef \n"), 6000))
  path = tmp_path_factory.mktemp("corpus") / "letters.txt"
  path.write_text(text)
  return path


@pytest.fixture(scope="session")
def on_one_device(corpus):
  """(name, mode) -> result of the same overrides on one device, in the current precision."""
  known = {}

  def run(name, mode):
    overrides = overrides_of(name, mode, corpus)
    key = (name, *overrides, jax.config.jax_enable_x64)
    if key not in known:
      known[key] = twenty_steps(name, overrides, "jit", 1)
    return known[key]

  return run


def largest_difference(a, b):
  differences = jax.tree.map(lambda x, y: np.max(np.abs(np.float64(x) - np.float64(y)), initial=0), a, b)
  return max(jax.tree.leaves(differences), default=0.0)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_eight_devices_equal_one_in_float64(name, mode, corpus, on_one_device):
  with jax.enable_x64(True):
    one, one_metrics = on_one_device(name, mode)
    many, many_metrics = twenty_steps(name, overrides_of(name, mode, corpus), mode, 8)
  worst = largest_difference(
    (one.params, one.carry, one.model_state), (many.params, many.carry, many.model_state)
  )
  print(f"{name} {mode}, float64: {worst:.1e}")
  assert worst <= 1e-9
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), one_metrics, many_metrics)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_eight_devices_equal_one_in_float32(name, mode, corpus, on_one_device):
  one, one_metrics = on_one_device(name, mode)
  many, many_metrics = twenty_steps(name, overrides_of(name, mode, corpus), mode, 8)
  loss = "d_loss" if "d_loss" in one_metrics else "loss"
  of_loss = abs(one_metrics[loss].value() / many_metrics[loss].value() - 1)
  of_params = largest_difference(one.params, many.params)
  print(f"{name} {mode}, float32: loss {of_loss:.1e} (relative), parameters {of_params:.1e}")
  assert of_loss <= 1e-5
  assert of_params <= (1e-5 if name == "cnn.lenet5" else 3e-4)  # Adam magnifies rounding, SGD does not


@pytest.fixture(scope="session")
def in_two_processes(corpus, tmp_path_factory):
  """Folder with the results of every case, run by two processes of four devices each, in float64."""
  folder = tmp_path_factory.mktemp("processes")
  coordinator, script = f"127.0.0.1:{free_port()}", pathlib.Path(__file__).with_name("twenty_steps.py")
  flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
  running = [
    subprocess.Popen(
      [sys.executable, str(script), coordinator, "2", str(index), str(corpus), str(folder)],
      env={**os.environ, "XLA_FLAGS": flags},
    )
    for index in range(2)
  ]
  assert [process.wait(timeout=600) for process in running] == [0, 0]
  return folder


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_two_processes_equal_one_in_float64(name, mode, on_one_device, in_two_processes, tmp_path):
  with jax.enable_x64(True):
    save(tmp_path / "one.npz", *on_one_device(name, mode))
  one, two = np.load(tmp_path / "one.npz"), np.load(in_two_processes / f"{name}-{mode}.npz")
  assert one.files == two.files
  worst = max(np.max(np.abs(one[key] - two[key]), initial=0) for key in one.files if "rng" not in key)
  print(f"{name} {mode}, float64, 2 processes x 4 devices: {worst:.1e}")
  assert worst <= 1e-9


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_steps_per_dispatch_changes_nothing(mode, corpus):
  name = "recurrent.char_lstm"
  overrides = overrides_of(name, mode, corpus)
  one, one_metrics = twenty_steps(name, overrides, mode, 2)
  many, many_metrics = twenty_steps(name, overrides, mode, 2, per_dispatch=5)
  assert largest_difference(one.params, many.params) <= 1e-6
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one_metrics, many_metrics)


def test_fsdp_splits_parameters_and_optimizer_state():
  experiment = load("cnn.mlp", DETERMINISTIC["cnn.mlp"])
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
