"""A person's own labelled images: listed from a folder or a table, then read."""

import collections
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from dlcourse.data.image_files import BadImage, image_size, read_image
from dlcourse.data.sentence_sources import read_table
from dlcourse.data.source import ImageSet
from dlcourse.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_COLUMNS = ("file", "label")


class Listed(NamedTuple):
  """An image file and the number of its class."""

  path: Path
  label: int


class ImageList(NamedTuple):
  """Images that nobody has read yet.

  Attributes:
    root: the folder or table they are listed in.
    classes: their names, in the order of the labels.
    splits: split name -> its images; without published splits all are in "all".
  """

  root: Path
  classes: tuple[str, ...]
  splits: Mapping[str, Sequence[Listed]]


def list_folder(folder: str) -> ImageList:
  """Images in one folder per class.

  Either train/CLASS/IMAGE with an optional validation/ (or val/) and test/, or CLASS/IMAGE, which gives the
  split "all". Other files and deeper folders are ignored.

  Raises:
    UserError: no such layout, fewer than two classes, a class that `train` lacks.
  """
  root = existing(folder)
  layout = {split: _class_folders(path) for split, path in _split_folders(root).items()}
  classes = tuple(layout.get("train", layout.get("all")))
  if len(classes) < 2:
    raise UserError(
      f"{root} holds {len(classes)} classes of images; "
      "put at least two into train/CLASS/*.jpg or CLASS/*.jpg (also png, bmp, gif, webp, tif)"
    )
  for split, found in layout.items():
    if extra := set(found) - set(classes):
      raise UserError(f"{root / split} has a class that train lacks: {min(extra)!r}")
  splits = {
    split: [Listed(path, classes.index(name)) for name, paths in found.items() for path in paths]
    for split, found in layout.items()
  }
  return ImageList(root, classes, splits)


def is_table(data: str) -> bool:
  """Whether it is called like a table of images."""
  return data.lower().endswith(".csv") and ":" not in data


def list_table(file: str) -> ImageList:
  """Images in a table: a CSV with the columns `file`, `label` and perhaps `split`, in any order.

  Files are named as seen from the folder of the table. Splits are train, validation (or val) and test.

  Raises:
    UserError: no such table, a column is missing or there twice, an image without a label, fewer than two
      classes, an unknown split.
  """
  path = Path(file).expanduser()
  head, *rows = read_table(path, ",")
  head = [name.strip().lower() for name in head]
  if not set(_COLUMNS) <= set(head):
    also = "; commas set the fields apart, not semicolons" if ";" in head[0] else ""
    raise UserError(
      f"{path}: the first line names the columns, of which file and label are needed: file,label{also}"
    )
  if len(set(head)) < len(head):
    raise UserError(f"{path} has the column {max(head, key=head.count)!r} twice")
  records = [dict(zip(head, row, strict=True)) for row in rows]
  if empty := [record["file"] for record in records if not record["label"].strip()]:
    raise UserError(f"{path}: {len(empty)} images have no label, such as {empty[0]!r}; leave those lines out")
  classes = tuple(sorted({record["label"] for record in records}, key=_as_people_sort))
  if len(classes) < 2:
    raise UserError(f"{path} has one label, {classes[0]!r}; a classifier needs at least two")
  splits = collections.defaultdict(list)
  for record in records:
    split = record.get("split", "all")
    if "split" in record and split not in _SPLITS:
      raise UserError(f"{path}: {split!r} is no split; write train, validation or test")
    splits[_SPLITS.get(split, "all")].append(
      Listed(path.parent / record["file"], classes.index(record["label"]))
    )
  if not {"train", "all"} & set(splits):
    raise UserError(f"{path} has no image of the split train")
  return ImageList(path, classes, dict(splits))


def read_list(listed: ImageList, size: int) -> ImageSet:
  """Reads the images of a list, without those that cannot be decoded, which a warning names.

  Where the splits are still to be made, an image that is there more than once counts once, and one that is in
  several classes not at all: else it would be trained on and tested with.

  Args:
    listed: the images.
    size: pixels; if the images differ in size, or have a side longer than this, the largest centred square of
      each is resized to size x size. Otherwise all keep their common size.

  Returns:
    Images [N, H, W, 3], or [N, H, W, 1] if every image is grey.

  Raises:
    UserError: a split has no image that can be read.
  """
  # Of each image whose header is sound, its (height, width).
  shapes = {split: _shapes(images) for split, images in listed.splits.items()}
  if "all" in shapes:
    shapes["all"] = {
      image: shapes["all"][image] for image in _without_repeats(list(shapes["all"]), listed.classes)
    }
  found = {shape for split in shapes.values() for shape in split.values()}
  keep = len(found) == 1 and all(max(shape) <= size for shape in found)
  splits = {
    split: _read(listed.root, split, images, None if keep else size) for split, images in shapes.items()
  }
  if all((split["image"] == split["image"][..., :1]).all() for split in splits.values()):
    splits = {name: split | {"image": split["image"][..., :1]} for name, split in splits.items()}
  return ImageSet(
    splits=splits,
    classes=listed.classes,
    description=f"images of {listed.root}",
    licence="none stated",
    citation="none stated",
  )


