"""What a training measured, as it happens: `metrics.jsonl`, and the same for TensorBoard."""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import logging

from dlcourse.errors import UserError


class MetricsLog:
  """`metrics.jsonl` and TensorBoard events of a run; does nothing in processes other than the first.

  On a full disk a line waits for the next one, and the run goes on.
  """

  def __init__(self, path: pathlib.Path, restored_step: int):
    """Opens the log and drops what was logged after the restored step: it is about to happen again."""
    self._file, self._waiting = None, b""
    if jax.process_index() != 0:
      return
    rows = [row for row in read_metrics(path) if row["step"] <= restored_step]
    log = path / "metrics.jsonl"
    temporary = log.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, log)
    self._path = path
    self._file = open(log, "ab", buffering=0)  # noqa: SIM115 - closed by close()
    self._board = _Board(path / "tensorboard", restored_step)

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Logs one line: the values of a split at a step."""
    if self._file is None:
      return
    line = json.dumps({"step": step, "split": split, **values}) + "\n"
    was_waiting, self._waiting = bool(self._waiting), self._waiting + line.encode()
    try:
      self._flush()
    except OSError as error:
      if not was_waiting:
        logging.warning("%s cannot be written: %s; training goes on", self._path, error.strerror)
    self._board.write(step, split, values)

  def _flush(self) -> None:
    """Writes what is waiting, of which a disk that is nearly full takes a part."""
    while self._waiting:
      self._waiting = self._waiting[self._file.write(self._waiting) :]

  def close(self) -> None:
    """Closes both.

    Raises:
      UserError: there are lines that still cannot be written.
    """
    if self._file is None:
      return
    self._board.close()
    try:
      self._flush()
    except OSError as error:
      raise UserError(f"{self._path} cannot be written: {error.strerror}") from error
    finally:
      self._file.close()


class _Board:
  """TensorBoard's file, written as the loop goes: a writer in a thread would wait for ever on a full disk.

  After a failure the next events start another file: TensorBoard reads none beyond half an event.
  """

  def __init__(self, folder: pathlib.Path, restored_step: int):
    self._folder, self._restored_step, self._file = folder, restored_step, None

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """The values of a split at a step; they are left out where the disk is full."""
    with _without_torch():
      from tensorboardX import summary  # takes longer than a first step
      from tensorboardX.proto.event_pb2 import Event

    try:
      self._file = self._file or self._opened()
      for name, value in values.items():
        event = Event(wall_time=time.time(), step=step, summary=summary.scalar(f"{name}/{split}", value))
        self._file.write_event(event)
      if split != "train":  # beside a checkpoint: it makes the disk write
        self._file.flush()
    except OSError as error:
      logging.debug("%s: %s", self._folder, error)
      self._file = None

  def _opened(self) -> Any:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    self._folder.mkdir(exist_ok=True)
    file = EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")  # its own name is that of a second
    begin = SessionLog(status=SessionLog.START)  # events of later steps, of a run that was killed, do not count
    file.write_event(Event(wall_time=time.time(), step=self._restored_step + 1, session_log=begin))
    return file

  def close(self) -> None:
    """Writes what is not yet."""
    try:
      if self._file:
        self._file.close()
    except OSError as error:
      logging.debug("%s: %s", self._folder, error)


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
  """Hides PyTorch, which tensorboardX imports wherever it is installed: 3 s, for tensors that are not used."""
  if "torch" in sys.modules:
    yield
    return
  sys.modules["torch"] = None
  try:
    yield
  finally:
    del sys.modules["torch"]


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of `metrics.jsonl`; a last line that a kill cut short is left out."""
  log = path / "metrics.jsonl"
  if not log.exists():
    return []
  lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
  rows = [_parsed(line) for line in lines]
  if None in rows[:-1]:
    logging.warning("%s: line %d is damaged and left out", log, rows.index(None) + 1)
  return [row for row in rows if row is not None]


def _parsed(line: str) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    return None
  return row if isinstance(row, dict) and _is_logged(row) else None


def _is_logged(row: Mapping[str, Any]) -> bool:
  """Whether a line is one of ours: a step, a split, and numbers."""
  values = [value for name, value in row.items() if name != "split"]
  return {"step", "split"} <= set(row) and all(isinstance(value, int | float) for value in values)
