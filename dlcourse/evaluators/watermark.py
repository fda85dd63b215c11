"""Whether a mark in generated images can be read again, also after JPEG (H4.10.3)."""

import dataclasses
import io

import jax
import numpy as np
from PIL import Image

from dlcourse.data.recipe import Data
from dlcourse.errors import check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.image_quality import draw_images, some_images
from dlcourse.theory.image_similarity import psnr
from dlcourse.watermark import PAYLOAD, embed, read

QUALITY = 75  # of JPEG


@dataclasses.dataclass(frozen=True)
class Watermarked(Evaluator):
  """Generated images with the mark of `sample --watermark`, read as they are and after JPEG, quality 75."""

  samples: int = 500
  """How many images are drawn."""

  def __post_init__(self) -> None:
    """Refuses to measure nothing."""
    check_at_least(1, {"evaluators….samples": self.samples})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Four scalars.

    watermark_bits and watermark_bits_jpeg75: shares of the bits that are read right; watermark_bits_unmarked:
    the share of bits that agree with the mark in as many test images, which have none, 0.5 by chance;
    watermark_psnr: of marked images against those that were drawn, in dB, mean over the images.

    Raises:
      UserError: the task makes no images, or they are too small for the mark.
    """
    made, real = draw_images(task, state, data.spec, self.samples, key), some_images(data, "test", self.samples)
    marked = embed(made, PAYLOAD)
    shares = {"": marked, "_jpeg75": jpeg(marked, QUALITY), "_unmarked": real}
    scalars = {f"watermark_bits{name}": _agreement(images) for name, images in shares.items()}
    return Report(scalars=scalars | {"watermark_psnr": float(psnr(marked, made, 255).mean())})


def jpeg(images: np.ndarray, quality: int) -> np.ndarray:
  """What is left of images, grey or RGB, uint8 [N, H, W, C], in JPEG files of this quality."""
  kept = []
  for image in images:
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "JPEG", quality=quality)
    kept.append(np.asarray(Image.open(file)).reshape(image.shape))
  return np.stack(kept)


def _agreement(images: np.ndarray) -> float:
  return float((read(images, len(PAYLOAD)) == PAYLOAD).mean())
