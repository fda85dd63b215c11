"""What is drawn by hand, as a picture like those of the training.

Shapes: N images of S x S pixels; h x w pixels of the sketch.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from dlcourse.errors import UserError

_CONTRAST = 64  # of 255, from which on a pixel is a stroke
_SHARE = 0.67  # of the side: a digit of MNIST fills 20 of 28 pixels, or of 32 with the frame of LeNet-5


class Ink(NamedTuple):
  """How strokes become a picture.

  Attributes:
    light: they are light on a dark ground, else dark on a light one.
    share: of the picture's side, which their longer side fills.
    why: in words.
  """

  light: bool
  share: float
  why: str


UNKNOWN = Ink(
  True, _SHARE, "The training images are not at hand; those of MNIST are light strokes on a dark ground."
)


def ink_of(images: np.ndarray) -> Ink:
  """How the strokes of training images look.

  Their ground is what most of their edges are; their strokes are what differs from it.

  Args:
    images: uint8 [N, S, S, 1].
  """
  edges = np.concatenate([images[:, [0, -1]].ravel(), images[:, :, [0, -1]].ravel()])
  ground = float(np.median(edges))
  light = ground < 128
  strokes = np.abs(images[..., 0].astype(np.int16) - ground) > _CONTRAST
  sides = [max(np.ptp(np.argwhere(image), axis=0)) + 1 for image in strokes if image.any()]
  share = float(np.median(sides)) / images.shape[1] if sides else _SHARE
  kind = "dark, so strokes are light" if light else "light, so strokes are dark"
  return Ink(light, share, f"The edges of the training images are {kind} (median {ground:.0f} of 255).")


def picture_of(sketch: np.ndarray, side: int, light: bool, share: float) -> np.ndarray:
  """Strokes cut out, centred and shrunk to the size that they have in the training images.

  Args:
    sketch: uint8 [h, w, 3], dark strokes on white.
    side: S.
    light: see `Ink`.
    share: see `Ink`.

  Returns:
    uint8 [S, S, 1].

  Raises:
    UserError: nothing is drawn.
  """
  ink = 255 - sketch.min(axis=-1)
  places = np.argwhere(ink > _CONTRAST)
  if not len(places):
    raise UserError("nothing is drawn yet; draw with the mouse or a finger, then press Predict")
  (top, left), (bottom, right) = places.min(axis=0), places.max(axis=0) + 1
  height, width = bottom - top, right - left
  scale = max(1, round(share * side)) / max(height, width)
  size = (max(1, round(width * scale)), max(1, round(height * scale)))
  small = np.asarray(Image.fromarray(ink[top:bottom, left:right]).resize(size, Image.Resampling.BOX))
  picture = np.zeros((side, side), np.uint8)
  y, x = (side - size[1]) // 2, (side - size[0]) // 2
  picture[y : y + size[1], x : x + size[0]] = small
  return (picture if light else 255 - picture)[..., None]
