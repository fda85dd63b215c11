"""Checkpoints: the only file that imports Orbax."""

import contextlib
import dataclasses
import functools
import itertools
import logging as std_logging
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from absl import logging

from dlcourse.errors import Preempted, UserError, described, first_line
from dlcourse.parallel import on_first_process
from dlcourse.state_digest import state_digest

PyTree = Any

_DIGEST = "digest"  # of the state, beside the progress
_UNFINISHED = "orbax-checkpoint-tmp"  # in the name of a folder that is being written
_SPARE = 2**20  # bytes that a checkpoint may take beside its arrays
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


@functools.cache
def _hush() -> None:
  """Leaves out what Orbax logs: what it raises says the same, and once."""
  logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
  std_logging.getLogger("asyncio").setLevel(std_logging.CRITICAL)  # of Orbax's writers, on a full disk


class Gone(UserError):
  """A checkpoint is not there (any more): a training may have replaced it while it was read."""


class _LatestAndBest:
  """Keeps the newest checkpoints, and what was best as each of them was saved (an Orbax preservation policy).

  Where the newest turns out to be damaged, the one before it still has its best.
  """

  def __init__(self, keep: int):
    self.keep = keep
    self.progress: dict[int, Progress] = {}  # that was saved with each step

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    newest = sorted(info.step for info in checkpoints)[-self.keep :]
    kept = {*newest, *(self.progress.get(step, Progress()).best_step for step in newest)}
    return [info.step in kept for info in checkpoints]


