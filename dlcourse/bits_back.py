"""Lossless coding of images by a VAE: bits back with asymmetric numeral systems (H5.4.1).

Townsend et al. (2019), arXiv:1901.04866. The code is a stack of bits, and an image is put onto it in three
steps: its latents are taken from the stack by the posterior, as if they had been encoded there; its pixels are
encoded by the likelihood of those latents; the latents are encoded by the prior. The reader undoes the steps
from the last to the first, and what had chosen the latents is back on the stack. In the mean an image costs its
negative ELBO.

Whoever reads has to compute the very bits of floating point that the writer did: networks see one image at a
time, in compiled functions of one shape.
Shapes: N images of D = H W C pixels with K levels, Z latents, W words.
"""

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from constriction import stream

from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.image_code import OTHER_BITS, Encoded, ImageCode, Watch, as_batch, finite, on_one_device
from dlcourse.task import Task, TrainState

KIND = b"dlbb"
STEPS = 32  # of the grid of latents in a standard deviation of the prior
REACH = 8  # standard deviations of the prior, to both sides
# Deviations of a posterior, to both sides of its mean. The coder gives every symbol some probability: over the
# whole grid that would add up to a latent now and then that has nothing to do with the image.
TAILS = 7
PRECISION = 24  # bits of a probability: no symbol costs more
_SMALLEST = 1e-6  # deviation of a posterior, in steps; at 0 it would be none

_END = REACH * STEPS
PRIOR = stream.model.QuantizedGaussian(-_END, _END, 0.0, float(STEPS))
PIXELS = stream.model.Categorical(perfect=False)
STIRRED = stream.model.Uniform(256)


class Networks(NamedTuple):
  """A VAE as a coder asks it.

  Attributes:
    shape: (H, W, C) of an image.
    levels: K.
    latents: Z.
    seen: uint8 [N, H, W, C] -> the same as the task sees them, black and white where it makes them so.
    posterior: uint8 [H, W, C] -> (mean [Z], standard deviation [Z]), float64.
    masses: z [Z] -> the probability of each level of each pixel, float32 [D, K].
  """

  shape: tuple[int, int, int]
  levels: int
  latents: int
  seen: Callable[[np.ndarray], np.ndarray]
  posterior: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
  masses: Callable[[np.ndarray], np.ndarray]


class Coded(NamedTuple):
  """Images as a stack of bits.

  Attributes:
    words: uint32 [W], the stack without the initial bits that lie untouched under it.
    untouched: how many words of those there are.
    net_bits: by how much the stack has grown.
  """

  words: np.ndarray
  untouched: int
  net_bits: int

  @property
  def initial_bits(self) -> int:
    """What the words have more: what the first image took from the stack before it gave any, in whole words."""
    return 32 * len(self.words) - self.net_bits


