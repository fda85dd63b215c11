"""Image classification sets of TensorFlow Datasets, read and prepared without TensorFlow."""

import contextlib
import os
import tarfile
import types
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dlcourse.data.image_files import centre_square, read_idx
from dlcourse.data.source import ImageSet
from dlcourse.errors import UserError

_PROBE_SECONDS = 5


def load_tfds(name: str, size: int) -> ImageSet:
  """Loads a TFDS image classification set.

  Args:
    name: see `open_tfds`.
    size: pixels; where the images differ in size, the largest centred square of each is resized to
      size x size.

  Returns:
    The splits TFDS publishes, images uint8 [N, H, W, C].

  Raises:
    UserError: as `open_tfds`; damaged.
  """
  builder, sources = open_tfds(name)
  with undamaged(builder):
    splits = {split: _read_split(source, size) for split, source in sources.items()}
  return ImageSet(splits=splits, **catalogue_entry(builder.info))


def catalogue_entry(info: Any) -> dict[str, Any]:
  """What TFDS says of a labelled set: classes, description, licence and citation of an `ImageSet`."""
  return {"classes": tuple(info.features["label"].names), **origin(info)}


def origin(info: Any) -> dict[str, str]:
  """What TFDS says of any set: description, licence and citation."""
  return {
    "description": f"{info.full_name} of TensorFlow Datasets",
    "licence": " ".join((info.redistribution_info.license or "none stated").split()),
    "citation": info.citation or "none stated",
  }


def open_tfds(name: str, decode: bool = True) -> tuple[Any, dict[str, Any]]:
  """Opens a TFDS image classification set through `tfds.data_source` (array_record); reads none of it yet.

  A set that is prepared in $TFDS_DATA_DIR (else ~/tensorflow_datasets) is read from there; those of
  `_EXAMPLES` are downloaded and prepared on first use.

  Args:
    name: "mnist", or with configuration and version as TFDS writes them ("name/config:1.0.0").
    decode: give images as arrays; else as the bytes of their files.

  Returns:
    The builder, and split -> a sequence of {"image", "label", …}.

  Raises:
    UserError: the extra `tfds` is not installed; not prepared and no way to prepare it; not an
      image classification set; not stored as array_record.
  """
  tfds = import_tfds()
  builder = find_tfds(name)
  _check_features(tfds, name, builder.info.features)
  return builder, sources_of(name, builder, None if decode else {"image": tfds.decode.SkipDecoding()})


def find_tfds(name: str) -> Any:
  """The builder of a set that is prepared, or can be here.

  Args:
    name: see `open_tfds`.

  Raises:
    UserError: the extra `tfds` is not installed; not prepared and no way to prepare it.
  """
  tfds, folder = import_tfds(), _folder()
  try:
    return tfds.core.read_only_builder.builder_from_files(name, data_dir=folder)
  except (tfds.core.DatasetNotFoundError, ValueError):
    return _prepare(tfds, name, folder)


def sources_of(name: str, builder: Any, decoders: dict[str, Any] | None = None) -> dict[str, Any]:
  """Split -> a sequence of the examples of a prepared set; reads none of it yet.

  Args:
    name: see `open_tfds`.
    builder: of `find_tfds`.
    decoders: as TFDS takes them; None: its own.

  Raises:
    UserError: not stored as array_record.
  """
  try:
    sources = builder.as_data_source(decoders=decoders)
  except NotImplementedError as error:
    raise UserError(
      f"{builder.data_dir} is not stored as array_record; delete it, or {_elsewhere(name, _folder())}"
    ) from error
  return {str(split): source for split, source in sources.items()}


@contextlib.contextmanager
def undamaged(builder: Any) -> Iterator[None]:
  """Reading a set that turns out to be damaged is one line that says what to do."""
  try:
    yield
  except (RuntimeError, ValueError, OSError) as error:  # array_record raises RuntimeError
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"{builder.data_dir} is damaged ({reason}); delete it and prepare it again") from error


def _folder() -> Path:
  return Path(os.environ.get("TFDS_DATA_DIR") or import_tfds().core.constants.DATA_DIR).expanduser()


def import_tfds() -> types.ModuleType:
  """TensorFlow Datasets.

  Raises:
    UserError: the extra `tfds` is not installed.
  """
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise UserError(f"TensorFlow Datasets is missing ({error}); pip install 'dlcourse[tfds]'") from error
  return tfds