class Checkpoints:
  """The checkpoints of a workdir: the newest two and the best one of each.

  Saving is asynchronous and atomic: a folder gets its final name when it is whole, and is renamed away
  before it is deleted, so that a process killed at any moment leaves only whole checkpoints. Beside a state is
  its digest, by which every restored one is checked. A save that fails, as on a full disk, is said and costs
  that checkpoint alone; `insist` is for the one that has to be there.
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

    _hush()
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

  def resume(self, state: PyTree) -> tuple[PyTree, Progress] | None:
    """The newest state that is whole, and the progress saved with it; None where there is no checkpoint.

    Damaged ones that are newer are set aside, under other names, but only where an older one is whole.

    Args:
      state: see `restore`.

    Raises:
      UserError: there are checkpoints, and not one can be used.
    """
    damaged: dict[int, UserError] = {}
    for step in self._steps():
      try:
        saved = self._whole(step, state)
      except Gone:
        raise
      except UserError as error:
        logging.warning("%s", error)
        damaged[step] = error
        continue
      if damaged and not self._read_only:
        on_first_process(lambda: self._set_aside(damaged))
        self._manager.reload()
      return saved
    if damaged:
      raise next(iter(damaged.values()))
    return None

  def latest(self) -> tuple[int, Progress] | None:
    """The newest step whose progress can be read, and that; or None where there is no checkpoint.

    Raises:
      UserError: there are checkpoints, and not one can be used.
    """
    first = None
    for step in self._steps():
      try:
        return step, self._progress(step)
      except UserError as error:
        logging.warning("%s", error)
        first = first or error
    if first:
      raise first
    return None

  def restore(self, state: PyTree, step: int) -> PyTree:
    """The state of a step.

    Args:
      state: shapes, types and shardings to restore into: any number of devices, any mode.
      step: which one.

    Raises:
      Gone: it is not there (any more).
      UserError: it is damaged or of another network.
    """
    return self._whole(step, state)[0]

  def _steps(self) -> list[int]:
    """The newest first."""
    if not self._folder.exists():
      return []
    if not self._folder.is_dir():  # in which Orbax would see a folder without checkpoints
      raise UserError(f"{self._folder} cannot be used: it is not a folder")
    return sorted(self._manager.all_steps(), reverse=True)

  def _whole(self, step: int, state: PyTree) -> tuple[PyTree, Progress]:
    import orbax.checkpoint as ocp

    items = {"state": ocp.args.StandardRestore(state), "progress": ocp.args.JsonRestore()}
    restored = self._restored(step, **items)
    progress = self._read(step, restored["progress"])
    if restored["progress"].get(_DIGEST) != state_digest(restored["state"]):
      raise self._damaged(step, ValueError("its digest is another than that of what was saved"))
    return restored["state"], progress

  def _progress(self, step: int) -> Progress:
    import orbax.checkpoint as ocp

    return self._read(step, self._restored(step, progress=ocp.args.JsonRestore())["progress"])

  def _read(self, step: int, facts: Any) -> Progress:
    """What is saved beside a state; and what was best then is kept."""
    try:
      progress = Progress(**{name: value for name, value in facts.items() if name != _DIGEST})
      progress.check()
    except (TypeError, AttributeError) as error:
      raise self._damaged(step, error) from error
    self._policy.progress[step] = progress
    return progress

  def _set_aside(self, steps: Iterable[int]) -> None:
    """Gives damaged checkpoints names that no step has."""
    for step in steps:
      names = (f"damaged-{step}" + (f"-{count}" if count else "") for count in itertools.count())
      target = next(self._folder / name for name in names if not (self._folder / name).exists())
      with self._writing():
        (self._folder / str(step)).rename(target)
      logging.warning("it is %s now", target)

  def _restored(self, step: int, **items) -> Any:
    import orbax.checkpoint as ocp

    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:
      bare = type(error) is Exception  # as Orbax wraps whatever comes of reading the file of an array
      if not bare and not isinstance(error, _DAMAGE):
        raise
      if not (self._folder / str(step)).exists():
        raise Gone(f"checkpoint {self._folder / str(step)} is gone") from error
      raise self._damaged(step, error.__cause__ or error if bare else error) from error

  def _damaged(self, step: int, error: Exception) -> UserError:
    return UserError(
      f"checkpoint {self._folder / str(step)} is damaged or of another network ({described(error)})"
    )

  def save(self, state: PyTree, progress: Progress) -> Progress:
    """Starts saving the state under its step; says so where that, or the save before it, fails.

    Returns:
      The progress with which to go on: where the best checkpoint could not be saved, that of the best before.
    """
    try:
      return self._start_saving(state, progress)
    except UserError as error:
      logging.warning("%s; training goes on, and the checkpoints that are whole stay", error)
      return self._with_best_there(progress)

  def insist(self, state: PyTree, progress: Progress) -> None:
    """Waits until the state is saved, and tries once more where it is not.

    Raises:
      UserError: it cannot be saved.
    """
    self._settle()
    if int(state.step) not in self._manager.all_steps():
      self._start_saving(state, progress)
      with self._writing():
        self._manager.wait_until_finished()

  def _start_saving(self, state: PyTree, progress: Progress) -> Progress:
    import orbax.checkpoint as ocp

    self._settle()
    on_first_process(lambda: self._check_room(state))
    progress = self._with_best_there(progress, int(state.step))
    self._policy.progress[int(state.step)] = progress
    facts = dataclasses.asdict(progress) | {_DIGEST: state_digest(state)}
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(facts))
    with self._writing():
      self._manager.save(int(state.step), args=items)
    return progress

  def _with_best_there(self, progress: Progress, saving: int | None = None) -> Progress:
    """The progress, with an older best checkpoint where its own is not there and not about to be."""
    steps = self._manager.all_steps()
    if progress.best_step in (None, saving, *steps):
      return progress
    newest = self._policy.progress.get(max(steps, default=None), Progress())
    return dataclasses.replace(progress, best_step=newest.best_step, best_value=newest.best_value)

  def _settle(self) -> None:
    """Waits for the save before; where it failed, says so and takes away what it left."""
    try:
      with self._writing():
        self._manager.wait_until_finished()
    except UserError as error:
      logging.warning("%s; that checkpoint is left out", error)
      if jax.process_index() == 0:
        for unfinished in self._folder.glob(f"*{_UNFINISHED}*"):
          shutil.rmtree(unfinished, ignore_errors=True)
      self._manager.reload()
    self._empty_trash()

  def _check_room(self, state: PyTree) -> None:
    """Orbax would say of a full disk that the state was saved, and take it back at the next save."""
    need = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SPARE
    free = shutil.disk_usage(self._folder).free
    if free < need:
      raise UserError(
        f"{self._folder} cannot be written: step {int(state.step)} takes {need / 1e6:.0f} MB of disk, "
        f"and {free / 1e6:.0f} MB are free"
      )

  def _empty_trash(self) -> None:
    """Of checkpoints that are replaced, which Orbax only renames."""
    if jax.process_index() == 0 and not self._read_only:
      shutil.rmtree(self._folder / "trash", ignore_errors=True)

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """A full disk shows at the next save, or at the end."""
    try:
      yield
    except _DAMAGE as error:
      raise UserError(f"{self._folder} cannot be written: {first_line(error)}") from error

  def __enter__(self) -> "Checkpoints":
    """Nothing is opened before it is needed."""
    return self

  def __exit__(self, kind: type[BaseException] | None, *rest) -> None:
    """Waits until the last save is whole.

    Not where a process of several has crashed: the others, with whom it would have to be made, may be dead.
    """
    crashed = kind is not None and not issubclass(kind, UserError | Preempted)
    if not self._open or (crashed and jax.process_count() > 1):
      return
    if not self._read_only:
      self._settle()
    with self._writing():
      self._manager.close()
    self._empty_trash()
