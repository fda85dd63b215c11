"""Images by the million: each read alone, cut out and scaled by threads while the devices compute.

Shapes: B batch, S side of the images.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from PIL import Image

from dlcourse.data.augment import Augmentation
from dlcourse.data.batches import in_order, shuffled
from dlcourse.data.image_files import BadImage, read_image
from dlcourse.data.image_sources import load_images
from dlcourse.data.images import LARGEST_BATCH, LARGEST_SIDE
from dlcourse.data.recipe import Data, DataRecipe, Spec, digest_of
from dlcourse.data.scaling import FixedScale, preparation, scaling
from dlcourse.data.tfds_source import catalogue_entry, open_tfds
from dlcourse.errors import UserError, check_at_least, check_between, unknown

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Batch = dict[str, np.ndarray]

EVALUATED = 0.875  # of the shorter side: 224 of 256 pixels (Krizhevsky et al., 2012, section 2)
_TRIES = 10
_OTHER_FILES = 512  # what else a run may keep open


class Stored(NamedTuple):
  """Labelled images of which each can be read alone.

  Attributes:
    splits: split -> a sequence of {"image": an encoded file, or uint8 [H, W, 1 or 3]; "label": int}.
    classes, description, licence, citation: as in `ImageSet`.
    digest: changes with the images; for a set that is too large to read, with what its catalogue says of it.
  """

  splits: Mapping[str, Sequence[Mapping[str, Any]]]
  classes: tuple[str, ...]
  description: str
  licence: str
  citation: str
  digest: str


@dataclasses.dataclass(frozen=True)
class Crop:
  """Which part of a training image is seen; another one in every epoch."""

  def box(self, rng: np.random.Generator, width: int, height: int, size: int) -> Box:
    """The part of an image of width x height pixels that becomes size x size."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class AreaCrop(Crop):
  """A share of the area and an aspect ratio, both at random (Szegedy et al., 2015, section 6)."""

  smallest: float = 0.08
  """Least share of the image's area."""
  aspect: float = 4 / 3
  """Largest ratio of the longer to the shorter side; its logarithm is uniform, as in the authors' code."""

  def __post_init__(self) -> None:
    """Refuses an empty part, and a ratio that calls the shorter side longer."""
    if not 0 < self.smallest <= 1:
      raise UserError(f"--data.crop.smallest={self.smallest} is a share above 0 and at most 1, like 0.08")
    check_at_least(1, {"data.crop.aspect": self.aspect})

  def box(self, rng: np.random.Generator, width: int, height: int, size: int) -> Box:
    """The first of ten draws that fits; else the largest part in the middle whose aspect ratio is allowed."""
    for _ in range(_TRIES):
      area = rng.uniform(self.smallest, 1) * width * height
      ratio = self.aspect ** rng.uniform(-1, 1)
      across, down = (area * ratio) ** 0.5, (area / ratio) ** 0.5
      if across <= width and down <= height:
        return _box(rng.uniform(0, width - across), rng.uniform(0, height - down), across, down)
    across, down = min(width, height * self.aspect), min(height, width * self.aspect)
    return _box((width - across) / 2, (height - down) / 2, across, down)


@dataclasses.dataclass(frozen=True)
class SideCrop(Crop):
  """`size` pixels of an image whose shorter side is scaled to a random length: "scale jittering".

  Simonyan & Zisserman, 2015, section 3.1; with one length Krizhevsky et al., 2012, section 4.1.
  """

  shortest: int = 256
  """Least length of the shorter side, in pixels."""
  longest: int = 256
  """Greatest length of the shorter side."""

  def __post_init__(self) -> None:
    """Refuses lengths in the wrong order."""
    check_at_least(1, {"data.crop.shortest": self.shortest})
    check_at_least(self.shortest, {"data.crop.longest": self.longest})

  def box(self, rng: np.random.Generator, width: int, height: int, size: int) -> Box:
    """A square at a random place.

    Raises:
      UserError: the scaled image can be smaller than `size`.
    """
    if self.shortest < size:
      raise UserError(f"--data.crop.shortest={self.shortest} leaves no {size} pixels (--data.size); raise it")
    side = min(width, height) * size / rng.integers(self.shortest, self.longest, endpoint=True)
    return _box(rng.uniform(0, width - side), rng.uniform(0, height - side), side, side)