def _check_features(tfds: types.ModuleType, name: str, features: Any) -> None:
  fields = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
  image = fields.get("image")
  if (
    not isinstance(image, tfds.features.Image)
    or image.np_dtype != np.uint8
    or not isinstance(fields.get("label"), tfds.features.ClassLabel)
  ):
    raise UserError(f"{name!r} is no image classification set: it needs an 8-bit `image` and a `label`")


def _read_split(source: Any, size: int) -> dict[str, np.ndarray]:
  examples = source.__getitems__(range(len(source)))
  images = [example["image"] for example in examples]
  if len({image.shape for image in images}) > 1:
    images = [_resize(image, size) for image in images]
  labels = np.array([example["label"] for example in examples], np.int32)
  return {"image": np.stack(images), "label": labels}


def _resize(image: np.ndarray, size: int) -> np.ndarray:
  resized = np.asarray(centre_square(_to_pil(image), size))
  return resized.reshape(size, size, image.shape[-1])


def _to_pil(image: np.ndarray) -> Image.Image:
  return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


# Preparing.


def _mnist_examples(self, num_examples, data_path, label_path) -> Iterator[tuple[int, dict]]:
  del self, num_examples  # the files know it
  pairs = zip(read_idx(data_path, 3), read_idx(label_path, 1), strict=True)
  for index, (image, label) in enumerate(pairs):
    yield index, {"image": Image.fromarray(image), "label": int(label)}


def _cifar10_examples(self, split_prefix, filepaths) -> Iterator[tuple[int, dict]]:
  del self
  # A record: 1 byte of label, then the red, green and blue planes of 32 x 32.
  records = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, 3073) for path in filepaths])
  for index, record in enumerate(records):
    image = Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0).copy())
    yield index, {"id": f"{split_prefix}{index:05d}", "image": image, "label": int(record[0])}


# The stock `_generate_examples` read files with TensorFlow and yield arrays, which TFDS encodes by
# TensorFlow. These read the same files with NumPy and yield PIL images, which need no TensorFlow.
_EXAMPLES = {
  "mnist": _mnist_examples,
  "fashion_mnist": _mnist_examples,
  "kmnist": _mnist_examples,
  "cifar10": _cifar10_examples,
}


def _prepare(tfds: types.ModuleType, name: str, folder: Path) -> Any:
  """Downloads and prepares a set, and returns its builder."""
  if name not in _EXAMPLES:
    raise UserError(
      f"{name!r} is not prepared in {folder}, and dlcourse itself prepares only "
      f"{', '.join(_EXAMPLES)}; {_elsewhere(name, folder)}"
    )
  stock = tfds.builder_cls(name)
  address = next(iter(stock.url_infos))
  if not _reachable(address):
    raise UserError(
      f"{name!r} is not prepared in {folder} and {address} cannot be reached; connect this machine "
      f"to the internet, or {_elsewhere(name, folder)}"
    )

  class TensorFlowFree(stock, skip_registration=True):
    name = stock.name
    url_infos = stock.url_infos
    _generate_examples = _EXAMPLES[stock.name]

    def _split_generators(self, dl_manager):
      # TFDS downloads without TensorFlow, but does not unpack without it.
      unpacking = types.SimpleNamespace(
        download_and_extract=lambda addresses: _unpacked(dl_manager.download(addresses))
      )
      return super()._split_generators(unpacking)

  wrong_checksum = tfds.download.download_manager.NonMatchingChecksumError
  try:
    builder = TensorFlowFree(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
  except (tfds.download.DownloadError, wrong_checksum, OSError) as error:
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"cannot prepare {name!r} in {folder}: {reason}") from error
  return builder


def _unpacked(downloaded: Any) -> Any:
  """The folder of one downloaded tar file; a dict of .gz files stays: `read_idx` unpacks them."""
  if isinstance(downloaded, dict):
    return downloaded
  folder = Path(f"{downloaded}.unpacked")
  with tarfile.open(downloaded) as archive:
    # Python 3.11.3 and older have no filters; TFDS has checked the archive's checksum either way.
    archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
  return folder


def _reachable(address: str) -> bool:
  # TFDS itself retries for minutes before it gives up.
  request = urllib.request.Request(address, method="HEAD")
  try:
    with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
      return True
  except OSError:  # URLError is one
    return False


def _elsewhere(name: str, folder: Path) -> str:
  return (
    f"prepare it elsewhere with tfds.builder({name!r}, file_format='array_record')"
    f".download_and_prepare() and copy its folder into {folder}"
  )
