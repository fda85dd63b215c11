"""What the codes of images share: `dlcourse.bits_back` without loss, `dlcourse.symbol_code` with (H5.4.1)."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.data.recipe import Batch
from dlcourse.errors import UserError
from dlcourse.task import TrainState

Watch = Callable[[Sequence[int]], Iterable[int]]  # what the turns of a long loop pass through


class Encoded(NamedTuple):
  """Coded images.

  Attributes:
    words: uint32 [W].
    numbers: what is to be known besides, to read them.
    rates: what there is to say of them.
  """

  words: np.ndarray
  numbers: dict[str, int]
  rates: dict[str, float]


class ImageCode(NamedTuple):
  """A way to code images.

  Attributes:
    kind: 4 bytes, its name in a file.
    shape: (H, W, C) of an image.
    seen: uint8 [N, H, W, C] -> the same, as far as a code without loss keeps them.
    encode: (uint8 [N, H, W, C], as `seen` gives them, Watch) -> Encoded.
    decode: (words, numbers, N, Watch) -> uint8 [N, H, W, C]; raises a `UserError` where they do not fit.
  """

  kind: bytes
  shape: tuple[int, int, int]
  seen: Callable[[np.ndarray], np.ndarray]
  encode: Callable[[np.ndarray, Watch], Encoded]
  decode: Callable[[np.ndarray, dict[str, int], int, Watch], np.ndarray]


OTHER_BITS = (
  "the networks do not compute the same here as where the images were compressed, so that these cannot be had; "
  "decompress on the same kind of machine, with the same XLA_FLAGS"
)


def on_one_device(state: TrainState) -> TrainState:
  """What a network computes with, on the first device."""
  return jax.device_put(jax.device_get(state.replace(opt_state={}, carry={})), jax.devices()[0])


def as_batch(images: np.ndarray) -> Batch:
  """Images [N, H, W, C] as a task takes them."""
  return {"image": images, "mask": jnp.ones(len(images))}


def finite(x: jax.Array) -> np.ndarray:
  """The numbers of a network.

  Raises:
    UserError: there is NaN or infinity among them.
  """
  x = np.asarray(x)
  if not np.isfinite(x).all():
    raise UserError("the model gives NaN or infinity: training has diverged, or the checkpoint is damaged")
  return x
