"""Videos of digits that bounce off walls at random: pasts that have many futures (H5.4.2).

Shapes: N videos, T frames, S side of a frame.
"""

import dataclasses

import numpy as np

from dlcourse.data.batches import unbatched
from dlcourse.data.image_pairs import both_scaled
from dlcourse.data.images import Images
from dlcourse.data.procedural import made
from dlcourse.data.recipe import Data, DataRecipe, Spec
from dlcourse.data.scaling import scaling
from dlcourse.errors import UserError, check_at_least

DIGIT = 16  # pixels, side of a digit
SPEED = 3.0  # pixels a frame


@dataclasses.dataclass(frozen=True)
class MovingDigits(DataRecipe):
  """The frames that a moving digit was seen in, as "source" [B, S, S, past], and those to come, as image.

  It flies straight on, and from a wall in a random direction (stochastic Moving MNIST: Denton & Fergus, 2018,
  arXiv:1802.07687, section 5.1; here one digit, of one speed). Digits of training, validation and test are
  different ones; training videos are drawn anew for every (seed, step), those of evaluation once.
  """

  source: str = "mnist_5k"
  """Of the digits, as in `Images`."""
  batch_size: int = 32
  """Videos in a global batch, over all devices."""
  size: int = 32
  """S, side of a frame, in pixels."""
  past: int = 4
  """Frames that are seen."""
  future: int = 6
  """Frames that are to be foretold."""
  videos: int = 500
  """Videos of each split in evaluation."""
  folds: int = 5
  """Stratified folds of the digits, of which one is for the test, where the source has no test split."""
  split_seed: int = 0
  """Seed of the splits and of the videos of evaluation."""

  def __post_init__(self) -> None:
    """Refuses a room that leaves no way to go, one frame that has no direction, and no future."""
    check_at_least(2, {"data.past": self.past})
    check_at_least(
      1, {"data.future": self.future, "data.batch_size": self.batch_size, "data.videos": self.videos}
    )
    check_at_least(0, {"data.split_seed": self.split_seed})
    if self.size < DIGIT + 4:
      raise UserError(f"--data.size={self.size} leaves a digit of {DIGIT} pixels no room; 32 does")

  def build(self) -> Data:
    """Loads the digits and draws the videos; see `Data`. A batch has image, source and mask [B].

    Raises:
      UserError: as `Images.build`, or the images are not grey.
    """
    digits = Images(self.source, size=DIGIT, folds=self.folds, split_seed=self.split_seed).build()
    if digits.spec.image_shape[-1] != 1:
      raise UserError(f"digits are grey, and the images of {self.source} have colours")
    pictures = {
      name: unbatched(digits.eval_batches(name), ("image",))["image"][..., 0] for name in digits.sizes
    }

    def drawn(count: int, rng: np.random.Generator, split: str = "train") -> dict[str, np.ndarray]:
      chosen = pictures[split][rng.integers(len(pictures[split]), size=count)]
      frames = videos(chosen, paths(count, self.past + self.future, self.size - DIGIT, rng), self.size)
      return {"image": frames[..., self.past :], "source": frames[..., : self.past]}

    splits = {
      name: drawn(self.videos, np.random.default_rng((self.split_seed, number)), name)
      for number, name in enumerate(("train", "validation", "test"))
    }
    unit = scaling("unit")
    return made(
      splits,
      drawn,
      self.batch_size,
      Spec({}, prepare=both_scaled(unit), scaling=unit),
      f"{self.past} and {self.future} frames of moving digits of {digits.description}",
    )


def paths(count: int, frames: int, room: float, rng: np.random.Generator) -> np.ndarray:
  """Places of points that fly at `SPEED`, from a wall in a random direction away from it.

  Args:
    count: N.
    frames: T.
    room: places are from 0 to this, along both axes.
    rng: of first places and of all directions.

  Returns:
    [N, T, 2].
  """
  place, velocity = rng.uniform(0, room, (count, 2)), _directions(count, rng)
  places = []
  for _ in range(frames):
    places.append(place)
    place = place + velocity
    below, above = place < 0, place > room
    turned = _directions(count, rng)
    turned = np.where(below, abs(turned), np.where(above, -abs(turned), turned))
    velocity = np.where((below | above).any(axis=1, keepdims=True), turned, velocity)
    place = place.clip(0, room)
  return np.stack(places, axis=1)


def videos(digits: np.ndarray, places: np.ndarray, side: int) -> np.ndarray:
  """Digits at their places, on black.

  Args:
    digits: uint8 [N, d, d].
    places: of their upper left corners, rounded to pixels, [N, T, 2].
    side: S.

  Returns:
    uint8 [N, S, S, T].
  """
  count, frames = places.shape[:2]
  reach = np.arange(digits.shape[1])
  corners = np.rint(places).astype(int)[..., None, None]  # [N, T, 2, 1, 1]
  canvas = np.zeros((count, frames, side, side), np.uint8)
  video, frame = np.ogrid[:count, :frames]
  here = (video[..., None, None], frame[..., None, None])
  canvas[*here, corners[:, :, 0] + reach[:, None], corners[:, :, 1] + reach] = digits[:, None]
  return np.moveaxis(canvas, 1, -1)


def _directions(count: int, rng: np.random.Generator) -> np.ndarray:
  """[N, 2] of length `SPEED`."""
  angle = rng.uniform(0, 2 * np.pi, count)
  return SPEED * np.stack([np.cos(angle), np.sin(angle)], axis=1)
