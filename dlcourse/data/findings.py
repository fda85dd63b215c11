"""What is found in somebody's own images before anything is learnt from them."""

import collections
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlcourse.data.image_files import BadImage, left_out, read_image
from dlcourse.data.image_lists import ImageList, Listed, same_files
from dlcourse.data.source import ImageSet

FEW = 20  # images of a class: fewer say little of it
UNEQUAL = 3  # times as many images of the largest class as of the smallest are an imbalance


class Findings(NamedTuple):
  """What `inspect` finds; paths are given as seen from the root.

  Attributes:
    root: folder or table.
    counts: split -> class -> how many images can be read, contradictions and repeats included.
    sides: (height, width) in pixels of the smallest, the middle and the largest, by their shorter side.
    grey: whether no image has a colour.
    broken: {"file", "reason"} of each that cannot be read.
    repeated: groups of the same file in one class and split, each after the first left out of new splits.
    contradictions: groups of the same file in several classes.
    leaks: groups of the same file in several published splits.
    unusual: what is not kept of how many images, such as {"transparency": 3}.
  """

  root: str
  counts: Mapping[str, Mapping[str, int]]
  sides: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
  grey: bool
  broken: Sequence[Mapping[str, str]]
  repeated: Sequence[Sequence[str]]
  contradictions: Sequence[Sequence[str]]
  leaks: Sequence[Sequence[str]]
  unusual: Mapping[str, int]

  @property
  def classes(self) -> dict[str, int]:
    """Images of each class, over all splits."""
    names = next(iter(self.counts.values()))
    return {name: sum(split[name] for split in self.counts.values()) for name in names}

  @property
  def distinct(self) -> int:
    """Images that are left to be divided into splits: of repeats one, of contradictions none."""
    again = sum(len(group) - 1 for group in self.repeated)
    return sum(self.classes.values()) - again - sum(map(len, self.contradictions))

  def record(self) -> dict[str, Any]:
    """For a JSON file."""
    return {**self._asdict(), "classes": self.classes, "remarks": self.remarks()}

  def remarks(self) -> list[str]:
    """What a person should know, a sentence each."""
    classes, said = self.classes, []
    least, most = min(classes, key=classes.get), max(classes, key=classes.get)
    if classes[most] >= UNEQUAL * classes[least]:
      said.append(f"classes are unequal: {most!r} has {classes[most]} images, {least!r} {classes[least]}")
    few = [f"{name!r} ({count})" for name, count in classes.items() if count < FEW]
    if few:
      said.append(f"too few images to say much of {_listing(few)}; {FEW} are little, a hundred are better")
    if self.broken:
      named = _listing([row["file"] for row in self.broken])
      said.append(f"files that cannot be read: {len(self.broken)}, {named}")
    if self.repeated:
      extra = sum(len(group) - 1 for group in self.repeated)
      first, again = self.repeated[0][:2]
      said.append(f"images that repeat another: {extra}, such as {again}, which is {first}")
    for group in self.contradictions:
      said.append(f"the same image is in several classes: {_listing(list(dict.fromkeys(group)))}")
    if self.leaks:
      said.append(
        f"{len(self.leaks)} images are in more than one split, so that the test is easier than it looks: "
        f"{_listing(list(dict.fromkeys(self.leaks[0])))}"
      )
    if self.unusual:
      lost = [f"{what} ({count})" for what, count in self.unusual.items()]
      said.append(f"read as 8-bit colours, images lose {_listing(lost)}")
    return said


def inspect(listed: ImageList) -> Findings:
  """Reads every image of a list, and compares their files."""
  base = listed.root if listed.root.is_dir() else listed.root.parent
  readable: dict[str, list[Listed]] = {}
  shapes, broken, grey, unusual = [], [], True, collections.Counter()
  for split, images in listed.splits.items():
    readable[split] = []
    for image in images:
      try:
        pixels, lost = read_image(image.path), left_out(image.path)
      except BadImage as error:
        reason = str(error).removeprefix(f"{image.path}: ")
        broken.append({"file": _within(base, image.path), "reason": reason})
        continue
      readable[split].append(image)
      shapes.append(pixels.shape[:2])
      grey = grey and bool((pixels == pixels[..., :1]).all())
      unusual.update([lost] if lost else [])
  counts = {
    split: {name: sum(image.label == label for image in images) for label, name in enumerate(listed.classes)}
    for split, images in readable.items()
  }
  places = [(split, image.label, image.path) for split, images in readable.items() for image in images]
  groups = {"repeated": [], "contradictions": [], "leaks": []}
  for group in same_files([path for _, _, path in places]):
    splits, labels, paths = zip(*(places[place] for place in group), strict=True)
    kind = "contradictions" if len(set(labels)) > 1 else "leaks" if len(set(splits)) > 1 else "repeated"
    groups[kind].append([_within(base, path) for path in paths])
  return Findings(str(listed.root), counts, _three_sides(shapes), grey, broken, unusual=dict(unusual), **groups)


def found_in(images: ImageSet, name: str) -> Findings:
  """What is found in a published data set, whose files nobody has to doubt."""
  counts = {
    split: dict(
      zip(images.classes, np.bincount(part["label"], minlength=len(images.classes)).tolist(), strict=True)
    )
    for split, part in images.splits.items()
  }
  pixels = [part["image"] for part in images.splits.values()]
  shapes = [part.shape[1:3] for part in pixels]
  grey = all(part.shape[-1] == 1 or bool((part == part[..., :1]).all()) for part in pixels)
  return Findings(name, counts, _three_sides(shapes), grey, [], [], [], [], {})


def _three_sides(shapes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
  by_side = sorted(map(tuple, shapes), key=min) or [(0, 0)]
  return by_side[0], by_side[statistics.median_low(range(len(by_side)))], by_side[-1]


def _within(base: Path, path: Path) -> str:
  return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _listing(names: Sequence[str], most: int = 5) -> str:
  more = f" and {len(names) - most} more" if len(names) > most else ""
  return ", ".join(names[:most]) + more
