"""Images and what they are to be made from: pairs for image-to-image translation (H4.9.1 to H4.9.3, H5.4.4).

Shapes: N images, S their side, C their channels.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import correlate1d

from dlcourse.data.batches import as_shapes, shuffled, splits_in_order, unbatched
from dlcourse.data.images import Images
from dlcourse.data.recipe import Batch, Data, DataRecipe, digest_of
from dlcourse.data.scaling import LUMA, Scaling
from dlcourse.errors import UserError, check_at_least, check_between

Kind = Literal["downscaled", "grey", "edges", "cluttered", "undersampled"]
TIMES = 4  # by how much a downscaled side is shorter
PATCHES = 16  # of other digits, on one cluttered image
_LOWEST = 0.32  # of the columns that are kept: fastMRI's 8 % of 25 % (arXiv:1811.08839)
_EDGE = 0.25  # of the slope between black and white
_NOISE = 64  # grey levels of a background, at most
_INK = 128  # the least grey level that is of the digit
_ROWS = 4_096  # images of which floating-point copies are in memory at once
_CLUTTER, _HALVES = 3, 4  # keep these draws apart from those of the splits
_OF_SOURCES = 2**32  # added to a seed of 32 bits it gives sources an order that images have under no seed


@dataclasses.dataclass(frozen=True)
class ImagePairs(DataRecipe):
  """Images [B, size, size, C] with labels, each with a "source" that is derived from it (Isola et al., 2017).

  Splits, sizes and padding are those of `Images`; both arrays are uint8.
  """

  source: str
  """mnist_5k, digits, idx:FOLDER, npz:FILE, folder:FOLDER, tfds:NAME."""
  kind: Kind = "downscaled"
  """The source is the image at a quarter of its side (downscaled: super-resolution), its luma (grey:
  colourisation), its outlines (edges), what a scanner sees that measures a part of its Fourier coefficients
  (undersampled: reconstruction); or (cluttered: segmentation) the image, a digit, among patches of other digits
  and noise, and what is to be made is the mask of the digit."""
  batch_size: int = 128
  """Pairs in a global batch, over all devices."""
  size: int = 32
  """Side of the images, in pixels: larger ones are resized."""
  fit: Literal["pad", "resize"] = "pad"
  """What becomes of smaller images: padded with 0, or enlarged (bilinear)."""
  folds: int = 5
  """Stratified folds, where the source has no test split."""
  fold: int = 0
  """Which fold is the test split."""
  validation: float = 0.1
  """Share of the training images that validates, where the source has no validation split."""
  split_seed: int = 0
  """Seed of folds, of the validation split, of the clutter and of the halves."""
  unpaired: bool = False
  """Train on the sources of one half of the training images and on the images of the other, each in an order
  of its own, so that no pair is ever seen (Zhu et al., 2017); validation and test have pairs."""
  scale: Literal["symmetric", "unit"] = "symmetric"
  """Pixels of both in [-1, 1], as GANs make them, or in [0, 1], as autoencoders do."""
  kept: float = 0.25
  """Share of the Fourier coefficients that is measured, of undersampled sources."""

  def __post_init__(self) -> None:
    """Refuses numbers that fit no source."""
    self._images()
    check_at_least(TIMES, {"data.size": self.size})
    check_between(0, 1, {"data.kept": self.kept})
    if self.kind == "downscaled" and self.size % TIMES:
      near = self.size // TIMES * TIMES
      raise UserError(f"--data.size={self.size} cannot be divided by {TIMES}; --data.size={near} can")

  def build(self) -> Data:
    """Loads, splits, resizes, derives; see `Data`.

    A batch has image [B, S, S, C], source [B, S, S, 1] or, downscaled, [B, S / 4, S / 4, C], label (that of
    the image), mask [B]. Unpaired, the split "train" has half of the images, and as many sources of others.

    Raises:
      UserError: as `Images.build`, or the images have not the channels that this kind needs.
    """
    images = self._images().build()
    splits = {}
    for number, name in enumerate(images.sizes):
      rng = np.random.default_rng((self.split_seed, number, _CLUTTER))
      splits[name] = self._paired(unbatched(images.eval_batches(name), ("image", "label")), rng)
    if self.unpaired:
      splits["train"] = self._parted(splits["train"])
    batch = self._batches(splits["train"])

    return Data(
      spec=dataclasses.replace(
        images.spec,
        batch=as_shapes(batch(0, 0)),
        prepare=both_scaled(images.spec.scaling),
        paired=not self.unpaired,
      ),
      batch=batch,
      eval_batches=splits_in_order(splits, self.batch_size),
      sizes={name: len(part["image"]) for name, part in splits.items()},
      digest=digest_of(part[name] for part in splits.values() for name in ("image", "source", "label")),
      description=f"{self.kind} pairs{', parted for training,' * self.unpaired} of {images.description}",
    )

  def _images(self) -> Images:
    return Images(
      self.source,
      batch_size=self.batch_size,
      size=self.size,
      fit=self.fit,
      scale=self.scale,
      folds=self.folds,
      fold=self.fold,
      validation=self.validation,
      split_seed=self.split_seed,
    )

  def _parted(self, part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Images of one half, sources of the other; of an odd number one image is left out."""
    count = len(part["image"])
    if count < 2:
      raise UserError(f"--data.unpaired needs two training images or more, not {count}")
    order = np.random.default_rng((self.split_seed, _HALVES)).permutation(count)
    ours, others = order[: count // 2], order[count // 2 : count // 2 * 2]
    return {"image": part["image"][ours], "label": part["label"][ours], "source": part["source"][others]}

  def _batches(self, train: dict[str, np.ndarray]) -> Callable[[int, int], dict[str, np.ndarray]]:
    """(seed, step) -> a training batch."""
    batch = shuffled(train, self.batch_size)
    if not self.unpaired:
      return batch
    sources = shuffled({"source": train["source"]}, self.batch_size)
    return lambda seed, step: batch(seed, step) | {"source": sources(seed + _OF_SOURCES, step)["source"]}

  def _paired(self, part: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    image, channels = part["image"], part["image"].shape[-1]
    needed = {"grey": 3, "cluttered": 1}.get(self.kind, channels)
    if channels != needed:
      raise UserError(
        f"--data.kind={self.kind} needs images of {needed} channel(s); those of {self.source} have {channels}"
      )
    if self.kind == "cluttered":
      mask = np.where(image >= _INK, 255, 0).astype(np.uint8)
      return {**part, "image": mask, "source": cluttered(image, rng)}
    if self.kind == "undersampled":
      return {**part, "source": undersampled(image, self.kept, rng)}
    derive = {"downscaled": downscaled, "grey": luma, "edges": edges}[self.kind]
    parts = [derive(image[start : start + _ROWS]) for start in range(0, len(image), _ROWS)]
    return {**part, "source": np.concatenate(parts)}


def downscaled(images: np.ndarray) -> np.ndarray:
  """Means of squares of 4 x 4 pixels: uint8 [N, S, S, C] -> uint8 [N, S / 4, S / 4, C]."""
  count, side, _, channels = images.shape
  blocks = images.reshape(count, side // TIMES, TIMES, side // TIMES, TIMES, channels)
  return _levels(blocks.mean(axis=(2, 4)))


def luma(images: np.ndarray) -> np.ndarray:
  """Brightness, 0.299 R + 0.587 G + 0.114 B: uint8 [N, S, S, 1 or 3] -> uint8 [N, S, S, 1]."""
  if images.shape[-1] == 1:
    return images
  red, green, blue = (np.float32(weight) * images[..., i : i + 1] for i, weight in enumerate(LUMA))
  return _levels(red + green + blue)


def edges(images: np.ndarray) -> np.ndarray:
  """White where the brightness changes (Sobel & Feldman, 1968), by a quarter of black to white or more.

  Args:
    images: uint8 [N, S, S, 1 or 3].

  Returns:
    0 or 255, uint8 [N, S, S, 1].
  """
  bright = luma(images) / np.float32(255)

  def slope(along, across):
    change = correlate1d(bright, [-1, 0, 1], along, mode="nearest")
    return correlate1d(change, [1, 2, 1], across, mode="nearest")

  steepness = np.hypot(slope(1, 2), slope(2, 1)) / 4  # 1 of a straight edge between black and white
  return np.where(steepness >= _EDGE, 255, 0).astype(np.uint8)


def cluttered(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Digits before patches of other digits (as in Mnih et al., 2014, section 4.1) and noise.

  Brightness alone cannot tell a digit from its background: strokes of both are white.

  Args:
    images: uint8 [N, S, S, 1].
    rng: of patches and noise.

  Returns:
    uint8 [N, S, S, 1], the brighter of background and digit at each pixel.
  """
  count, side = images.shape[:2]
  patch = side // TIMES
  scene = rng.integers(_NOISE, size=images.shape, dtype=np.uint8)
  rows, reach = np.arange(count)[:, None, None], np.arange(patch)
  for _ in range(PATCHES):
    others = (np.arange(count) + rng.integers(1, max(count, 2), count)) % count
    origins, places = rng.integers(side - patch + 1, size=(2, 2, count, 1, 1))
    taken = images[others[:, None, None], origins[0] + reach[:, None], origins[1] + reach]  # [N, P, P, 1]
    here = (rows, places[0] + reach[:, None], places[1] + reach)
    scene[here] = np.maximum(scene[here], taken)
  return np.maximum(scene, images)


def undersampled(images: np.ndarray, kept: float, rng: np.random.Generator) -> np.ndarray:
  """What is left of images of whose Fourier coefficients some columns are measured, and the others are 0.

  Of those that are measured 32 % are of the lowest frequencies, and the others at random, other ones for each
  image, as in the acquisition that fastMRI imitates (Zbontar et al., 2018, arXiv:1811.08839).

  Args:
    images: uint8 [N, S, S, C].
    kept: share of the columns, at least one.
    rng: of the columns.

  Returns:
    The inverse transform's real part, cut off at black and at white, uint8 [N, S, S, C].
  """
  count, side = images.shape[:2]
  columns = max(1, round(kept * side))
  lowest = max(1, round(_LOWEST * columns))
  nearest = np.argsort(np.abs(np.fft.fftfreq(side)), kind="stable")[:lowest]
  order = rng.random((count, side))
  order[:, nearest] = -1.0  # before all others
  chosen = order.argsort(axis=1).argsort(axis=1) < columns  # [N, S]
  parts = []
  for start in range(0, count, _ROWS):
    rows = slice(start, start + _ROWS)
    coefficients = np.fft.fft2(images[rows].astype(np.float32), axes=(1, 2))
    coefficients *= chosen[rows, None, :, None]
    parts.append(_levels(np.fft.ifft2(coefficients, axes=(1, 2)).real.clip(0, 255)))
  return np.concatenate(parts)


def _levels(x: np.ndarray) -> np.ndarray:
  return np.rint(x).astype(np.uint8)


def both_scaled(scaling: Scaling) -> Callable:
  """`Spec.prepare` of pairs: image and source from uint8 to model space, without augmentation."""

  def prepare(key: jax.Array | None, batch: Batch) -> Batch:
    del key
    scaled = {name: scaling.scale(batch[name].astype(jnp.float32) / 255.0) for name in ("image", "source")}
    return {**batch, **scaled}

  return prepare
