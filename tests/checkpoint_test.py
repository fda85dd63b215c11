"""Checkpoints: what is kept, what is restored, what a damaged one says."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.checkpoint import Checkpoints, Gone, Progress
from dlcourse.errors import UserError
from dlcourse.parallel import make_mesh, state_shardings
from dlcourse.task import new_state


def state_at(step, size=16):
  params = {"w": jnp.arange(size, dtype=jnp.float32) + step, "b": jnp.array(1.5)}
  return new_state(jax.random.key(3), params, (jnp.zeros(()),), carry=(jnp.ones((8, 2)),)).replace(
    step=jnp.array(step, jnp.int32)
  )


def shapes(state, devices=1, mode="jit"):
  shardings = state_shardings(state, make_mesh(devices), mode)
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def steps_in(folder):
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_newest_two_and_the_best_are_kept(tmp_path):
  with Checkpoints(tmp_path / "c") as checkpoints:
    for step in (1, 2, 3, 4, 5):
      checkpoints.save(state_at(step), Progress(best_step=2 if step >= 2 else 1, best_value=0.5))
  assert steps_in(tmp_path / "c") == [2, 4, 5]
  assert not (tmp_path / "c" / "trash").exists()


def save(folder, state, progress=None):
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(state, progress or Progress())


def restore(folder, target, step=None):
  with Checkpoints(folder, read_only=True) as checkpoints:
    latest = checkpoints.latest()
    return checkpoints.restore(target, latest[0] if step is None else step)


def test_the_best_survives_a_restart(tmp_path):
  with Checkpoints(tmp_path / "c") as first:
    for step in (1, 2, 3):
      first.save(state_at(step), Progress(best_step=1, best_value=0.5, waited=step - 1))
  with Checkpoints(tmp_path / "c") as second:
    assert second.latest() == (3, Progress(best_step=1, best_value=0.5, waited=2))
    second.save(state_at(4), Progress(best_step=1, best_value=0.5, waited=3))
  assert steps_in(tmp_path / "c") == [1, 3, 4]


@pytest.mark.parametrize(("devices", "mode"), [(1, "jit"), (2, "jit"), (8, "fsdp")])
def test_restores_bit_identical_on_any_devices(tmp_path, devices, mode):
  saved = state_at(7)
  save(tmp_path / "c", jax.device_put(saved, state_shardings(saved, make_mesh(8), "fsdp")))
  target = shapes(saved, devices, mode)
  restored = restore(tmp_path / "c", target)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(saved), jax.device_get(restored))
  assert restored.params["w"].sharding == target.params["w"].sharding


def test_nothing_to_restore(tmp_path):
  with Checkpoints(tmp_path / "none") as checkpoints:
    assert checkpoints.latest() is None
  assert not (tmp_path / "none").exists()


def test_a_file_in_place_of_the_folder_is_said(tmp_path):
  (tmp_path / "c").write_text("")
  with pytest.raises(UserError, match="c cannot be used"), Checkpoints(tmp_path / "c") as checkpoints:
    checkpoints.latest()


def test_reading_says_nothing(tmp_path, caplog):
  save(tmp_path / "c", state_at(7))
  restore(tmp_path / "c", shapes(state_at(0)))
  assert not caplog.records


@pytest.mark.parametrize("damage", ["other network", "missing progress", "empty step", "truncated"])
def test_a_checkpoint_that_cannot_be_used_says_so_in_one_line(tmp_path, damage):
  save(tmp_path / "c", state_at(7))
  target, step = shapes(state_at(0)), tmp_path / "c" / "7"
  if damage == "other network":
    target = shapes(state_at(0, size=24))
  elif damage == "missing progress":
    (step / "progress" / "metadata").unlink()
  elif damage == "empty step":
    (tmp_path / "c" / "8").mkdir()
  else:
    for file in step.glob("state/**/d/*"):
      file.write_bytes(file.read_bytes()[:10])
  with pytest.raises(UserError) as refused:
    restore(tmp_path / "c", target)
  assert "\n" not in str(refused.value)
  assert "damaged or of another network" in str(refused.value)


def test_a_step_that_is_not_there_is_gone(tmp_path):
  save(tmp_path / "c", state_at(7))
  with pytest.raises(Gone):
    restore(tmp_path / "c", shapes(state_at(0)), step=3)


def test_a_damaged_last_state_does_not_hide_the_best_one(tmp_path):
  with Checkpoints(tmp_path / "c") as checkpoints:
    for step in (1, 2):
      checkpoints.save(state_at(step), Progress(best_step=1, best_value=0.5))
  shutil.rmtree(tmp_path / "c" / "2" / "state")
  with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
    _, progress = checkpoints.latest()
    assert int(checkpoints.restore(shapes(state_at(0)), progress.best_step).step) == 1


def test_a_reader_leaves_an_unfinished_save_alone(tmp_path):
  save(tmp_path / "c", state_at(7))
  unfinished = tmp_path / "c" / "8.orbax-checkpoint-tmp"
  unfinished.mkdir()
  assert int(restore(tmp_path / "c", shapes(state_at(0))).step) == 7
  assert unfinished.exists()


def test_a_save_that_fails_is_one_line(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path / "c")
  monkeypatch.setattr(checkpoints._manager, "save", fails)
  with pytest.raises(UserError, match=r"c cannot be written: RESOURCE_EXHAUSTED: no space$"), checkpoints:
    checkpoints.save(state_at(1), Progress())


def fails(*args, **kwargs):
  raise ValueError("RESOURCE_EXHAUSTED: no space\nand much more")
