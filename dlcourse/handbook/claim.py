"""What the handbook claims, and what was found out about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
  from matplotlib.figure import Figure

Verdict = Literal["confirmed", "corrected", "needs hardware"]


class Finding(NamedTuple):
  """What a measurement, a recorded study or a paper says of a claim."""

  value: str
  """In words and figures."""
  holds: bool | None
  """Whether the claim is right as it stands; None: only a machine that is not here could tell."""
  source: str
  """Functions of this project, study with commit and device, or paper with its table."""
  figure: Figure | None = None
  """What shows it."""

  @property
  def verdict(self) -> Verdict:
    """The word for `holds`."""
    return {True: "confirmed", False: "corrected", None: "needs hardware"}[self.holds]


class Claim(NamedTuple):
  """A statement of the handbook, and the function that looks into it."""

  key: str
  """Its name, also that of its figure."""
  section: str
  """Chapter and section, such as "2.10.2"."""
  says: str
  """What the handbook states, with its figures."""
  measure: Callable[[], Finding]
  """Finds out; a verdict follows from what it finds."""
  verdict: Verdict
  """What has been found so far: a run that finds otherwise fails a test."""
  right: str = ""
  """What is right, where the handbook is not."""
