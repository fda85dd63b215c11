"""The 1,000 classes of ImageNet by name, and photographs as networks trained on them expect them."""

import json

import numpy as np
from PIL import Image

from dlcourse.data.archives import fetch


def class_names() -> tuple[str, ...]:
  """The classes of the ILSVRC 2012 by index: "tench, Tinca tinca" …, each with all its synonyms.

  Raises:
    UserError: the names cannot be fetched.
  """
  (path,) = fetch("imagenet_classes").iterdir()
  names = json.loads(path.read_text(encoding="utf-8"))
  return tuple(names[str(index)] for index in range(1000))


def centre_crop(image: Image.Image, side: int = 224) -> Image.Image:
  """The middle of a photograph, as EfficientNets are evaluated (Tan & Le, 2019, the authors' code).

  Args:
    image: of any size and mode; grey becomes colour.
    side: S of the result. Cut out is a square of S / (S + 32) of the shorter side; it is scaled bicubically.
  """
  image = image.convert("RGB")
  size = min(image.size) * side / (side + 32)
  left, top = ((full - size) / 2 for full in image.size)
  box = (left, top, left + size, top + size)
  return image.resize((side, side), Image.Resampling.BICUBIC, box=box)


def lite_input(image: Image.Image) -> np.ndarray:
  """The pixels of an image as numbers [H, W, 3] around 0, as EfficientNet-Lite takes them: (x - 127) / 128."""
  return (np.asarray(image.convert("RGB"), np.float32) - 127) / 128
