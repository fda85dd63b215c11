"""Lossy coding of images: the symbols of a VQ-VAE, by what its prior says of them (H5.3.3, H5.4.1).

van den Oord et al. (2017), arXiv:1711.00937. An image becomes a grid of symbols, and a range coder writes each
by the probabilities that the prior gives it after those before it: a grid costs -log₂ p(symbols). A prior that
knows classes is told the one by which the grid is shortest, which is written first.

Whoever reads has to compute the very bits of floating point that the writer did: on both sides the prior reads
symbol after symbol, of as many images at once, in one compiled function.
Shapes: N images, T places of a grid, K symbols, C classes, R images that the prior sees at once, W words.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from constriction import stream

from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.image_code import OTHER_BITS, Encoded, ImageCode, Watch, as_batch, finite, on_one_device
from dlcourse.models.code_prior import CodeLanguageModel
from dlcourse.report.figures import eight_bit
from dlcourse.task import Task, TrainState
from dlcourse.theory.image_similarity import psnr

KIND = b"dlvq"
ROWS = 64  # R
SYMBOLS = stream.model.Categorical(perfect=False)


class Networks(NamedTuple):
  """A VQ-VAE and its prior as a coder asks them.

  Attributes:
    shape: (H, W, C) of an image.
    count: K.
    places: T.
    classes: C, that the prior is told; 1 where it is told none.
    read: uint8 [R, H, W, C] -> symbols [R, T].
    nats: symbols [R, T] -> -log p of each grid by each class, [C, R].
    begin: () -> what the prior knows before the first symbols.
    after: (that, symbols [R], classes [R]) -> that, and the probabilities of the next symbols, float32 [R, K];
      K is the symbol where a grid begins.
    images: symbols [R, T] -> uint8 [R, H, W, C].
  """

  shape: tuple[int, int, int]
  count: int
  places: int
  classes: int
  read: Callable[[np.ndarray], np.ndarray]
  nats: Callable[[np.ndarray], np.ndarray]
  begin: Callable[[], Any]
  after: Callable[[Any, np.ndarray, np.ndarray], tuple[Any, np.ndarray]]
  images: Callable[[np.ndarray], np.ndarray]


def networks_of(task: Task, state: TrainState, spec: Spec) -> Networks:
  """The networks that code images, on the first device.

  Args:
    task: whose `codes` have a prior.
    state: its parameters.
    spec: of its data.

  Raises:
    UserError: they have none.
  """
  network, codes = task.network, task.codes
  if not (codes and network and isinstance(network.model, CodeLanguageModel)):
    raise UserError(
      "symbols are coded by the prior of a VQ-VAE: train one like vae.vq_prior, with the VQ-VAE as --init_from"
    )
  model, state = network.model, on_one_device(state)
  side, classes = model.backbone.side, model.output.num_classes or 1

  def told(labels):
    return labels if task.conditional else None

  @jax.jit
  def read(state, images):
    return codes.read(state, as_batch(images)).reshape(ROWS, -1)

  @jax.jit
  def nats(state, symbols):
    def of_class(label):
      labels = told(jnp.full(ROWS, label))
      logits = model.apply(network.variables(state), symbols, labels, method="predicted")
      return -jnp.take_along_axis(jax.nn.log_softmax(logits), symbols[..., None], axis=-1).sum(axis=(1, 2))

    return jax.lax.map(of_class, jnp.arange(classes))

  @jax.jit
  def after(state, carry, symbols, labels):
    variables = network.variables(state)
    carry, logits = model.apply(variables, carry, symbols[:, None], told(labels), method="after")
    return carry, jax.nn.softmax(logits[:, 0])

  @jax.jit
  def images(state, symbols):
    return codes.images(state, symbols.reshape(ROWS, side, side))

  def masses_after(carry, symbols, labels):
    carry, masses = after(state, carry, symbols, labels)
    return carry, finite(masses)

  return Networks(
    spec.image_shape,
    codes.count,
    side**2,
    classes,
    lambda x: np.asarray(read(state, x)),
    lambda symbols: finite(nats(state, symbols)),
    lambda: model.output.initial_carry(ROWS, side**2),
    masses_after,
    lambda symbols: eight_bit(finite(images(state, symbols))),
  )


def image_code(networks: Networks) -> ImageCode:
  """Images as coded symbols; those that come back are what the VQ-VAE makes of them."""

  def encode_images(images: np.ndarray, watch: Watch) -> Encoded:
    symbols = _row_by_row(networks.read, images)
    labels = np.zeros(len(symbols), np.int32)
    if networks.classes > 1:
      labels = _row_by_row(lambda rows: networks.nats(rows).argmin(axis=0).astype(np.int32), symbols)
    words = encode(networks, symbols, labels, watch)
    made = _row_by_row(networks.images, symbols)
    pooled = (x.reshape(1, -1, *x.shape[2:]) / 255 for x in (made, images))
    rates = {"net_bits_per_dim": 32 * len(words) / images.size, "psnr": float(psnr(*pooled)[0])}
    return Encoded(words, {"checksum": checksum(symbols)}, rates)

  def decode_images(words: np.ndarray, numbers: dict[str, int], count: int, watch: Watch) -> np.ndarray:
    symbols = decode(networks, words, count, watch)
    if checksum(symbols) != numbers["checksum"]:
      raise UserError(OTHER_BITS)
    return _row_by_row(networks.images, symbols)

  return ImageCode(KIND, networks.shape, lambda images: images, encode_images, decode_images)


def encode(networks: Networks, symbols: np.ndarray, labels: np.ndarray, watch: Watch = iter) -> np.ndarray:
  """Codes grids of symbols, place by place of as many grids as the prior sees at once.

  Args:
    networks: of the prior.
    symbols: [N, T].
    labels: [N], which class the prior is told of each.
    watch: what the turns pass through.

  Returns:
    uint32 [W].

  Raises:
    UserError: the prior gives what is not finite.
  """
  coder = stream.queue.RangeEncoder()
  for start in watch(range(0, len(symbols), ROWS)):
    rows, classes = symbols[start : start + ROWS], labels[start : start + ROWS]
    if networks.classes > 1:
      coder.encode(classes, stream.model.Uniform(networks.classes))
    _follow(networks, classes, functools.partial(_written, coder, rows))
  return coder.get_compressed()


def decode(networks: Networks, words: np.ndarray, count: int, watch: Watch = iter) -> np.ndarray:
  """The symbols that were coded, if the networks are those that coded them, and anything else if not.

  Args:
    networks: of the prior.
    words: uint32 [W].
    count: N.
    watch: what the turns pass through.

  Returns:
    [N, T] int32.

  Raises:
    UserError: no symbols by these networks have such a code.
  """
  coder = stream.queue.RangeDecoder(words)
  found = np.zeros((count, networks.places), np.int32)
  try:
    for start in watch(range(0, count, ROWS)):
      rows = found[start : start + ROWS]
      classes = np.zeros(len(rows), np.int32)
      if networks.classes > 1:
        classes = coder.decode(stream.model.Uniform(networks.classes), len(rows))
      rows[:] = _follow(networks, classes, functools.partial(_read, coder))
  except AssertionError as error:  # what constriction raises of words that nothing is coded as
    raise UserError(OTHER_BITS) from error
  return found


def checksum(symbols: np.ndarray) -> int:
  """CRC-32 of symbols [N, T]."""
  return zlib.crc32(symbols.astype("<i4").tobytes())


def _written(coder: stream.queue.RangeEncoder, rows: np.ndarray, place: int, masses: np.ndarray) -> np.ndarray:
  coder.encode(rows[:, place], SYMBOLS, masses)
  return rows[:, place]


def _read(coder: stream.queue.RangeDecoder, place: int, masses: np.ndarray) -> np.ndarray:
  del place
  return coder.decode(SYMBOLS, masses)


def _follow(
  networks: Networks, labels: np.ndarray, symbols_at: Callable[[int, np.ndarray], np.ndarray]
) -> np.ndarray:
  """Grids [n, T] of n <= R images, of which (place, masses [n, K]) -> [n] has or finds out the symbols."""
  count, carry = len(labels), networks.begin()
  labels, last = _filled(labels), np.full(ROWS, networks.count, np.int32)
  places = []
  for place in range(networks.places):
    carry, masses = networks.after(carry, last, labels)
    places.append(symbols_at(place, masses[:count]))
    last = _filled(places[-1])
  return np.stack(places, axis=1)


def _row_by_row(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
  """A function of R rows, of any number of them."""
  parts = (x[start : start + ROWS] for start in range(0, len(x), ROWS))
  return np.concatenate([function(_filled(part))[: len(part)] for part in parts])


def _filled(rows: np.ndarray) -> np.ndarray:
  """With zeros, up to R rows."""
  return np.concatenate([rows, np.zeros((ROWS - len(rows), *rows.shape[1:]), rows.dtype)])
