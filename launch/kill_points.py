"""Kills a process before every single file operation of saving and pruning checkpoints, one after the other.

  .venv/bin/python launch/kill_points.py

A process saves five states, of which the newest two and the best are kept, and dies before its first operation;
the next one before its second, and so on, until one lives. After each death another process opens the folder:
the state that it finds has to be whole, bit by bit, and none that was already safe may be lost, nor its best.
Exit code 0: so it was. Random kills of whole trainings are in launch/kills.py.
"""

import collections
import multiprocessing
import os
import pathlib
import sys
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.checkpoint import Checkpoints, Progress
from dlcourse.task import TrainState, new_state

BEST = {1: 1, 2: 1, 3: 3, 4: 3, 5: 3}  # step -> the best so far: 1 is pruned late, 2 at once
OPERATIONS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "open")
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__, "orbax.checkpoint"])


class Found(NamedTuple):
  """What is there after a death.

  Attributes:
    step: of the state that is restored, and is whole; None: there is none.
    best: the step that its progress calls the best, whose state is whole.
  """

  step: int | None
  best: int | None


def state_at(step: int) -> TrainState:
  """A state that tells its step by every number."""
  params = {"kernel": jnp.full((64, 64), step, jnp.float32), "bias": jnp.arange(64.0) + step}
  return new_state(jax.random.key(0), params, ()).replace(step=jnp.asarray(step, jnp.int32))


def _save(folder: pathlib.Path, last: int, sender) -> None:
  """Saves; tells which steps are safe, and what is done; dies before operation number `last`."""
  counted = 0

  def hook(event: str, arguments: tuple) -> None:
    nonlocal counted
    if event not in OPERATIONS or not str(arguments[0]).startswith(str(folder)):
      return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
      return
    counted += 1
    if counted == last:
      sender.send(("died", f"{event} {str(arguments[0]).removeprefix(str(folder))}"))
      os._exit(9)

  sys.addaudithook(hook)
  with Checkpoints(folder) as checkpoints:
    for step, best in BEST.items():
      checkpoints.save(state_at(step), Progress(best_step=best, best_value=0.0))
      sender.send(("safe", step - 1))  # a save waits for the one before it
  sender.send(("safe", step))


def _look(folder: pathlib.Path, sender) -> None:
  """Restores as a training does that goes on."""
  with Checkpoints(folder) as checkpoints:
    saved = checkpoints.resume(state_at(0))
    if saved is None:
      sender.send(Found(None, None))
      return
    state, progress = saved
    best = checkpoints.restore(state_at(0), progress.best_step)
  for there, step in ((state, int(state.step)), (best, progress.best_step)):
    jax.tree.map(np.testing.assert_array_equal, there, state_at(step))
  sender.send(Found(int(state.step), progress.best_step))


def _asked(target, *arguments) -> list:
  """What a process says until it ends, however it does."""
  receiver, sender = _PROCESSES.Pipe(duplex=False)
  process = _PROCESSES.Process(target=target, args=(*arguments, sender))
  process.start()
  sender.close()
  said = []
  while True:
    try:
      said.append(receiver.recv())
    except EOFError:
      process.join()
      return said


def main() -> int:
  """Returns the exit code."""
  wrong, kinds, number = 0, collections.Counter(), 0
  while True:
    number += 1
    with tempfile.TemporaryDirectory() as temporary:
      folder = pathlib.Path(temporary) / "checkpoints"
      said = _asked(_save, folder, number)
      safe = max((value for what, value in said if what == "safe"), default=0)
      found = _asked(_look, folder)
    died = [value for what, value in said if what == "died"]
    good = (
      bool(found)
      and (found[0].step or 0) >= safe
      and (not found[0].step or found[0].best == BEST[found[0].step])
    )
    wrong += not good
    if not died:
      break
    kinds[died[0].split()[0]] += 1
    if not good:
      print(
        f"killed before {died[0]}: step {safe} was safe, then {found or 'nothing could be restored'}",
        flush=True,
      )
  named = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
  print(f"{number - 1} points ({named}): {wrong} after which something was lost")
  return 1 if wrong or not kinds else 0


if __name__ == "__main__":
  sys.exit(main())
