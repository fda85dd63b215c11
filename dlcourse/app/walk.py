"""Through the latents of a generative model by hand (H5.3.2, H5.3.3).

Shapes: Z latents, S steps, K latents that are moved, images [H, W, C].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from dlcourse.evaluators.latents import REACH, coded, decoder, linear, spherical, with_latents
from dlcourse.report.figures import tile
from dlcourse.trained import Trained

_MOVED = 6  # K, at most
_EXAMPLES = 500  # test images that are encoded
STEPS = 9
_SIDE = 48  # pixels of an image in a row, at least


class Walk(NamedTuple):
  """Where one can go.

  Attributes:
    ends: draws of latents, count and seed -> [count, Z]: codes of test images, or of a GAN from N(0, I).
    what: what an end is, in words.
    moved: the K latents that are moved.
    which: they are, in words.
    low: [K], where they begin to be unlikely.
    high: [K].
    images: codes [N, Z], labels [N] -> [N, H, W, C] in [0, 1].
  """

  ends: Callable[[int, int], np.ndarray]
  what: str
  moved: np.ndarray
  which: str
  low: np.ndarray
  high: np.ndarray
  images: Callable[[np.ndarray, np.ndarray], np.ndarray]


def can_walk(trained: Trained) -> bool:
  """Whether pictures come from latents alone."""
  latents, spec = trained.program.task.latents, trained.data.spec
  pictures = spec.image_shape is not None and spec.image_shape[-1] in (1, 3)
  return latents is not None and latents.images is not None and pictures and "source" not in spec.batch


def walk_of(trained: Trained) -> Walk:
  """The latents of a model that `can_walk`."""
  task, state, data = trained.program, trained.state, trained.data
  latents = with_latents(task, "the app", "images")
  images = decoder(task, state, data, "the app", "images")
  if latents.encode is None:
    moved = np.arange(min(_MOVED, latents.dim))

    def normal(count: int, seed: int) -> np.ndarray:
      return np.asarray(jax.random.normal(jax.random.key(seed), (count, latents.dim)))

    reach = np.full(len(moved), REACH)
    return Walk(normal, "draw from N(0, I)", moved, "The first latents", -reach, reach, images)
  codes = coded(task, state, data, "test", "the app", _EXAMPLES).codes
  mean, deviation = codes.mean(axis=0), codes.std(axis=0)
  moved = np.argsort(-deviation, kind="stable")[:_MOVED]

  def encoded(count: int, seed: int) -> np.ndarray:
    return codes[np.random.default_rng(seed).choice(len(codes), count, replace=len(codes) < count)]

  low, high = mean - REACH * deviation, mean + REACH * deviation
  return Walk(
    encoded, "code of a test image", moved, "The latents that vary most", low[moved], high[moved], images
  )


def moved_to(walk: Walk, seed: int, label: int, values: np.ndarray) -> np.ndarray:
  """A draw with other values [K] of the latents that are moved, as uint8 [h, w, C], enlarged."""
  code = walk.ends(1, seed).copy()
  code[0, walk.moved] = values
  return _row(walk.images(code, np.full(1, label, np.int32)), 8)


def between(walk: Walk, seed: int, label: int) -> tuple[np.ndarray, np.ndarray]:
  """From one draw to another along a line and along a circle, each as a row of S images, uint8."""
  first, second = walk.ends(2, seed)[:, None]
  shares, labels = np.linspace(0, 1, STEPS), np.full(STEPS, label, np.int32)
  line, circle = (_row(walk.images(path(first, second, shares)[0], labels), 2) for path in (linear, spherical))
  return line, circle


def _row(images: np.ndarray, times: int) -> np.ndarray:
  """Beside each other, `times` as large as `_SIDE` at least."""
  picture = tile(images, len(images))
  factor = -(-times * _SIDE // images.shape[1])
  large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
  return np.broadcast_to(large, (*large.shape[:2], 3))
