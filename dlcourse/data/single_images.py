"""A single image file as a trained network takes it: the way that its training images went.

Shapes: H x W pixels, S side of the network's images, C channels.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from dlcourse.data.image_files import image_size, read_image
from dlcourse.data.image_sources import load_once
from dlcourse.data.images import Images, padded
from dlcourse.data.recipe import DataRecipe
from dlcourse.data.streamed import StreamedImages, cut, middle

Fit = Literal["pad", "resize", "middle"]

_OF_ANY_SIZE = ("folder:", "csv:", "tfds:")  # sources whose images may differ in size, and are then all resized


def fit_of(recipe: DataRecipe) -> Fit:
  """How images of another size became those of the data.

  Returns:
    pad: smaller ones with 0, of larger ones the centred square resized; resize: of all the centred square;
    middle: of all the part of it that `StreamedImages` evaluates.

  Raises:
    UserError: the source of the data cannot be had (any more), and has to be asked for its size.
  """
  if isinstance(recipe, StreamedImages):
    return "middle"
  if not isinstance(recipe, Images) or recipe.fit == "resize":
    return "resize"
  if not recipe.source.startswith(_OF_ANY_SIZE):
    return "pad"
  images = next(iter(load_once(recipe.source, recipe.size).splits.values()))["image"]
  return "pad" if max(images.shape[1:3]) < recipe.size else "resize"


def read_single(path: Path | str, shape: tuple[int, int, int], fit: Fit) -> np.ndarray:
  """Decodes an image file, in the size and the channels that a network takes.

  Args:
    path: of an image that `read_image` knows.
    shape: (S, S, C); C is 3, or 1: luma (ITU-R BT.601).
    fit: see `fit_of`.

  Returns:
    uint8 [S, S, C].

  Raises:
    BadImage: see `read_image`.
  """
  side, _, channels = shape
  if fit == "middle":
    pixels = cut(read_image(path), middle, side)
  elif fit == "resize" or max(image_size(path)) > side:
    pixels = read_image(path, side)
  else:
    pixels = padded(read_image(path)[None], side)[0]
  return pixels if channels == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
