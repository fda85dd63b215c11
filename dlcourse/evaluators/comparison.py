"""What generative models of every kind can be compared by, beside `ImageQuality` (H4.2.2, H5.3.3, H5.4).

Shapes: N images.
"""

import dataclasses
import time

import jax
import numpy as np

from dlcourse.data.batches import unbatched
from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.anomaly import Search, search
from dlcourse.evaluators.image_quality import draw_images, some_images
from dlcourse.evaluators.latents import coded, decoder, with_latents
from dlcourse.evaluators.samples import Request, draw
from dlcourse.report.figures import image_grid

PAIRS = 8  # of the figure, in a row


@dataclasses.dataclass(frozen=True)
class Sharpness(Evaluator):
  """How sharp samples are beside test images (H5.3.3), by the variance of the Laplacian.

  Pech-Pacheco et al. (2000), ICPR, LAP_VAR of Pertuz et al. (2013): the fewer edges, or the softer, the less.
  """

  samples: int = 1_000
  """How many images are drawn."""

  def __post_init__(self) -> None:
    """Refuses an empty sample."""
    check_at_least(1, {"evaluators….samples": self.samples})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalar sharpness, of samples over that of as many test images: 1 where they are as sharp, 0 of grey.

    Raises:
      UserError: the task makes no images.
    """
    made = draw_images(task, state, data.spec, self.samples, key)
    return Report({"sharpness": edges(made) / edges(some_images(data, "test", self.samples))})


def edges(images: np.ndarray) -> float:
  """The variance of the Laplacian of each image and channel, averaged; [N, H, W, C], without the border."""
  from scipy.ndimage import laplace  # 0.1 s

  changes = laplace(images.astype(np.float64) / 255, axes=(1, 2))[:, 1:-1, 1:-1]
  return float(changes.var(axis=(1, 2)).mean())


@dataclasses.dataclass(frozen=True)
class EncodingError(Search):
  """How near a model comes to images it has not seen: through its encoder, or by a search of its latents.

  A GAN has no encoder; its latents are searched as in AnoGAN, see `nearest_latents`.
  """

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalar encoding_error, the root of the mean square over all pixels, where white is 1; a figure of pairs.

    Raises:
      UserError: the task's images do not come from latents, or only from latents and a class.
    """
    latents, name = with_latents(task, "EncodingError", "images"), "EncodingError"
    images = unbatched(data.eval_batches("test"), ("image",))["image"][: self.images] / np.float32(255)
    if latents.encode is not None:
      found = coded(task, state, data, "test", name, self.images)
      made = decoder(task, state, data, name)(found.codes, found.labels)
    elif latents.features is not None:
      scaled = data.spec.scale(images)
      made = data.spec.unscale(search(latents, state, scaled, key, self.starts, self.steps)[0])
    else:
      raise UserError("EncodingError searches the latents of a GAN that is told no class")
    made = np.clip(made, 0, 1)
    shown = np.concatenate([images[:PAIRS], made[:PAIRS]])
    return Report(
      {"encoding_error": float(np.sqrt(np.square(made - images).mean()))},
      figures={"encoded": image_grid(shown, columns=len(shown) // 2)},
    )


@dataclasses.dataclass(frozen=True)
class SamplingTime(Evaluator):
  """How long samples take, which is what a sequential model pays with (H4.2.2)."""

  samples: int = 100
  """Images that are drawn at once."""

  def __post_init__(self) -> None:
    """Refuses an empty sample."""
    check_at_least(1, {"evaluators….samples": self.samples})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalar seconds_per_100, of the second of two draws: the first compiles.

    Raises:
      UserError: the task makes nothing.
    """
    request = Request(self.samples)
    draw(task, state, data.spec, request, key)
    start = time.perf_counter()
    draw(task, state, data.spec, request, jax.random.fold_in(key, 1))
    return Report({"seconds_per_100": (time.perf_counter() - start) * 100 / self.samples})
