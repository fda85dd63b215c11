"""A person's image and what a classifier says of it.

Shapes: S side of the network's images, C their channels.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from dlcourse.app.tried import Tried
from dlcourse.classifier import Classifier
from dlcourse.data.image_files import BadImage
from dlcourse.data.single_images import read_single
from dlcourse.errors import UserError

SHOWN_SIDE = 320  # pixels at least: 28 of them would be a stamp, or a blur


class Upload(NamedTuple):
  """A file of a person.

  Attributes:
    path: where it is now.
    name: what the person calls it; of a folder's file with the folders that it is in.
  """

  path: str
  name: str


class Look(NamedTuple):
  """What a classifier says of an image.

  Attributes:
    pixels: uint8 [S, S, C], as the network sees it.
    shares: float32 [classes], the probabilities.
    heat: float32 [S, S] in [0, 1], where what speaks for the likeliest class lies; None where the network has
      no feature maps.
  """

  pixels: np.ndarray
  shares: np.ndarray
  heat: np.ndarray | None


def read(classifier: Classifier, upload: Upload) -> np.ndarray:
  """The pixels [S, S, C] of a file, read as `dlcourse predict` reads it.

  Raises:
    BadImage: it cannot be read as an image; the message calls it what the person does.
  """
  try:
    return read_single(upload.path, classifier.image_shape, classifier.fit)
  except BadImage as error:
    raise BadImage(str(error).replace(upload.path, upload.name)) from error


def shares_of(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
  """The probabilities [classes] of an image [S, S, C].

  Raises:
    UserError: they are no numbers.
  """
  shares = classifier.probabilities(pixels[None])[0]
  if not np.isfinite(shares).all():
    raise UserError("the model predicts NaN: its training has diverged; train again with a lower learning rate")
  return shares


def look(classifier: Classifier, pixels: np.ndarray) -> Look:
  """What a classifier says of an image [S, S, C], and why.

  Raises:
    UserError: see `shares_of`.
  """
  shares = shares_of(classifier, pixels)
  heat = classifier.evidence and classifier.evidence(pixels[None], shares.argmax(keepdims=True))[0]
  return Look(pixels, shares, heat)


def entry(classifier: Classifier, name: str, shares: np.ndarray) -> Tried:
  """What is noted of an image."""
  best = int(shares.argmax())
  return Tried(name, classifier.classes[best], float(shares[best]))


def tried_of(classifier: Classifier, upload: Upload) -> Tried:
  """Asks about a file of many; the folder that it is in is its correct class, where that is a class.

  A file that cannot be read is noted with the reason.
  """
  try:
    found = entry(classifier, upload.name, shares_of(classifier, read(classifier, upload)))
  except BadImage as error:
    return Tried(upload.name, problem=str(error).removeprefix(f"{upload.name}: "))
  return found._replace(truth=_class_of(upload.name, classifier.classes))


def _class_of(name: str, classes: Sequence[str]) -> str | None:
  folder = PurePosixPath(name).parent.name
  return folder if folder in classes else None


def enlarged(pixels: np.ndarray) -> np.ndarray:
  """[S, S, C] -> [T, T, 3], every pixel a square, so that it can be seen."""
  times = -(-SHOWN_SIDE // len(pixels))
  large = pixels.repeat(times, axis=0).repeat(times, axis=1)
  return np.broadcast_to(large, (*large.shape[:2], 3))


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
  """The enlarged image with the heat over it, which is transparent where it is cold.

  Args:
    pixels: uint8 [S, S, C].
    heat: [S, S] in [0, 1].

  Returns:
    uint8 [T, T, 3].
  """
  picture = enlarged(pixels)
  smooth = Image.fromarray(np.float32(heat)).resize(picture.shape[1::-1], Image.Resampling.BILINEAR)
  warm = np.asarray(smooth).clip(0, 1)
  colour = matplotlib.colormaps["plasma"](warm)[..., :3] * 255
  weight = 0.75 * warm[..., None]
  return np.round((1 - weight) * picture + weight * colour).astype(np.uint8)
