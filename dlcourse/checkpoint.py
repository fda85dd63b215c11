"""Checkpoints: the only file that imports Orbax."""

import dataclasses
import functools
import pathlib
import shutil
from typing import Any

import jax

from dlcourse.errors import UserError, first_line

PyTree = Any

# What Orbax, TensorStore and JSON have been seen to raise on damaged files, each in its own way.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class Progress:
  """What the loop knows beside the state, saved with it, so that early stopping resumes exactly.

  Attributes:
    best_step: step of the best checkpoint so far; None before the first evaluation.
    best_value: its value of `Best.metric`.
    waited: evaluations since then.
  """

  best_step: int | None = None
  best_value: float | None = None
  waited: int = 0

  def check(self) -> None:
    """Raises a TypeError where a damaged file has put something else in place of the numbers."""
    number = int | float | None
    if not (isinstance(self.best_step, int | None) and isinstance(self.best_value, number)):
      raise TypeError(f"{self} has no best step and value")
    if not isinstance(self.waited, int):
      raise TypeError(f"{self} has not waited for a number of evaluations")


class _LatestAndBest:
  """Keeps the newest checkpoints and the best one (an Orbax preservation policy)."""

  def __init__(self, keep: int):
    self.keep = keep
    self.best_step: int | None = None

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    newest = sorted(info.step for info in checkpoints)[-self.keep :]
    return [info.step in newest or info.step == self.best_step for info in checkpoints]


class Checkpoints:
  """The checkpoints of a workdir: the newest two and the best one.

  Saving is asynchronous and atomic: a folder gets its final name when it is whole, and is renamed away
  before it is deleted, so that a process killed at any moment leaves only whole checkpoints.
  """

  def __init__(self, folder: pathlib.Path, keep: int = 2, read_only: bool = False):
    """Opens the folder; `read_only` leaves a training that is still writing there undisturbed."""
    self._folder = folder
    self._read_only = read_only
    self._policy = _LatestAndBest(keep)
    self._open = False

  @functools.cached_property
  def _manager(self):
    # Made when the first checkpoint is: Orbax takes longer to import than a small network to start.
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers

    try:
      manager = ocp.CheckpointManager(
        self._folder.resolve(),
        options=ocp.CheckpointManagerOptions(
          preservation_policy=self._policy,
          save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
          cleanup_tmp_directories=not self._read_only,
          todelete_subdir="trash",
          read_only=self._read_only,
        ),
      )
    except (OSError, ValueError) as error:
      raise UserError(f"{self._folder} cannot be used: {first_line(error)}") from error
    self._open = True
    return manager

  def restore(self, state: PyTree, step: int | None = None) -> tuple[PyTree, Progress] | None:
    """The checkpoint of a step (None: the newest), or None where there is none.

    Args:
      state: shapes, types and shardings to restore into: any number of devices, any mode.
      step: which one.

    Raises:
      UserError: the checkpoint is damaged or of another network.
    """
    if not self._folder.exists():
      return None
    import orbax.checkpoint as ocp

    items = ocp.args.Composite(state=ocp.args.StandardRestore(state), progress=ocp.args.JsonRestore())
    try:
      step = self._manager.latest_step() if step is None else step
      if step is None:
        return None
      restored = self._manager.restore(step, args=items)
      progress = Progress(**restored["progress"])
      progress.check()
    except _DAMAGE as error:
      raise UserError(
        f"checkpoint {self._folder / str(step or '')} is damaged or of another network; move it away to go "
        f"on from an older one ({type(error).__name__}: {first_line(error)})"
      ) from error
    self._policy.best_step = progress.best_step
    return restored["state"], progress

  def save(self, state: PyTree, progress: Progress) -> None:
    """Starts saving the state under its step; waits for the save before it."""
    import orbax.checkpoint as ocp

    self._policy.best_step = progress.best_step
    self._manager.save(
      int(state.step),
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
      ),
    )

  def close(self) -> None:
    """Waits until the last save is whole; empties Orbax's trash, which nothing else does."""
    if not self._open:
      return
    self._manager.wait_until_finished()
    self._manager.close()
    if jax.process_index() == 0 and not self._read_only:
      shutil.rmtree(self._folder / "trash", ignore_errors=True)
