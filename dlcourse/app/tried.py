"""What a person has tried in a session, and what it says of the model."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

COLUMNS = ("file", "predicted", "probability", "correct class", "verdict", "problem")


class Tried(NamedTuple):
  """One image that the model was asked about, or a file that is none.

  Attributes:
    file: as the person calls it.
    predicted: the likeliest class; None where the file could not be read.
    probability: of that class.
    truth: the correct class, where it is known.
    problem: why the file could not be read.
  """

  file: str
  predicted: str | None = None
  probability: float | None = None
  truth: str | None = None
  problem: str | None = None

  @property
  def right(self) -> bool | None:
    """Whether the prediction is the correct class; None where there is no telling."""
    return None if self.truth is None or self.predicted is None else self.predicted == self.truth


def with_truth(tried: Sequence[Tried], index: int, truth: str | None) -> tuple[Tried, ...]:
  """The same, with another correct class of one of them."""
  return (*tried[:index], tried[index]._replace(truth=truth), *tried[index + 1 :])


def score(tried: Iterable[Tried]) -> tuple[int, int]:
  """(how many are right, of how many that is known)."""
  known = [one.right for one in tried if one.right is not None]
  return sum(known), len(known)


def confusion(tried: Iterable[Tried], classes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
  """Counts of (correct class, prediction) over the classes that occur as either.

  Args:
    tried: those without a correct class are left out.
    classes: of the model, in their order.

  Returns:
    (counts [C, C] int64, the C classes).
  """
  known = [one for one in tried if one.right is not None]
  occurring = {name for one in known for name in (one.truth, one.predicted)}
  names = [name for name in classes if name in occurring]
  counts = np.zeros((len(names), len(names)), np.int64)
  for one in known:
    counts[names.index(one.truth), names.index(one.predicted)] += 1
  return counts, names


def rows(tried: Iterable[Tried]) -> list[list[str]]:
  """A row an image, in the order of `COLUMNS`, as texts; what is not known is empty."""
  said = {True: "right", False: "wrong", None: ""}
  return [
    [
      one.file,
      one.predicted or "",
      "" if one.probability is None else f"{one.probability:.8f}",
      one.truth or "",
      said[one.right],
      one.problem or "",
    ]
    for one in tried
  ]


def as_csv(tried: Iterable[Tried]) -> str:
  """The rows under their names (RFC 4180)."""
  text = io.StringIO()
  csv.writer(text).writerows([COLUMNS, *rows(tried)])
  return text.getvalue()
