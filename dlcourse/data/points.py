"""Points in the plane from mixtures of Gaussians with known modes: toys on which a collapse shows."""

import dataclasses
from typing import Literal

import numpy as np

from dlcourse.data.procedural import EVALUATION, made
from dlcourse.data.recipe import Data, DataRecipe, Spec
from dlcourse.errors import check_at_least

Shape = Literal["ring", "grid"]
# Deviation of a mode, in units in which every centre lies within 1 of the middle.
_DEVIATION: dict[Shape, float] = {"ring": 0.01, "grid": 0.0125}


def centres(shape: Shape) -> np.ndarray:
  """The modes [M, 2]: 8 on the unit circle, or 5 x 5 on a grid from -1 to 1."""
  if shape == "ring":
    angles = np.arange(8) * np.pi / 4
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
  line = np.linspace(-1, 1, 5)
  return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)


@dataclasses.dataclass(frozen=True)
class Gaussians(DataRecipe):
  """Points of a mixture of Gaussians, all modes alike (Metz et al., 2017, arXiv:1611.02163; H4.5.1).

  The ring is that of the paper, radius 2 and deviation 0.02, and the grid that of Srivastava et al. (2017,
  arXiv:1705.07761), 25 modes from -4 to 4 with deviation 0.05, each in units of its largest coordinate.
  """

  shape: Shape = "ring"
  """ring: 8 modes on a circle; grid: 25 on a square."""
  batch_size: int = 512
  """Points in a global batch, over all devices."""
  points: int = 2_500
  """Points of each split in evaluation."""
  split_seed: int = 0
  """Seed of the points of evaluation."""

  def __post_init__(self) -> None:
    """Refuses batches without points."""
    check_at_least(1, {"data.batch_size": self.batch_size, "data.points": self.points})
    check_at_least(0, {"data.split_seed": self.split_seed})

  def build(self) -> Data:
    """Draws the points; see `Data`. A batch has point [B, 2], label [B], the mode, and mask [B]."""
    modes, deviation = centres(self.shape), _DEVIATION[self.shape]

    def drawn(count, rng):
      label = rng.integers(len(modes), size=count).astype(np.int32)
      point = modes[label] + deviation * rng.normal(size=(count, 2))
      return {"point": point.astype(np.float32), "label": label}

    splits = {
      name: drawn(self.points, np.random.default_rng((self.split_seed, number, EVALUATION)))
      for number, name in enumerate(("train", "validation", "test"))
    }
    names = tuple(f"({x:.2f}, {y:.2f})" for x, y in modes)
    return made(
      splits, drawn, self.batch_size, Spec({}, names), f"{len(modes)} Gaussians on a {self.shape}, by rule"
    )
