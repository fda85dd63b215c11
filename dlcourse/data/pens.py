"""Strings of pen-written digits, to be read without segmentation (Graves et al., 2006; H3.7.2, H3.11.2).

The digits are real, the strings are composed. Shapes: N digits, P points of their paths, B strings.
"""

import dataclasses

import numpy as np

from dlcourse.data.procedural import EVALUATION, made
from dlcourse.data.recipe import Data, DataRecipe, Spec
from dlcourse.data.series_sources import load_series
from dlcourse.data.splits import stratified
from dlcourse.data.token_batches import check_split
from dlcourse.errors import check_at_least

SIZE = 100.0  # units of the source, the side of a digit; one unit of the inputs
NEAREST, FARTHEST = 0.1, 0.4  # space between two digits, in sides of a digit


@dataclasses.dataclass(frozen=True)
class PenStrings(DataRecipe):
  """Digits written one after another, as movements (Δx, Δy) of the pen from point to point.

  Each digit comes as `fewest_points` … `most_points` points, so that counting does not segment a string; nor is
  it told where the pen is lifted, which is between digits. Training strings are drawn anew for every
  (seed, step), those of evaluation once. No digit is in two splits.
  """

  batch_size: int = 64
  """Strings in a global batch, over all devices."""
  shortest: int = 3
  """Digits of a string, at least."""
  longest: int = 8
  """Digits of a string, at most."""
  fewest_points: int = 5
  """Points of a digit, at least."""
  most_points: int = 14
  """Points of a digit, at most."""
  strings: int = 1_000
  """Strings of each split in evaluation."""
  validation: float = 0.1
  """Share of the digits that validates."""
  test: float = 0.2
  """Share of the digits that tests."""
  split_seed: int = 0
  """Seed of the splits and of the strings of evaluation."""

  def __post_init__(self) -> None:
    """Refuses strings of nothing."""
    check_at_least(1, {f"data.{name}": getattr(self, name) for name in ("batch_size", "shortest", "strings")})
    check_at_least(2, {"data.fewest_points": self.fewest_points})
    check_at_least(self.shortest, {"data.longest": self.longest})
    check_at_least(self.fewest_points, {"data.most_points": self.most_points})
    check_at_least(0, {"data.split_seed": self.split_seed})
    check_split(self.validation, self.test, self.split_seed)

  def build(self) -> Data:
    """Loads, splits, composes; see `Data`. A batch has inputs, lengths, labels, label_lengths and mask [B].

    Class 0 is the blank, digit d is class d + 1.

    Raises:
      UserError: the digits cannot be had, or the fields do not fit them.
    """
    source = load_series("penbased")
    digits = stratified(source.splits["all"], self.validation, self.test, self.split_seed)
    strings = {
      name: self._strings(part, self.strings, np.random.default_rng((self.split_seed, number, EVALUATION)))
      for number, (name, part) in enumerate(digits.items())
    }

    counts = ", ".join(f"{len(part['label']):,} to {name}" for name, part in digits.items())
    return made(
      strings,
      lambda count, rng: self._strings(digits["train"], count, rng),
      self.batch_size,
      Spec({}, ("<blank>", *source.classes)),
      f"strings of {self.shortest} to {self.longest} digits ({counts} on), composed of {source.description}. "
      f"Licence: {source.licence}. Citation: {source.citation}",
    )

  def _strings(self, digits: dict, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`count` strings of these digits, drawn with replacement."""
    label_lengths = rng.integers(self.shortest, self.longest + 1, count)
    total = int(label_lengths.sum())
    chosen = rng.integers(len(digits["label"]), size=total)
    points = rng.integers(self.fewest_points, self.most_points + 1, total)
    spaces = rng.uniform(NEAREST, FARTHEST, total)
    starts = np.cumsum(label_lengths) - label_lengths  # of each string among the chosen digits
    moves = movements(digits["inputs"][chosen] / SIZE, points, spaces, starts)
    lengths = np.add.reduceat(points, starts)
    return {
      "inputs": _padded(moves.astype(np.float32), lengths, self.longest * self.most_points),
      "lengths": lengths.astype(np.int32),
      "labels": _padded(digits["label"][chosen] + 1, label_lengths, self.longest).astype(np.int32),
      "label_lengths": label_lengths.astype(np.int32),
    }


def movements(paths: np.ndarray, points: np.ndarray, spaces: np.ndarray, starts: np.ndarray) -> np.ndarray:
  """From point to point along digits that are written side by side.

  Args:
    paths: [N, P, 2], x and y of P points, 0 … 1.
    points: [N] how many points each digit gets.
    spaces: [N] between a digit's left end and the right end of the one before.
    starts: [B] the first digit of each string, rising from 0.

  Returns:
    [sum(points), 2], (0, 0) at the first point of each string.
  """
  placed = resampled(paths, points)
  owner = np.repeat(np.arange(len(paths)), points)
  offsets = np.cumsum(points) - points
  left = np.minimum.reduceat(placed[:, 0], offsets)
  right = np.maximum.reduceat(placed[:, 0], offsets)
  # Within a string it does not matter where the others lie: only differences are kept.
  border = np.cumsum(right - left + spaces) - (right - left)
  placed[:, 0] += (border - left)[owner]
  moves = np.diff(placed, axis=0, prepend=placed[:1])
  moves[offsets[starts]] = 0.0
  return moves


def resampled(paths: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Points at equal distances along each path, its two ends included.

  Args:
    paths: [N, P, 2], the corners of polylines.
    points: [N] how many points each gets, at least 2.

  Returns:
    [sum(points), 2], path after path.
  """
  steps = np.linalg.norm(np.diff(paths, axis=1), axis=-1)  # [N, P - 1]
  along = np.concatenate([np.zeros((len(paths), 1)), np.cumsum(steps, axis=1)], axis=1)  # [N, P]
  owner = np.repeat(np.arange(len(paths)), points)
  number = np.arange(len(owner)) - np.repeat(np.cumsum(points) - points, points)
  place = along[owner, -1] * number / (points[owner] - 1)
  corner = np.clip((along[owner] <= place[:, None]).sum(axis=1) - 1, 0, steps.shape[1] - 1)
  share = (place - along[owner, corner]) / np.maximum(steps[owner, corner], 1e-12)
  here, there = paths[owner, corner], paths[owner, corner + 1]
  return here + np.clip(share, 0.0, 1.0)[:, None] * (there - here)


def _padded(flat: np.ndarray, lengths: np.ndarray, longest: int) -> np.ndarray:
  """Rows one after another [sum(lengths), …] -> [B, longest, …], 0 after the end of each."""
  out = np.zeros((len(lengths), longest, *flat.shape[1:]), flat.dtype)
  out[np.arange(longest) < lengths[:, None]] = flat
  return out
