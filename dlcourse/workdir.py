"""The folder of a run, and what it was. Only process 0 writes.

`experiment.json` (recipe, versions, seed, devices), `checkpoints/`, `result.json`, `report/`, and what
`dlcourse.metrics_log` writes. Everything after training starts from here.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging

from dlcourse import parallel, platform
from dlcourse.data.recipe import Data
from dlcourse.data.source import absolute
from dlcourse.errors import UserError
from dlcourse.experiment import Experiment, Options, differences, load, resolved, runs_no_code, with_value

RECORD = "experiment.json"
FIRST = ("init", "generator", "test_generator")  # folders of what a run starts from, which is trained before it
_FIELDS = {  # what is read again, and its type
  "experiment": str,
  "overrides": list,
  "seed": int,
  "resolved": dict,
  "devices": dict,
  "versions": dict,
}
PACKAGES = ("dlcourse", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
  """A full disk, or a folder that is gone, is one line that names what was to be written."""
  try:
    yield
  except OSError as error:
    raise UserError(f"{path} cannot be written: {error.strerror}") from error


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON so that a reader sees the old file or the new one, never half of it; NaN becomes null.

  Raises:
    UserError: the file cannot be written.
  """
  temporary = path.with_suffix(f".{os.getpid()}.tmp")
  with _writing(path):
    try:
      temporary.write_text(json.dumps(_finite(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
  """JSON has no NaN and no infinity, and strict readers refuse a file that has them."""
  if isinstance(value, Mapping):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(item) for item in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: pathlib.Path) -> Any:
  """Reads JSON.

  Raises:
    UserError: the file is missing or damaged.
  """
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise UserError(f"{path} does not exist: {path.parent} is not a workdir of `train`") from None
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} is damaged ({error}); train again in another --workdir") from error


def new_record(
  name: str,
  overrides: Sequence[str],
  experiment: Experiment,
  options: Options,
  devices: int,
  data: Mapping[str, Any],
) -> dict[str, Any]:
  """What `experiment.json` holds.

  Args:
    name: under which the experiment can be loaded again.
    overrides: with which it was.
    experiment: what they make.
    options: how it is run.
    devices: on how many.
    data: what it learns from, see `data_facts`.
  """
  device = jax.devices()[0]
  if ".py:" in name:  # a person's own file has to be found from any folder
    file, _, function = name.rpartition(":")
    name = f"{pathlib.Path(file).resolve()}:{function}"
  return {
    "experiment": name,
    "overrides": [absolute(override) for override in overrides],
    "seed": options.seed,
    "resolved": {
      path: absolute(value) if isinstance(value, str) else value for path, value in resolved(experiment).items()
    },
    "data": dict(data),
    "commit": _commit(),
    "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    "devices": {"platform": device.platform, "kind": platform.device_name(device), "count": devices},
    "how": {
      "parallel": options.parallel,
      "tensor": options.tensor,
      "processes": jax.process_count(),
      "steps_per_dispatch": options.steps_per_dispatch,
      "nonfinite": options.nonfinite,
    },
    "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
  }


def data_facts(data: Data) -> dict[str, Any]:
  """What a record says of the data: with one file more, a seeded split is another split."""
  return {**data.sizes, "digest": data.digest}


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


def read_record(path: pathlib.Path) -> dict[str, Any]:
  """The record of a workdir.

  Raises:
    UserError: the folder is not a workdir, or its record is damaged.
  """
  record = read_json(path / RECORD)
  for field, kind in _FIELDS.items():
    if not isinstance(record, dict) or not isinstance(record.get(field), kind):
      raise UserError(f"{path / RECORD} is damaged (no {field!r}); train again in another --workdir")
  for word in record["overrides"]:
    if not isinstance(word, str) or word in ("-h", "--help"):  # which the parser would answer, and end
      raise UserError(f"{path / RECORD} is damaged: {word!r} is no override of a field")
  return record


def check_planned(
  path: pathlib.Path,
  name: str,
  overrides: Sequence[str],
  experiment: Experiment,
  options: Options,
  devices: int,
) -> None:
  """Refuses a run whose folder holds another one, before it takes any time; the data is compared in `claimed`.

  Raises:
    UserError: see `check_same`.
  """
  if (path / RECORD).exists():
    data = read_record(path).get("data", {})
    check_same(path, new_record(name, overrides, experiment, options, devices, data))


@contextlib.contextmanager
def claimed(path: pathlib.Path, record: Mapping[str, Any]) -> Iterator[None]:
  """A workdir for one training: made, or found to hold the same run, and locked until the end.

  Only process 0 writes; what it refuses, every process of the run refuses with the same words.

  Raises:
    UserError: the folder cannot be written, is not a workdir, is in use, or holds another run.
  """
  with contextlib.ExitStack() as held:

    def claim() -> None:
      _check_usable(path)
      held.enter_context(_locked(path))
      if (path / RECORD).exists():
        check_same(path, record)
      else:
        write_json(path / RECORD, record)

    parallel.on_first_process(claim)
    yield


@contextlib.contextmanager
def withdrawn_if_refused(path: pathlib.Path) -> Iterator[None]:
  """Takes the record back where the very beginning is refused: it would bar the way to the right command."""
  try:
    yield
  except UserError:
    if jax.process_index() == 0:
      (path / RECORD).unlink(missing_ok=True)
    raise


def _check_usable(path: pathlib.Path) -> None:
  """Makes the folder; refuses one that is somebody else's."""
  try:
    path.mkdir(parents=True, exist_ok=True)
    others = [
      entry.name for entry in path.iterdir() if entry.name not in (".lock", *FIRST) and entry.suffix != ".tmp"
    ]
    if not os.access(path, os.W_OK):
      raise PermissionError(13, "no permission to write")
  except OSError as error:
    raise UserError(f"--workdir={path} cannot be used: {error.strerror}") from error
  if others and RECORD not in others:
    raise UserError(f"--workdir={path} has files but no {RECORD}; name an empty or a new folder")


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
  """Keeps a second process from training in the same workdir; ends with the process, however it ends."""
  with open(path / ".lock", "w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      raise UserError(f"another process is training in {path}; wait, or use another --workdir") from None
    yield


def check_same(path: pathlib.Path, record: Mapping[str, Any]) -> None:
  """A run goes on only as what it was: another rate or length would be a third run, not either.

  It may go on in another mode or on other devices, which round differently: the log says so.

  Raises:
    UserError: the workdir holds another run.
  """
  old, new = read_record(path), json.loads(json.dumps(record))
  changed = differences(_identity(old), _identity(new))
  if changed:
    raise UserError(
      f"{path} holds another run: {changes(changed)}; use the same settings to go on, or another --workdir"
    )
  for field, (was, now) in differences(_surroundings(old), _surroundings(new)).items():
    logging.warning("%s began with %s %s and goes on with %s: not bit for bit the same", path, field, was, now)


def changes(changed: Mapping[str, tuple]) -> str:
  """The first of some differences in words, and how many more there are."""
  field, (was, now) = next(iter(changed.items()))
  more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
  return f"{field.rstrip('!')} was {was!r} and is now {now!r}{more}"


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
  """What may not change in a run."""
  data = {f"data {split}": size for split, size in record.get("data", {}).items()}
  return {"experiment": record["experiment"], "seed": record["seed"], **record["resolved"], **data}


def _surroundings(record: Mapping[str, Any]) -> dict[str, Any]:
  """What a run may change, at the price of other rounding (and, under pmap, of other random draws)."""
  return {"devices": record["devices"].get("count"), **record.get("how", {})}


def rebuild(path: pathlib.Path, recipe: str | None = None) -> tuple[Experiment, dict[str, Any]]:
  """The experiment a workdir was trained with, and its record.

  Args:
    path: the workdir, perhaps of a stranger.
    recipe: FILE.py:FUNCTION, where it was trained with a recipe of one's own; see `check_runs_no_code`.

  Raises:
    UserError: not a workdir, damaged, trained with a recipe of somebody's own, or see `rebuilt`.
  """
  record = read_record(path)
  name = recipe or record["experiment"]
  if not recipe:
    check_runs_no_code(path, name)
  return rebuilt(str(path), name, record["overrides"], record["resolved"]), record


def check_runs_no_code(path: pathlib.Path, name: str) -> None:
  """What is read does not choose which code is run.

  Args:
    path: a workdir or an exported file.
    name: of the experiment that it names.

  Raises:
    UserError: it names a file that this process has not been told to run.
  """
  if not runs_no_code(name):
    raise UserError(
      f"{path} was trained with a recipe of somebody's own, {name!r}, which is run only if you name it: "
      "--recipe=FILE.py:FUNCTION"
    )


def rebuilt(
  source: str, name: str, overrides: Sequence[str], recorded: Mapping[str, Any], within: str = ""
) -> Experiment:
  """An experiment as it was recorded.

  Defaults that have changed in the code since are named in the log, and the recorded values are used.

  Args:
    source: where the record is, for messages.
    name: of the experiment.
    overrides: with which it was loaded.
    recorded: its resolved table.
    within: of which paths ("task") the table counts; of the others the values of today are used.

  Raises:
    UserError: no such experiment, or the code has changed in more than values.
  """
  experiment = load(name, overrides)
  was_and_is = (recorded, json.loads(json.dumps(resolved(experiment))))
  tables = [{path: value for path, value in table.items() if path.startswith(within)} for table in was_and_is]
  another = f"{source} was trained by another version of the code"
  for field, (was, now) in differences(*tables).items():
    if field not in recorded:
      raise UserError(f"{another}: {field} is new ({now!r})")
    if field not in tables[1]:
      raise UserError(f"{another}: {field} is gone (it was {was!r})")
    if field.endswith("!"):
      raise UserError(f"{another}: {field[:-1]} was {was!r} and is now {now!r}")
    logging.warning("%s: default of %s has changed from %r to %r; using the first", source, field, was, now)
    experiment = with_value(experiment, field, was)
  return experiment
