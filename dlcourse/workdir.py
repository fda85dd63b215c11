"""The folder of a run: what it was, what it logged. Only process 0 writes.

`experiment.json` (recipe, versions, seed, devices), `metrics.jsonl`, `tensorboard/`, `checkpoints/`,
`result.json` and `report/`. Everything after training starts from here.
"""

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils

from dlcourse import platform
from dlcourse.errors import UserError
from dlcourse.experiment import Experiment, differences, load, resolved, with_value

RECORD = "experiment.json"
PACKAGES = ("dlcourse", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON so that a reader sees the old file or the new one, never half of it."""
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(value, indent=1) + "\n")
  os.replace(temporary, path)


def read_json(path: pathlib.Path) -> Any:
  """Reads JSON.

  Raises:
    UserError: the file is missing or damaged.
  """
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    raise UserError(f"{path} does not exist: {path.parent} is not a workdir of `train`") from None
  except (OSError, ValueError) as error:
    raise UserError(f"{path} is damaged ({error}); train again in another --workdir") from error


def new_record(name: str, overrides: list[str], seed: int, experiment: Experiment) -> dict[str, Any]:
  """What `experiment.json` holds."""
  device = jax.devices()[0]
  if ".py:" in name:  # a person's own file has to be found from any folder
    file, _, function = name.rpartition(":")
    name = f"{pathlib.Path(file).resolve()}:{function}"
  return {
    "experiment": name,
    "overrides": overrides,
    "seed": seed,
    "resolved": resolved(experiment),
    "commit": _commit(),
    "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    "devices": {
      "platform": device.platform,
      "kind": platform.device_name(device),
      "count": jax.device_count(),
    },
    "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
  }


def _commit() -> str | None:
  """The commit that the code was at; None where it is not a checkout."""
  command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
  try:
    found = subprocess.run(
      command, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=False
    )
  except OSError:
    return None
  return found.stdout.strip() or None


def create(path: pathlib.Path, record: Mapping[str, Any]) -> None:
  """Makes a workdir, or checks that the one that is there holds the same run (on the first process).

  Raises:
    UserError: the folder cannot be written, is not a workdir, or holds another run.
  """
  if jax.process_index() == 0:
    _create(path, record)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("workdir")


def _create(path: pathlib.Path, record: Mapping[str, Any]) -> None:
  try:
    path.mkdir(parents=True, exist_ok=True)
    others = [entry.name for entry in path.iterdir() if entry.name not in (".lock", "experiment.tmp")]
    if not os.access(path, os.W_OK):
      raise PermissionError(13, "no permission to write")
  except OSError as error:
    raise UserError(f"--workdir={path} cannot be used: {error.strerror}") from error
  if others and RECORD not in others:
    raise UserError(f"--workdir={path} has files but no {RECORD}; name an empty or a new folder")
  if others:
    _check_same(path, read_json(path / RECORD), record)
  else:
    write_json(path / RECORD, record)


def _check_same(path: pathlib.Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
  """A run goes on only as what it was: another rate or length would be a third run, not either."""
  try:
    before = {"experiment": old["experiment"], "seed": old["seed"], **old["resolved"]}
  except (KeyError, TypeError):
    raise UserError(f"{path / RECORD} is damaged; train again in another --workdir") from None
  after = {"experiment": new["experiment"], "seed": new["seed"], **new["resolved"]}
  changed = differences(before, json.loads(json.dumps(after)))
  if changed:
    path_, (was, now) = next(iter(changed.items()))
    more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    raise UserError(
      f"{path} holds another run: {path_.rstrip('!')} was {was!r} and is now {now!r}{more}; use the same "
      "settings to go on, or another --workdir"
    )


def rebuild(path: pathlib.Path) -> tuple[Experiment, dict[str, Any]]:
  """The experiment a workdir was trained with, and its record.

  Defaults that have changed in the code since are named in the log, and the recorded values are used.

  Raises:
    UserError: not a workdir, damaged, or the code has changed in more than values.
  """
  record = read_json(path / RECORD)
  try:
    experiment = load(record["experiment"], record["overrides"])
    recorded = record["resolved"]
  except (KeyError, TypeError):
    raise UserError(f"{path / RECORD} is damaged; train again in another --workdir") from None
  changed = differences(recorded, json.loads(json.dumps(resolved(experiment))))
  for field, (was, now) in changed.items():
    if field.endswith("!") or field not in recorded:
      raise UserError(
        f"{path} was trained by another version of the code: {field.rstrip('!')} was {was!r} and is now {now!r}"
      )
    logging.warning("%s: default of %s has changed from %r to %r; using the first", path, field, was, now)
    experiment = with_value(experiment, field, was)
  return experiment, record


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  """Keeps a second process from training in the same workdir; ends with the process, however it ends."""
  if jax.process_index() != 0:
    yield
    return
  with open(path / ".lock", "w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      raise UserError(f"another process is training in {path}; wait, or use another --workdir") from None
    yield


class MetricsLog:
  """`metrics.jsonl` and TensorBoard events of a run; does nothing in processes other than the first."""

  def __init__(self, path: pathlib.Path, restored_step: int):
    """Opens the log and drops what was logged after the restored step: it is about to happen again."""
    self._file = None
    if jax.process_index() != 0:
      return
    rows = [row for row in read_metrics(path) if row["step"] <= restored_step]
    log = path / "metrics.jsonl"
    temporary = log.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, log)
    self._file = open(log, "a")  # noqa: SIM115 - closed by close()
    self._path, self._restored_step = path, restored_step

  @functools.cached_property
  def _board(self):
    from tensorboardX import SummaryWriter  # takes longer than a first step

    return SummaryWriter(str(self._path / "tensorboard"), purge_step=self._restored_step + 1)

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Logs one line: the values of a split at a step."""
    if self._file is None:
      return
    self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(f"{name}/{split}", value, step)

  def close(self) -> None:
    """Flushes both."""
    if self._file is not None:
      self._file.close()
      if "_board" in self.__dict__:  # made by the first line only
        self._board.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of `metrics.jsonl`; a last line that a kill cut short is left out."""
  log = path / "metrics.jsonl"
  if not log.exists():
    return []
  rows = []
  for line in log.read_text(errors="replace").splitlines():
    with contextlib.suppress(ValueError):
      rows.append(json.loads(line))
  return [row for row in rows if isinstance(row, dict) and _is_logged(row)]


def _is_logged(row: Mapping[str, Any]) -> bool:
  """Whether a line is one of ours: a step, a split, and numbers."""
  values = [value for name, value in row.items() if name != "split"]
  return {"step", "split"} <= set(row) and all(isinstance(value, int | float) for value in values)
