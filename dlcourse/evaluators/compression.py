"""What a VAE's lossless code makes of images it has not seen, and what common formats do (H5.4.1)."""

import bz2
import dataclasses
import gzip
import io
import math

import jax
import numpy as np
from PIL import Image

from dlcourse.bits_back import encode, networks_of
from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data
from dlcourse.errors import check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import task_of
from dlcourse.evaluators.image_quality import some_images
from dlcourse.report.figures import grid_columns

DRAWS = 4  # of the latents of each image, for the ELBO
CHUNK = 100  # images of which the ELBO is taken at once


@dataclasses.dataclass(frozen=True)
class Compression(Evaluator):
  """Bits/dim of test images by bits back (see `dlcourse.bits_back`), by the ELBO, and by PNG, gzip and bzip2.

  Every score is called bits_per_dim/CODE@N; a dimension is one channel of a pixel.
  """

  images: int = 1_000
  """How many test images are coded."""

  def __post_init__(self) -> None:
    """Refuses to measure nothing."""
    check_at_least(1, {"evaluators….images": self.images})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars and a table, all of the same images.

    codec: what the code has grown by; codec_initial: what the first image needs besides, one portion however
    many images there are; elbo: the negative ELBO; png_single: a PNG of each image; png_mosaic: one of all of
    them beside one another; gzip, bz2: of the pixels as one string, where they are black and white of 8 to the
    byte or of 1, whichever is shorter.

    Raises:
      UserError: the task has no lossless code.
    """
    task = task_of(task)
    networks = networks_of(task, state, data.spec)
    images = networks.seen(some_images(data, "test", self.images))
    coded = encode(networks, images)
    bits = {
      "codec": coded.net_bits,
      "codec_initial": coded.initial_bits,
      "elbo": _elbo(task, state, images, key),
      **common_formats(images, networks.levels),
    }
    rates = {name: count / images.size for name, count in bits.items()}
    rows = [{"code": name, "bits/dim": rates[name], "bytes": round(bits[name] / 8)} for name in bits]
    scalars = {f"bits_per_dim/{name}@{len(images)}": rate for name, rate in rates.items()}
    return Report(scalars, {"compression": rows})


def common_formats(images: np.ndarray, levels: int) -> dict[str, int]:
  """Bits of images in common formats; see `Compression`.

  Args:
    images: uint8 [N, H, W, C], grey or RGB.
    levels: 2 where pixels are 0 or 255.
  """
  strings = [images.tobytes()] + ([np.packbits(images > 0).tobytes()] if levels == 2 else [])
  sizes = {
    "png_single": sum(png_bytes(image, levels) for image in images),
    "png_mosaic": png_bytes(mosaic(images), levels),
    "gzip": min(len(gzip.compress(string, 9)) for string in strings),
    "bz2": min(len(bz2.compress(string, 9)) for string in strings),
  }
  return {name: 8 * size for name, size in sizes.items()}


def mosaic(images: np.ndarray) -> np.ndarray:
  """Images [N, H, W, C] as one [rows * H, columns * W, C], about square; places without an image are 0."""
  columns = grid_columns(len(images))
  images = np.pad(images, ((0, -len(images) % columns), (0, 0), (0, 0), (0, 0)))
  count, height, width, channels = images.shape
  grid = images.reshape(count // columns, columns, height, width, channels)
  return grid.swapaxes(1, 2).reshape(count // columns * height, columns * width, channels)


def png_bytes(image: np.ndarray, levels: int) -> int:
  """Of one image [H, W, C] as a PNG; levels: 2 where pixels are 0 or 255."""
  picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
  if levels == 2 and image.shape[-1] == 1:
    picture = picture.convert("1")
  file = io.BytesIO()
  picture.save(file, "PNG", optimize=True)
  return len(file.getvalue())


def _elbo(task, state, images: np.ndarray, key: jax.Array) -> float:
  """Bits of the images by the negative ELBO, of a few draws of the latents."""
  log_weight, total = jax.jit(task.latents.log_weight), 0.0
  for index, batch in enumerate(in_order({"image": images}, min(CHUNK, len(images)))):
    for draw in range(DRAWS):
      at = jax.random.fold_in(key, index * DRAWS + draw)
      total -= float((log_weight(state, at, batch) * batch["mask"]).sum())
  return total / (DRAWS * math.log(2))
