"""What a data recipe builds: the description that flows into a task, and batches by (seed, step)."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dlcourse.data.tokens import Tokenizer
from dlcourse.data.wordpiece import Subwords
from dlcourse.errors import UserError

Batch = Mapping[str, jax.Array | np.ndarray]


def _without_augmentation(key: jax.Array | None, batch: Batch) -> Batch:
  del key
  return batch


class Scaling(NamedTuple):
  """How images get from [0, 1] to model space and back: x -> (x - shift) / width.

  Attributes:
    shift: float32 [] or [C].
    width: float32 [] or [C].
  """

  shift: np.ndarray
  width: np.ndarray

  def scale(self, x: jax.Array) -> jax.Array:
    """[..., C] in [0, 1] -> model space."""
    return (x - self.shift) / self.width

  def unscale(self, x: jax.Array) -> jax.Array:
    """The inverse of `scale`."""
    return x * self.width + self.shift


@dataclasses.dataclass(frozen=True)
class Spec:
  """What a task and a model need to know of the data.

  Attributes:
    batch: shapes and types of one global training batch; every array has the batch as leading axis.
    classes: the names of the classes, in the order of the labels.
    vocabulary: the symbols behind the token numbers.
    prepare: (key, batch) -> batch, pure and jitted with the step: scaling, and augmentation where a key is
      given (None at evaluation).
    augments: whether training examples are changed at random, by `prepare` with a key or before.
    scaling: of images, as `prepare` does it, or of the numbers to forecast; None where the data is neither.
    tokenizer: that made numbers of the text, and will of a user's own line; None where there is none.
    channels: what the numbers of a sample are, in their order, where the data says so.
    paired: whether the "source" of a training image, where there is one, is its own.
  """

  batch: Mapping[str, jax.ShapeDtypeStruct]
  classes: tuple[str, ...] = ()
  vocabulary: tuple[str, ...] = ()
  prepare: Callable[[jax.Array | None, Batch], Batch] = _without_augmentation
  augments: bool = False
  scaling: Scaling | None = None
  tokenizer: Tokenizer | Subwords | None = None
  channels: tuple[str, ...] = ()
  paired: bool = True

  def scale(self, x: jax.Array) -> jax.Array:
    """Images in [0, 1], or targets in their unit -> model space."""
    return x if self.scaling is None else self.scaling.scale(x)

  def unscale(self, x: jax.Array) -> jax.Array:
    """The inverse of `scale`."""
    return x if self.scaling is None else self.scaling.unscale(x)

  def reaches_from(self, black: float) -> bool:
    """Whether pixels in model space are numbers from `black` to 1."""
    return np.allclose(self.unscale(np.array([[black], [1.0]])), [[0.0], [1.0]])

  def check_unit(self, whose: str) -> None:
    """Refuses images whose pixels are not in [0, 1] in model space.

    Args:
      whose: pixels, for the message, such as "an autoencoder's".
    """
    if not self.reaches_from(0.0):
      raise UserError(f"{whose} pixels are numbers in [0, 1]; set --data.scale=unit")

  def encode(self, text: str, what: str) -> np.ndarray:
    """Token numbers [T] of a user's text.

    Args:
      text: of any length.
      what: what to call it in a message.

    Raises:
      UserError: a symbol that the training text does not have, where symbols are the tokens.
    """
    if self.tokenizer is not None and self.tokenizer.kind != "chars":
      return self.tokenizer.encode(text)
    numbers = {symbol: number for number, symbol in enumerate(self.vocabulary)}
    strange = sorted(set(text) - set(numbers))
    if strange:
      raise UserError(f"{what} has {strange[0]!r}, which is not in the training text")
    return np.array([numbers[symbol] for symbol in text], np.int32)

  def decode(self, tokens: Iterable[int]) -> str:
    """The text of token numbers."""
    if self.tokenizer is not None:
      return self.tokenizer.decode(tokens)
    return "".join(self.vocabulary[token] for token in tokens)

  @property
  def num_classes(self) -> int | None:
    """How many classes there are; None where the data has none."""
    return len(self.classes) or None

  @property
  def vocab_size(self) -> int | None:
    """How many symbols there are; None where the data is not text."""
    return len(self.vocabulary) or None

  @property
  def image_shape(self) -> tuple[int, int, int] | None:
    """(height, width, channels); None where the data is not images."""
    return tuple(self.batch["image"].shape[1:]) if "image" in self.batch else None


class Data(NamedTuple):
  """A data set cut into batches.

  Attributes:
    spec: see `Spec`.
    batch: (seed, step) -> the training batch of that step, NumPy. A pure function, so that a run that was
      interrupted needs no iterator state.
    eval_batches: split -> batches of the same size, the last one padded; `mask` [B] or [B, T] is 1 where
      an example or a token counts.
    sizes: split -> number of examples (documents' tokens for text).
    digest: of all arrays of all splits, so that a run does not go on with other data; see `digest_of`.
    description: one paragraph for reports, with licence and citation.
  """

  spec: Spec
  batch: Callable[[int, int], dict[str, np.ndarray]]
  eval_batches: Callable[[str], Iterator[dict[str, np.ndarray]]]
  sizes: Mapping[str, int]
  digest: str
  description: str


def digest_of(arrays: Iterable[np.ndarray]) -> str:
  """16 hexadecimal digits that change with any number, or the order, of the arrays."""
  hashed = hashlib.sha256()
  for array in arrays:
    hashed.update(str((array.dtype, array.shape)).encode())
    hashed.update(np.ascontiguousarray(array).data)
  return hashed.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class DataRecipe:
  """A choice of data; subclasses add their fields and say how to build."""

  def build(self) -> Data:
    """Loads the source and cuts it into splits and batches."""
    raise NotImplementedError

  def first(self) -> Mapping[str, tuple[str, list[str]]]:
    """Folder of the workdir -> experiment that is trained there first and makes data, and its overrides."""
    return {}

  def within(self, path: Path) -> "DataRecipe":
    """The recipe of a run in this workdir, where what comes first has been trained."""
    del path
    return self
