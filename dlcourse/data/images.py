"""Labelled images as batches: splits, size, scale and augmentation."""

import dataclasses
from typing import Literal

import numpy as np
from PIL import Image

from dlcourse.data.augment import Augmentation
from dlcourse.data.batches import as_shapes, shuffled, splits_in_order
from dlcourse.data.image_sources import load_once
from dlcourse.data.recipe import Data, DataRecipe, Spec, digest_of
from dlcourse.data.scaling import Scale, preparation, scaling
from dlcourse.data.source import ImageSet
from dlcourse.data.splits import held_out, in_random_order, ranks, rows
from dlcourse.errors import UserError, check_at_least, check_between, unknown

Arrays = dict[str, np.ndarray]

LARGEST_BATCH = 1 << 16  # images
LARGEST_SIDE = 1 << 12  # pixels


@dataclasses.dataclass(frozen=True)
class Images(DataRecipe):
  """Images [B, size, size, C] with labels.

  Where a source has no published test split, one of `folds` stratified folds is the test split; where it
  has no validation split, a stratified share of the training images is.
  """

  source: str
  """mnist_5k, digits, idx:FOLDER, npz:FILE, folder:FOLDER, csv:FILE (of files and labels), tfds:NAME."""
  batch_size: int = 128
  """Images in a global batch, over all devices."""
  size: int = 32
  """Side of the images, in pixels: larger ones are resized."""
  fit: Literal["pad", "resize"] = "pad"
  """What becomes of smaller images: padded with 0, or enlarged (bilinear)."""
  scale: Scale = "unit"
  """Pixels in [0, 1], in [-1, 1], or with mean 0 and deviation 1 in each channel over the training split
  (standard) or over ImageNet (imagenet); efficientnet_lite: (pixel - 127) / 128."""
  augment: tuple[Augmentation, ...] = ()
  """Random changes of the training images, in their order."""
  folds: int = 5
  """Stratified folds, where the source has no test split."""
  fold: int = 0
  """Which fold is the test split."""
  validation: float = 0.1
  """Share of the training images that validates, where the source has no validation split."""
  per_class: int | None = None
  """Images of each class that are kept for training, a validation split taken from them included; None: all."""
  left_out: str | None = None
  """A class that only the test split has, so that its images are anomalies (H4.9.5); None: no class."""
  starved: str | None = None
  """A class of which few images are at hand, and the same share to validate on (H4.9.4); None: no class."""
  starved_images: int = 10
  """How many images of the starved class are left for training."""
  split_seed: int = 0
  """Seed of folds, of the validation split and of what is left of each class."""

  def __post_init__(self) -> None:
    """Refuses numbers that fit no source."""
    check_between(1, LARGEST_BATCH, {"data.batch_size": self.batch_size})
    check_between(1, LARGEST_SIDE, {"data.size": self.size})
    check_at_least(2, {"data.folds": self.folds})
    check_at_least(0, {"data.fold": self.fold, "data.split_seed": self.split_seed})
    check_at_least(1, {"data.starved_images": self.starved_images})
    if self.per_class is not None:
      check_at_least(1, {"data.per_class": self.per_class})
    if not 0 < self.validation < 1:
      raise UserError(f"--data.validation={self.validation} is a share between 0 and 1, like 0.1")

  def build(self) -> Data:
    """Loads, splits, resizes; see `Data`.

    Raises:
      UserError: the source does not exist or cannot be had, or the fields do not fit it.
    """
    if self.fold >= self.folds:
      raise UserError(f"--data.fold={self.fold} is outside 0 … {self.folds - 1} (--data.folds)")
    source = load_once(self.source, self.size)
    chosen = self._starve(source, self._known(source, self._split(source)))
    splits = {name: self._fit(part) for name, part in chosen.items()}
    scale = scaling(self.scale, splits["train"]["image"])
    batch = shuffled(splits["train"], self.batch_size)
    shapes = as_shapes(batch(0, 0))
    prepare = preparation(scale.scale, self.augment, shapes)

    return Data(
      spec=Spec(shapes, source.classes, prepare=prepare, augments=bool(self.augment), scaling=scale),
      batch=batch,
      eval_batches=splits_in_order(splits, self.batch_size),
      sizes={name: len(part["label"]) for name, part in splits.items()},
      digest=digest_of(part[name] for part in splits.values() for name in ("image", "label")),
      description=f"{source.description}. Licence: {source.licence}. Citation: {source.citation}",
    )

  def _split(self, source: ImageSet) -> dict[str, Arrays]:
    """The three splits of a source, stratified by class where they are made here."""
    splits = dict(source.splits)
    if "test" not in splits:
      whole = in_random_order(splits.pop("all" if "all" in splits else "train"), self.split_seed)
      test = ranks(whole["label"]) % self.folds == self.fold
      splits |= {"train": rows(whole, ~test), "test": rows(whole, test)}
    if self.per_class is not None:
      for name in {"train", "validation"} & set(splits):
        part = in_random_order(splits[name], self.split_seed + 2)
        splits[name] = rows(part, ranks(part["label"]) < self.per_class)
    if "validation" not in splits:
      train = in_random_order(splits["train"], self.split_seed + 1)
      chosen = held_out(train["label"], self.validation)
      splits |= {"train": rows(train, ~chosen), "validation": rows(train, chosen)}
    empty = [name for name, part in splits.items() if not len(part["label"])]
    if empty:
      raise UserError(
        f"{self.source}: too few images, the split {empty[0]!r} would be empty; add images, or change "
        "--data.validation or --data.folds"
      )
    return splits

  def _known(self, source: ImageSet, splits: dict[str, Arrays]) -> dict[str, Arrays]:
    """The splits, of which only the test split keeps the class that is left out."""
    if self.left_out is None:
      return splits
    if self.left_out not in source.classes:
      raise unknown("class of --data.left_out", self.left_out, source.classes)
    number = source.classes.index(self.left_out)
    known = {name: rows(part, part["label"] != number) for name, part in splits.items() if name != "test"}
    if not all(len(part["label"]) for part in known.values()):
      raise UserError(f"--data.left_out={self.left_out} leaves nothing to train or validate on")
    return splits | known

  def _starve(self, source: ImageSet, splits: dict[str, Arrays]) -> dict[str, Arrays]:
    """The splits, with what is left of the starved class in those for training and validation."""
    if self.starved is None:
      return splits
    if self.starved not in source.classes:
      raise unknown("class of --data.starved", self.starved, source.classes)
    number = source.classes.index(self.starved)
    there = {name: int(np.sum(splits[name]["label"] == number)) for name in ("train", "validation")}
    if there["train"] < self.starved_images:
      raise UserError(
        f"--data.starved_images={self.starved_images} cannot be left of the {there['train']} images of class "
        f"{self.starved!r} to train on"
      )
    share, fewer = self.starved_images / there["train"], {}
    for name, count in there.items():
      part = in_random_order(splits[name], self.split_seed + 3)
      left = max(1, round(share * count))
      fewer[name] = rows(part, (part["label"] != number) | (ranks(part["label"]) < left))
    return splits | fewer

  def _fit(self, part: Arrays) -> Arrays:
    """Pads or resizes to `size`."""
    images = part["image"]
    height, width = images.shape[1:3]
    if (height, width) == (self.size, self.size):
      return part
    if max(height, width) > self.size or self.fit == "resize":
      images = np.stack([_resize(image, self.size) for image in images])
    else:
      images = padded(images, self.size)
    return {**part, "image": images}


def padded(images: np.ndarray, side: int) -> np.ndarray:
  """[N, H, W, C] in the middle of [N, side, side, C], with 0 around them."""
  height, width = images.shape[1:3]
  top, left = (side - height) // 2, (side - width) // 2
  return np.pad(images, ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0)))


def _resize(image: np.ndarray, side: int) -> np.ndarray:
  """Bilinear with antialiasing, [H, W, C] uint8 -> [side, side, C]."""
  channels = [
    Image.fromarray(image[..., c]).resize((side, side), Image.Resampling.BILINEAR)
    for c in range(image.shape[-1])
  ]
  return np.stack([np.asarray(channel) for channel in channels], axis=-1)
