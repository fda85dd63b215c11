"""Small shapes of which everything is known: a data set to see on whether latents are factors (H5.3.3).

Shapes: N images, S their side, K factors.
"""

import dataclasses

import numpy as np

from dlcourse.data.batches import Arrays, as_shapes, shuffled, splits_in_order
from dlcourse.data.recipe import Data, DataRecipe, Spec, digest_of
from dlcourse.data.scaling import preparation, scaling
from dlcourse.data.splits import stratified
from dlcourse.errors import check_at_least

SHAPES = ("square", "ellipse", "heart")
FACTORS = {"shape": 3, "scale": 6, "orientation": 12, "x": 8, "y": 8}  # and how many values each has
_FINE = 4  # points of each pixel along an axis, of which the mean is taken
_SMALLEST, _LARGEST = 0.1, 0.2  # of S: radius of a shape


@dataclasses.dataclass(frozen=True)
class Sprites(DataRecipe):
  """White shapes on black in every combination of five factors, in the manner of dSprites.

  Matthey et al. (2017), github.com/google-deepmind/dsprites-dataset, has more values of each; these are drawn
  anew, with smooth borders. 13,824 images, uint8 [B, S, S, 1], with their "factors" int32 [B, 5], the numbers
  of the values in `FACTORS`, and the shape as label.
  """

  batch_size: int = 128
  """Images in a global batch, over all devices."""
  size: int = 32
  """S, side of the images in pixels."""
  validation: float = 0.1
  """Share of the images that validates."""
  test: float = 0.2
  """Share of the images that tests."""
  split_seed: int = 0
  """Seed of the splits."""

  def __post_init__(self) -> None:
    """Refuses batches and images without content."""
    check_at_least(1, {"data.batch_size": self.batch_size})
    check_at_least(16, {"data.size": self.size})

  def build(self) -> Data:
    """Draws the images and splits them, stratified by shape; see `Data`."""
    splits = stratified(drawn(self.size), self.validation, self.test, self.split_seed)
    batch, scale = shuffled(splits["train"], self.batch_size), scaling("unit")
    shapes = as_shapes(batch(0, 0))

    return Data(
      spec=Spec(shapes, SHAPES, prepare=preparation(scale.scale, (), shapes), scaling=scale),
      batch=batch,
      eval_batches=splits_in_order(splits, self.batch_size),
      sizes={name: len(part["label"]) for name, part in splits.items()},
      digest=digest_of(part[name] for part in splits.values() for name in ("image", "factors")),
      description=f"shapes in every combination of {', '.join(FACTORS)}, made by rule",
    )


def drawn(side: int) -> Arrays:
  """Every combination once: image uint8 [N, S, S, 1], factors int32 [N, 5], label int32 [N]."""
  counts = tuple(FACTORS.values())
  factors = np.indices(counts).reshape(len(counts), -1).T.astype(np.int32)  # x and y change fastest
  step = side * (1 - 2 * _LARGEST) / counts[3] / 1.1  # so that turned squares stay inside, too
  places = np.rint((np.arange(counts[3]) - (counts[3] - 1) / 2) * step).astype(int)
  canvas = side + 2 * places.max()
  images = []
  for shape, scale, turn in np.ndindex(counts[:3]):
    radius = side * (_SMALLEST + (_LARGEST - _SMALLEST) * scale / (counts[1] - 1))
    picture = _picture(SHAPES[shape], radius, 2 * np.pi * turn / counts[2], canvas)
    starts = places.max() - places  # of the window, so that the shape goes right and down
    images += [picture[y : y + side, x : x + side] for x in starts for y in starts]
  return {"image": np.stack(images)[..., None], "factors": factors, "label": factors[:, 0]}


def _picture(shape: str, radius: float, angle: float, side: int) -> np.ndarray:
  """uint8 [side, side]: a shape in the middle, turned counter-clockwise."""
  line = (np.arange(side * _FINE) + 0.5) / _FINE - side / 2
  x, y = line[None, :] / radius, -line[:, None] / radius
  u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
  if shape == "square":
    inside = np.maximum(abs(u), abs(v)) <= np.sqrt(0.5) * 1.1
  elif shape == "ellipse":
    inside = u**2 + (2 * v) ** 2 <= 1.2
  else:
    inside = ((1.15 * u) ** 2 + (1.15 * v) ** 2 - 1) ** 3 <= (1.15 * u) ** 2 * (1.15 * v) ** 3
  shares = inside.reshape(side, _FINE, side, _FINE).mean(axis=(1, 3))
  return np.rint(255 * shares).astype(np.uint8)
