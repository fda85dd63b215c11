"""The exceptions whose messages are written for the person at the keyboard."""

import difflib
import pathlib
import site
import sysconfig
import traceback
from collections.abc import Iterable, Mapping

_MOST_NAMES = 12  # that a message lists


class UserError(Exception):
  """What the user gave cannot be used: one line that says what is wrong and what would be right.

  `__main__` prints the message and leaves with exit code 2.
  """


class Preempted(BaseException):
  """The process was asked to end, as by Ctrl-C; what a training has learnt is saved: the same command goes on.

  `__main__` prints the message and leaves with exit code 42.
  """


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
  """A `UserError` for a name that does not exist, with the nearest one that does.

  Args:
    kind: what the name stands for, in the singular ("experiment", "data set").
    name: what the user wrote.
    known: every name that would have been right.
  """
  known = sorted(known)
  close = difflib.get_close_matches(name, known, n=1)
  some = ", ".join(known[:_MOST_NAMES]) + (" …" if len(known) > _MOST_NAMES else "")
  hint = f"perhaps you meant {close[0]!r}" if close else f"there are: {some}"
  return UserError(f"unknown {kind} {name!r}; {hint}")


def check_at_least(minimum: float, fields: Mapping[str, float]) -> None:
  """Raises a `UserError` for the first flag whose value is below the minimum, or NaN.

  Args:
    minimum: the smallest value that makes sense.
    fields: "path.to.field" -> value.
  """
  for path, value in fields.items():
    if not value >= minimum:
      raise UserError(f"--{path}={value} is too small; it has to be at least {minimum}")


def check_between(low: float, high: float, fields: Mapping[str, float]) -> None:
  """Raises a `UserError` for the first flag whose value is outside [low, high], or NaN.

  Args:
    low: the smallest value that makes sense.
    high: the largest.
    fields: "path.to.field" -> value.
  """
  for path, value in fields.items():
    if not low <= value <= high:
      raise UserError(f"--{path}={value} has to be between {low} and {high}")


def check_below_one(fields: Mapping[str, float]) -> None:
  """Raises a `UserError` for the first flag whose value is outside [0, 1), or NaN.

  Args:
    fields: "path.to.field" -> value.
  """
  for path, value in fields.items():
    if not 0 <= value < 1:
      raise UserError(f"--{path}={value} has to be at least 0 and below 1")


def first_line(error: BaseException) -> str:
  """What an error says, in one line of at most 200 characters."""
  return (str(error).strip().splitlines() or ["no message"])[0].strip()[:200]


def described(error: BaseException) -> str:
  """The kind of an error and what it says, in one line."""
  return f"{type(error).__name__}: {first_line(error)}"


def own_line(error: BaseException) -> str:
  """Where in a person's own file an error arose, as "FILE:LINE: "; nothing where it did not."""
  installed = (str(pathlib.Path(__file__).parent), *site.getsitepackages(), sysconfig.get_path("stdlib"))
  frames = traceback.extract_tb(error.__traceback__)
  own = [frame for frame in frames if not frame.filename.startswith((*installed, "<"))]
  return f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
