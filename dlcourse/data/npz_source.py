"""Images in one NumPy file, as MedMNIST (Yang et al., 2023) publishes its sets.

`{train,val,test}_images` uint8 [N, H, W] or [N, H, W, C] and `{train,val,test}_labels` [N] or [N, 1]; `val` and
`test` may be missing; `classes` may name the labels.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dlcourse.data.source import ImageSet
from dlcourse.errors import UserError, first_line

MAX_BYTES = 8 * 2**30  # of the arrays in memory
_SMALL = 2**28  # bytes that a file of any size may become
_MOST_COMPRESSED = 200  # times its size: images of digits reach 20, a bomb 1,000
MOST_CLASSES = 100_000
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def load_npz(path: str) -> ImageSet:
  """Labelled images from a `.npz` file.

  Raises:
    UserError: no such file, damaged, too large, or with other arrays than these.
  """
  file = Path(path).expanduser()
  arrays = read_arrays(file)
  splits = {}
  for theirs, ours in _SPLITS.items():
    if f"{theirs}_images" in arrays:
      splits[ours] = _split(file, theirs, arrays)
  if "train" not in splits:
    raise UserError(f"{file} has no train_images and train_labels; it has {', '.join(arrays) or 'nothing'}")
  if len({part["image"].shape[1:] for part in splits.values()}) > 1:
    raise UserError(f"{file}: the images of its splits differ in size")
  return ImageSet(
    splits=splits,
    classes=_classes(file, arrays, 1 + max(int(part["label"].max()) for part in splits.values())),
    description=f"images of {file}",
    licence="none stated",
    citation="none stated",
  )


def read_arrays(file: Path) -> dict[str, np.ndarray]:
  """The arrays of an .npz file by name; objects are refused.

  Raises:
    UserError: there is no such file, it is damaged, or holds what is no array of numbers.
  """
  if not file.is_file():
    raise UserError(
      f"no such file: {file}; --data.source=npz:FILE takes one of MedMNIST (medmnist.com) or one like it, "
      "folder:FOLDER your own images"
    )
  try:
    with zipfile.ZipFile(file) as members:
      size = sum(member.file_size for member in members.infolist())
    check_unpacked(file, size)
    with np.load(file, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except UserError:
    raise
  except Exception as error:  # a file made by somebody else can lead NumPy and zipfile anywhere
    raise UserError(f"{file} cannot be read as .npz: {first_line(error)}") from error


def check_unpacked(file: Path, size: int) -> None:
  """Refuses a bomb before it is unpacked.

  Args:
    file: that is compressed.
    size: bytes that it says it will become.

  Raises:
    UserError: they are too many, or too many for a file of its size.
  """
  most = min(MAX_BYTES, max(_SMALL, _MOST_COMPRESSED * file.stat().st_size))
  if size > most:
    raise UserError(f"{file} declares {size:,} bytes of arrays; a file of its size is read up to {most:,}")


def _split(file: Path, name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  images, labels = arrays[f"{name}_images"], arrays.get(f"{name}_labels", np.zeros(0))
  if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
    raise UserError(
      f"{file}: {name}_images is {images.dtype} {images.shape}, not uint8 [N, H, W] or [N, H, W, C]"
    )
  if images.ndim == 4 and images.shape[-1] not in (1, 3):
    raise UserError(
      f"{file}: {name}_images has {images.shape[-1]} channels; images are grey (1) or coloured (3)"
    )
  if labels.size == len(images) and labels.dtype.kind in "iu" and labels.max() >= MOST_CLASSES:
    raise UserError(
      f"{file}: {name}_labels go up to {labels.max():,}, and more than {MOST_CLASSES:,} classes are none"
    )
  if labels.size != len(images) or labels.dtype.kind not in "iu" or labels.min() < 0:
    raise UserError(
      f"{file}: {name}_labels is {labels.dtype} {labels.shape}, not one number from 0 for each of {len(images)}"
    )
  images = images[..., None] if images.ndim == 3 else images
  return {"image": images, "label": labels.reshape(-1).astype(np.int32)}


def _classes(file: Path, arrays: Mapping[str, np.ndarray], count: int) -> tuple[str, ...]:
  if "classes" not in arrays:
    return tuple(str(label) for label in range(count))
  names = tuple(str(name) for name in arrays["classes"].reshape(-1))
  if len(names) < count:
    raise UserError(f"{file} names {len(names)} classes, the labels need {count}")
  return names