def existing(folder: str) -> Path:
  """A folder.

  Raises:
    UserError: there is none of that name.
  """
  root = Path(folder).expanduser()
  if not root.is_dir():
    raise UserError(f"no such folder: {root}")
  return root


def same_files(paths: Sequence[Path]) -> list[list[int]]:
  """Groups of two or more places at which files have the same contents, byte for byte (SHA-256)."""
  by_size, groups = collections.defaultdict(list), collections.defaultdict(list)
  for place, path in enumerate(paths):
    by_size[path.stat().st_size].append(place)
  for size, alike in by_size.items():
    for place in alike if len(alike) > 1 else ():
      with paths[place].open("rb") as file:
        groups[size, hashlib.file_digest(file, "sha256").digest()].append(place)
  return [group for group in groups.values() if len(group) > 1]


def _without_repeats(images: Sequence[Listed], classes: Sequence[str]) -> list[Listed]:
  """The images without those that repeat or contradict another; the log names them."""
  left_out = set()
  for group in same_files([image.path for image in images]):
    first, *others = [images[place] for place in group]
    labels = {images[place].label for place in group}
    if len(labels) > 1:
      names = ", ".join(sorted(classes[label] for label in labels))
      _say(f"left out {first.path} and {len(others)} like it: the same image is in the classes {names}")
      left_out |= set(group)
    else:
      _say(f"left out {len(others)} that repeat {first.path}, such as {others[0].path}")
      left_out |= set(group[1:])
  return [image for place, image in enumerate(images) if place not in left_out]


def _as_people_sort(label: str) -> tuple[bool, float, str]:
  """Numbers by their value and before words."""
  return (not label.isdecimal(), float(label) if label.isdecimal() else 0.0, label)


def _split_folders(root: Path) -> dict[str, Path]:
  if not (root / "train").is_dir():
    return {"all": root}
  found = {}
  for name, split in _SPLITS.items():
    if (root / name).is_dir():
      if split in found:
        raise UserError(f"{root} has both {found[split].name}/ and {name}/; keep one of them")
      found[split] = root / name
  return found


def _class_folders(folder: Path) -> dict[str, list[Path]]:
  """Class name -> its image files, both sorted; a folder without images is no class."""
  paths = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
  found = {path.name: _image_files(path) for path in paths}
  for path in paths:
    deeper = (
      0 if found[path.name] else sum(len(_image_files(inner)) for inner in path.iterdir() if inner.is_dir())
    )
    if deeper:
      _say(f"left out {path}: it holds no image itself, but {deeper} in folders; move them up")
    if found[path.name] and not _is_utf8(path.name):
      raise UserError(f"a class of images has the folder {path.name!r}, which is not UTF-8; rename it")
  return {name: files for name, files in found.items() if files}


def _is_utf8(name: str) -> bool:
  """Whether a name of a file was; bytes that are not become halves of characters, which cannot be written."""
  return not any("\udc80" <= letter <= "\udcff" for letter in name)


def _image_files(folder: Path) -> list[Path]:
  return sorted(
    path
    for path in folder.iterdir()
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
  )


@functools.cache  # a run loads its data twice: to train, and to report
def _say(line: str) -> None:
  logging.warning("%s", line)


def _shapes(images: Sequence[Listed]) -> dict[Listed, tuple[int, int]]:
  shapes = {}
  for image in images:
    try:
      shapes[image] = image_size(image.path)
    except BadImage as error:
      _say(f"skipped an image: {error}")
  return shapes


def _read(root: Path, split: str, images: Sequence[Listed], size: int | None) -> dict[str, np.ndarray]:
  pixels, labels = [], []
  for image in images:
    try:
      pixels.append(read_image(image.path, size))
      labels.append(image.label)
    except BadImage as error:
      _say(f"skipped an image: {error}")
  if not pixels:
    raise UserError(f"{root}: split {split} has no image that can be read")
  return {"image": np.stack(pixels), "label": np.asarray(labels, np.int32)}
