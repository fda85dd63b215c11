"""Checkpoints: what is kept, what is restored, what a damaged one says."""

import itertools
import pathlib
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


@pytest.mark.parametrize("damage", ["other network", "missing progress", "truncated"])
def test_a_checkpoint_that_cannot_be_used_says_so_in_one_line(tmp_path, damage):
  save(tmp_path / "c", state_at(7))
  target, step = shapes(state_at(0)), tmp_path / "c" / "7"
  if damage == "other network":
    target = shapes(state_at(0, size=24))
  elif damage == "missing progress":
    (step / "progress" / "metadata").unlink()
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


def two_steps(folder, size=16):
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(state_at(1, size), Progress(best_step=1, best_value=0.5))
    checkpoints.save(state_at(2, size), Progress(best_step=2, best_value=0.4))
  return sorted(path for path in (folder / "2").rglob("*") if path.is_file())


def truncated(file):
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file):
  data = bytearray(file.read_bytes())
  data[len(data) * 2 // 3] ^= 4
  file.write_bytes(data)


def emptied(file):
  file.write_bytes(b"")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of reads that were given up
@pytest.mark.parametrize("damage", [emptied, truncated, pathlib.Path.unlink])
def test_an_array_whose_file_is_damaged_gives_way_to_the_one_before(tmp_path, damage):
  """A large array has a file of its own, whose errors Orbax wraps in another way than those of small ones."""
  size = 100_000
  files = two_steps(tmp_path / "c", size)
  damage(max(files, key=lambda file: file.stat().st_size))
  with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
    with pytest.raises(UserError, match="2 is damaged"):
      checkpoints.restore(shapes(state_at(0, size)), 2)
    assert int(checkpoints.resume(shapes(state_at(0, size)))[0].step) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of reads that were given up
@pytest.mark.parametrize("damage", [truncated, flipped, pathlib.Path.unlink])
def test_whatever_happens_to_a_file_of_the_newest_what_is_restored_was_saved(tmp_path, damage):
  fell_back = []
  for number in itertools.count():
    folder = tmp_path / str(number)
    files = two_steps(folder)
    if number >= len(files):  # of which there are not always as many
      break
    damage(files[number])
    with Checkpoints(folder) as checkpoints:
      state, progress = checkpoints.resume(shapes(state_at(0)))
      step = int(state.step)
      jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(state_at(step)))
      assert progress == (Progress(1, 0.5), Progress(2, 0.4))[step - 1]  # with the best of its time …
      assert steps_in(folder)[-1] == step
      assert (folder / "damaged-2").exists() == (step == 1)
      checkpoints.save(state_at(3), Progress(step, 0.4))  # … which is still there, and it goes on
    assert steps_in(folder) == [step, 3]
    fell_back.append(step == 1)
  assert {True, False} == {*fell_back}  # some files are only there to be read by people


def test_an_empty_newest_step_is_set_aside_and_a_second_one_beside_it(tmp_path):
  for name in ("damaged-2", "damaged-2-1"):
    save(tmp_path, state_at(1))
    (tmp_path / "2").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
      state, _ = checkpoints.resume(shapes(state_at(0)))
    assert int(state.step) == 1
    assert (tmp_path / name).is_dir()
    assert steps_in(tmp_path) == [1]
    shutil.rmtree(tmp_path / "1")


def test_where_no_checkpoint_is_whole_all_stay_where_they_are(tmp_path):
  two_steps(tmp_path)
  with (
    pytest.raises(UserError, match="2 is damaged or of another network"),
    Checkpoints(tmp_path) as checkpoints,
  ):
    checkpoints.resume(shapes(state_at(0, size=24)))
  assert steps_in(tmp_path) == [1, 2]


def test_a_reader_sets_nothing_aside(tmp_path):
  two_steps(tmp_path)
  shutil.rmtree(tmp_path / "2" / "state")
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert int(checkpoints.resume(shapes(state_at(0)))[0].step) == 1
  assert steps_in(tmp_path) == [1, 2]


def test_a_reader_leaves_an_unfinished_save_alone(tmp_path):
  save(tmp_path / "c", state_at(7))
  unfinished = tmp_path / "c" / "8.orbax-checkpoint-tmp"
  unfinished.mkdir()
  assert int(restore(tmp_path / "c", shapes(state_at(0))).step) == 7
  assert unfinished.exists()


def fails(*args, **kwargs):
  raise ValueError("RESOURCE_EXHAUSTED: no space\nand much more")


def test_a_save_that_fails_costs_one_checkpoint_and_is_said_in_one_line(tmp_path, monkeypatch, caplog):
  with Checkpoints(tmp_path / "c") as checkpoints:
    checkpoints.save(state_at(1), Progress())
    with monkeypatch.context() as patched:
      patched.setattr(checkpoints._manager, "save", fails)
      checkpoints.save(state_at(2), Progress())
    assert "c cannot be written: RESOURCE_EXHAUSTED: no space; training goes on" in caplog.text
    checkpoints.save(state_at(3), Progress())
  assert steps_in(tmp_path / "c") == [1, 3]


def test_a_disk_that_is_too_full_is_not_written_to(tmp_path, monkeypatch, caplog):
  with Checkpoints(tmp_path / "c") as checkpoints:
    checkpoints.save(state_at(1), Progress())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=999_000))
    checkpoints.save(state_at(2), Progress())
    assert "step 2 takes 1 MB of disk, and 1 MB are free; training goes on" in caplog.text
    with pytest.raises(UserError, match="c cannot be written: step 2 takes 1 MB of disk"):
      checkpoints.insist(state_at(2), Progress())
    monkeypatch.undo()
    checkpoints.insist(state_at(2), Progress())
    checkpoints.insist(state_at(2), Progress())  # is there by now
  assert steps_in(tmp_path / "c") == [1, 2]


def test_a_best_checkpoint_that_could_not_be_saved_is_not_the_best(tmp_path, monkeypatch):
  older, lost, waiting = Progress(1, 0.5), Progress(2, 0.3), Progress(2, 0.3, waited=1)
  with Checkpoints(tmp_path / "c") as checkpoints:
    assert checkpoints.save(state_at(1), older) == older
    with monkeypatch.context() as patched:
      patched.setattr(checkpoints._manager, "save", fails)
      assert checkpoints.save(state_at(2), lost) == older
    assert checkpoints.save(state_at(3), waiting) == Progress(1, 0.5, waited=1)
  with Checkpoints(tmp_path / "c") as again:
    assert again.resume(shapes(state_at(0)))[1] == Progress(1, 0.5, waited=1)
    assert steps_in(tmp_path / "c") == [1, 3]


def test_where_no_checkpoint_is_left_there_is_no_best_one(tmp_path, monkeypatch):
  with Checkpoints(tmp_path / "c") as checkpoints:
    monkeypatch.setattr(checkpoints._manager, "save", fails)
    assert checkpoints.save(state_at(1), Progress(1, 0.5)) == Progress()