def networks_of(task: Task, state: TrainState, spec: Spec) -> Networks:
  """The networks that code images, on the first device.

  Args:
    task: whose `latents.coding` is used.
    state: its parameters.
    spec: of its data.

  Raises:
    UserError: it has none: pixels are no levels by its likelihood, or latents are not one independent group.
  """
  coding = task.latents and task.latents.coding
  if not coding:
    raise UserError(
      "only a VAE with one group of independent latents, no classes, and pixels that are levels compresses "
      "images: --task.likelihood=logistic, or bernoulli with --task.binarise, like vae.logistic and vae.conv"
    )
  state = on_one_device(state)
  posterior = jax.jit(lambda state, image: coding.posterior(state, as_batch(image[None])))
  masses = jax.jit(lambda state, z: coding.masses(state, z[None]).reshape(-1, coding.levels))

  def seen(images):
    return (np.asarray(coding.symbols(as_batch(images))) * (255 // (coding.levels - 1))).astype(np.uint8)

  def posterior_of(image):
    mean, deviation = (finite(x)[0].astype(np.float64) for x in posterior(state, image))
    return mean, deviation

  def masses_of(z):
    return finite(masses(state, z.astype(np.float32)))

  return Networks(spec.image_shape, coding.levels, task.latents.dim, seen, posterior_of, masses_of)


def image_code(networks: Networks) -> ImageCode:
  """Images as they are, or black and white where the task makes them so."""

  def encode_images(images: np.ndarray, watch: Watch) -> Encoded:
    coded = encode(networks, images, watch)
    rates = {"net_bits_per_dim": coded.net_bits / images.size, "initial_bits": coded.initial_bits}
    return Encoded(coded.words, {"untouched": coded.untouched}, rates)

  def decode_images(words: np.ndarray, numbers: dict[str, int], count: int, watch: Watch) -> np.ndarray:
    untouched = numbers["untouched"]
    if untouched > most_initial_words(count, networks.latents):
      raise UserError(f"the file says that {untouched:,} words were left over, which are too many")
    return decode(networks, words, untouched, count, watch)

  return ImageCode(KIND, networks.shape, networks.seen, encode_images, decode_images)


def encode(networks: Networks, images: np.ndarray, watch: Watch = iter) -> Coded:
  """Codes images one after the other onto one stack.

  The initial bits are a constant, so that what of them is left untouched need not be stored.

  Args:
    networks: of the VAE.
    images: uint8 [N, H, W, C], as `networks.seen` gives them.
    watch: what the turns pass through.

  Raises:
    UserError: the networks give what is not finite.
  """
  initial = initial_words(most_initial_words(len(images), networks.latents))
  stack = stream.stack.AnsCoder(initial)
  start = stack.num_valid_bits()
  for index in watch(range(len(images))):
    image = images[index]
    _stir(stack, index, networks.latents)
    codes = np.array([stack.decode(model) for model in posteriors(*networks.posterior(image))], np.int32)
    stack.encode_reverse(_symbols(networks, image), PIXELS, networks.masses(codes / STEPS))
    stack.encode_reverse(codes, PRIOR)
  words = stack.get_compressed()
  shared = min(len(words), len(initial))
  differ = np.flatnonzero(words[:shared] != initial[:shared])
  untouched = int(differ[0]) if len(differ) else shared
  return Coded(words[untouched:], untouched, stack.num_valid_bits() - start)


def decode(
  networks: Networks, words: np.ndarray, untouched: int, count: int, watch: Watch = iter
) -> np.ndarray:
  """The images of a stack, the last one first.

  Args:
    networks: of the VAE that coded them.
    words: see `Coded`.
    untouched: likewise.
    count: N.
    watch: what the turns pass through.

  Returns:
    uint8 [N, H, W, C].

  Raises:
    UserError: the initial bits do not come back: the networks have computed something else than at coding.
  """
  images = np.zeros((count, *networks.shape), np.uint8)
  stack = stream.stack.AnsCoder(np.concatenate([initial_words(untouched), words]))
  try:
    for index in watch(range(count - 1, -1, -1)):
      images[index] = _popped(networks, stack)
      _stir(stack, index, networks.latents)
    left = stack.get_compressed()
    restored = np.array_equal(left, initial_words(len(left)))
  except KeyError:  # a latent that no posterior of this image would have given
    restored = False
  if not restored:
    raise UserError(OTHER_BITS)
  return images


def _popped(networks: Networks, stack: stream.stack.AnsCoder) -> np.ndarray:
  """The image on top of the stack."""
  codes = stack.decode(PRIOR, networks.latents)
  symbols = stack.decode(PIXELS, networks.masses(codes / STEPS))
  image = (symbols * (255 // (networks.levels - 1))).astype(np.uint8).reshape(networks.shape)
  models = posteriors(*networks.posterior(image))
  for code, model in reversed(list(zip(codes, models, strict=True))):
    stack.encode_reverse(code, model)
  return image


def _stir(stack: stream.stack.AnsCoder, index: int, latents: int) -> None:
  """Adds a constant of the image's own to the bits that its latents are drawn by; once more takes it away.

  On top lie the latents of the image before. Where posteriors are like the prior they would be drawn again, for
  each image the same ones (the "dirty" bits of Townsend et al., section 2.5).
  """
  constant = np.frombuffer(hashlib.shake_256(b"stir %d" % index).digest(latents), np.uint8)
  bits = stack.decode(STIRRED, latents)
  stack.encode_reverse(bits ^ constant.astype(np.int32), STIRRED)


def posteriors(mean: np.ndarray, deviation: np.ndarray) -> list[stream.model.QuantizedGaussian]:
  """What the steps of the latents are coded by, one by one.

  Args:
    mean, deviation: [Z], float64.
  """
  models = []
  for centre, width in zip(mean * STEPS, np.maximum(deviation * STEPS, _SMALLEST), strict=True):
    low = int(np.clip(np.floor(centre - TAILS * width), -_END, _END - 1))
    high = int(np.clip(np.ceil(centre + TAILS * width), low + 1, _END))
    models.append(stream.model.QuantizedGaussian(low, high, centre, width))
  return models


def most_initial_words(count: int, latents: int) -> int:
  """More words than the latents of `count` images could ever take from the stack."""
  return math.ceil(count * latents * PRECISION / 32) + latents + 2


def initial_words(count: int) -> np.ndarray:
  """The first words, uint32 [count], of a constant stream without structure; a longer one begins likewise."""
  return np.frombuffer(hashlib.shake_256(b"bits back").digest(4 * count), "<u4").astype(np.uint32)


def _symbols(networks: Networks, image: np.ndarray) -> np.ndarray:
  return (image.reshape(-1) // (255 // (networks.levels - 1))).astype(np.int32)