@dataclasses.dataclass(frozen=True)
class StreamedImages(DataRecipe):
  """Colour images [B, size, size, 3] with labels, read when they are needed.

  A published validation split is the test split where there is none with labels; a random share of the training
  images validates. An image that cannot be decoded is black and masked, with a warning that names it. Every
  process of a run reads the whole global batch.
  """

  source: str = "tfds:imagenet2012"
  """tfds:NAME, prepared as array_record; any source of `Images` too, which is then in memory."""
  batch_size: int = 256
  """Images in a global batch, over all devices."""
  size: int = 224
  """Side of the images, in pixels."""
  crop: Crop = AreaCrop()
  """Which part of an image is seen in training; at evaluation the middle, 7/8 of the shorter side."""
  scale: FixedScale = "imagenet"
  """Pixels in [0, 1], in [-1, 1], or with ImageNet's mean 0 and deviation 1 in each channel; efficientnet_lite:
  (pixel - 127) / 128."""
  augment: tuple[Augmentation, ...] = ()
  """Random changes of the cut out training images, in their order."""
  validation: float = 0.01
  """Share of the training images that validates, where the source has no validation split to spare."""
  split_seed: int = 0
  """Seed of the validation split."""
  workers: int = 8
  """Threads that decode; they change no batch."""
  ahead: int = 2
  """Batches that are begun before they are asked for."""

  def __post_init__(self) -> None:
    """Refuses numbers that fit no source."""
    check_between(1, LARGEST_BATCH, {"data.batch_size": self.batch_size})
    check_between(1, LARGEST_SIDE, {"data.size": self.size})
    check_between(1, 1024, {"data.workers": self.workers})
    check_at_least(0, {"data.split_seed": self.split_seed, "data.ahead": self.ahead})
    if not 0 < self.validation < 1:
      raise UserError(f"--data.validation={self.validation} is a share between 0 and 1, like 0.01")

  def build(self) -> Data:
    """Opens the source; see `Data`.

    Raises:
      UserError: the source does not exist or cannot be had, or the fields do not fit it.
    """
    stored = open_images(self.source, self.size)
    splits = self._split(stored.splits)
    self.crop.box(np.random.default_rng(0), 1, 1, self.size)  # does it fit?
    side, rows = self.size, (self.batch_size,)
    shapes = {
      "image": jax.ShapeDtypeStruct((*rows, side, side, 3), np.uint8),
      "label": jax.ShapeDtypeStruct(rows, np.int32),
      "mask": jax.ShapeDtypeStruct(rows, np.float32),
    }
    scale = scaling(self.scale)
    prepare = preparation(scale.scale, self.augment, shapes)
    pool = ThreadPoolExecutor(self.workers)

    def eval_batches(split):
      if split not in splits:
        raise unknown("split", split, splits)
      return self._in_order(pool, *splits[split])

    return Data(
      spec=Spec(shapes, stored.classes, prepare=prepare, augments=True, scaling=scale),
      batch=self._shuffled(pool, *splits["train"]),
      eval_batches=eval_batches,
      sizes={name: len(which) for name, (_, which) in splits.items()},
      digest=_digest(stored.digest, *(which for _, which in splits.values())),
      description=f"{stored.description}. Licence: {stored.licence}. Citation: {stored.citation}",
    )

  def _split(self, published: Mapping[str, Sequence]) -> dict[str, tuple[Sequence, np.ndarray]]:
    """Split -> (images, which of them)."""
    whole = {name: (images, np.arange(len(images))) for name, images in published.items()}
    if "test" in published and published["test"][0]["label"] < 0:  # ImageNet keeps these to itself
      del whole["test"]
    if "test" not in whole and "validation" in whole:
      whole["test"] = whole.pop("validation")
    images, which = whole.pop("train", None) or whole.pop("all", None) or (None, ())
    missing = [name for name in ("validation", "test") if name not in whole]
    share = max(1, round(self.validation * len(which)))
    if len(which) <= share * len(missing):
      raise UserError(f"{self.source}: too few training images; add some, or change --data.validation")
    order = np.random.default_rng(self.split_seed).permutation(which)
    parts = np.split(order, [share * (i + 1) for i in range(len(missing))])
    chosen = dict(zip([*missing, "train"], ((images, np.sort(part)) for part in parts), strict=True))
    return {name: (whole | chosen)[name] for name in ("train", "validation", "test")}

  def _shuffled(
    self, pool: ThreadPoolExecutor, images: Sequence, which: np.ndarray
  ) -> Callable[[int, int], Batch]:
    """Training batches (seed, step) -> batch, in the order of `batches.shuffled`."""
    order = shuffled({"row": which}, self.batch_size)

    def begin(seed: int, step: int) -> list[Future]:
      rows = order(seed, step)["row"]
      epochs = (step * self.batch_size + np.arange(self.batch_size)) // len(which)
      # What a crop is depends on seed, epoch and image alone, never on the thread that makes it.
      draws = [np.random.default_rng((seed, epoch, row)) for epoch, row in zip(epochs, rows, strict=True)]
      boxes = [functools.partial(self.crop.box, rng) for rng in draws]
      return [pool.submit(_read, images, row, box, self.size) for row, box in zip(rows, boxes, strict=True)]

    begun = _begun_ahead(begin, self.ahead)

    def batch(seed: int, step: int) -> Batch:
      read = begun(seed, step)
      if not read["mask"].any():
        raise UserError(f"{self.source}: none of the {self.batch_size} images of batch {step} can be decoded")
      return read

    return batch

  def _in_order(self, pool: ThreadPoolExecutor, images: Sequence, which: np.ndarray) -> Iterator[Batch]:
    """Evaluation batches, the last one padded."""

    def begin(_: int, number: int) -> list[Future]:
      rows = which[number * self.batch_size : (number + 1) * self.batch_size]
      return [pool.submit(_read, images, row, middle, self.size) for row in rows]

    begun = _begun_ahead(begin, self.ahead)
    for number in range(-(-len(which) // self.batch_size)):
      yield from in_order(begun(0, number), self.batch_size)


def open_images(name: str, size: int) -> Stored:
  """Opens a source of labelled images by name.

  Args:
    name: "tfds:NAME", of which nothing is read yet; or what `load_images` knows, which is loaded.
    size: for `load_images`.

  Raises:
    UserError: unknown name, or what the source itself reports.
  """
  kind, _, place = name.partition(":")
  if kind == "tfds" and place:
    return _open_tfds(place)
  found = load_images(name, size)
  splits = {split: _InMemory(part["image"], part["label"]) for split, part in found.splits.items()}
  digest = digest_of(array for part in splits.values() for array in (part.images, part.labels))
  return Stored(splits, found.classes, found.description, found.licence, found.citation, digest)


def _open_tfds(name: str) -> Stored:
  builder, sources = open_tfds(name, decode=False)
  info = builder.info
  _allow_open_files(_OTHER_FILES + sum(len(part.shard_lengths) for part in info.splits.values()))
  facts = [info.full_name, *((str(name), x.num_bytes, x.shard_lengths) for name, x in info.splits.items())]
  return Stored(
    splits={split: _Records(source, str(builder.data_dir)) for split, source in sources.items()},
    **catalogue_entry(info),
    digest=_digest(repr(facts)),
  )


def _allow_open_files(count: int) -> None:
  """Raises the limit of this process: each shard is kept open, ImageNet has 1,088, and 1,024 are often allowed.

  Raises:
    UserError: the limit cannot be raised that far.
  """
  try:
    import resource
  except ImportError:  # Windows, which has no such limit
    return
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if soft == resource.RLIM_INFINITY or soft >= count:
    return
  if hard != resource.RLIM_INFINITY and hard < count:
    raise UserError(f"this data set needs {count} open files, and {hard} are allowed; see `ulimit -Hn`")
  resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@dataclasses.dataclass(frozen=True)
class _InMemory(Sequence):
  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"image": self.images[index], "label": self.labels[index]}


@dataclasses.dataclass(frozen=True)
class _Records(Sequence):
  source: Any
  folder: str

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    try:
      return self.source[index]
    except (RuntimeError, ValueError, OSError) as error:  # array_record raises RuntimeError
      reason = " ".join(str(error).split())[:200]
      raise UserError(f"{self.folder} cannot be read ({reason}); prepare it again if it is damaged") from error


def _begun_ahead(begin: Callable[[int, int], list[Future]], ahead: int) -> Callable[[int, int], Batch]:
  """(seed, step) -> the batch whose images `begin` hands to threads; those of the next steps are begun too."""
  begun: dict[tuple[int, int], list[Future]] = {}

  def batch(seed: int, step: int) -> Batch:
    nonlocal begun
    window = [(seed, step + i) for i in range(ahead + 1)]
    begun = {key: begun.get(key) or begin(*key) for key in window}
    rows = [future.result() for future in begun.pop((seed, step))]
    images, labels, mask = zip(*rows, strict=True)
    return {
      "image": np.stack(images),
      "label": np.array(labels, np.int32),
      "mask": np.array(mask, np.float32),
    }

  return batch


def _read(
  images: Sequence, index: int, box: Callable[[int, int, int], Box], size: int
) -> tuple[np.ndarray, int, float]:
  """(uint8 [S, S, 3], label, 1), or a black image and 0 for one that cannot be decoded."""
  example = images[int(index)]
  try:
    return cut(example["image"], box, size), example["label"], 1.0
  except BadImage as error:
    _masked(f"number {index} with label {example['label']}: {error}")
    return np.zeros((size, size, 3), np.uint8), example["label"], 0.0


@functools.cache  # once, not once an epoch
def _masked(reason: str) -> None:
  logging.warning("left out an image: %s", reason)


def cut(image: bytes | np.ndarray, box: Callable[[int, int, int], Box], size: int) -> np.ndarray:
  """A box of an image, scaled (bilinear with antialiasing) to uint8 [S, S, 3]."""
  pixels = read_image(image) if isinstance(image, bytes) else image
  height, width = pixels.shape[:2]
  picture = Image.fromarray(np.broadcast_to(pixels, (height, width, 3)))  # grey becomes colour
  resized = picture.resize((size, size), Image.Resampling.BILINEAR, box=box(width, height, size))
  return np.asarray(resized)


def middle(width: int, height: int, size: int) -> Box:
  """The centred square that is evaluated."""
  side = EVALUATED * min(width, height)
  return _box((width - side) / 2, (height - side) / 2, side, side)


def _digest(facts: str, *arrays: np.ndarray) -> str:
  return digest_of([np.frombuffer(facts.encode(), np.uint8), *arrays])


def _box(left: float, top: float, across: float, down: float) -> Box:
  return left, top, left + across, top + down
