"""Text as streams of symbols, or of parts of words, for language models."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from dlcourse.data.batches import Arrays, as_shapes, in_order
from dlcourse.data.recipe import Data, DataRecipe, Spec, digest_of
from dlcourse.data.text_sources import load_corpus
from dlcourse.data.tokens import SPECIAL, Tokenizer, train_tokenizer
from dlcourse.errors import UserError, check_at_least, unknown

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclasses.dataclass(frozen=True)
class Text(DataRecipe):
  """Symbols of a corpus, cut for truncated back-propagation through time.

  The last `held_out` of every document is kept from training: its first half validates, its second half
  tests. Training text is one long string, read by `batch_size` parallel streams that each advance by
  `seq_len` a step; evaluation cuts windows of `seq_len` that start without a past.
  """

  source: str
  """shakespeare, or file:PATH."""
  batch_size: int = 32
  """Parallel streams in a global batch, over all devices."""
  seq_len: int = 128
  """Symbols of a window, which is how far gradients reach back."""
  held_out: float = 0.1
  """Share of every document that is not trained on."""
  conditional: bool = False
  """Every symbol comes with the document that it is of: the titles are the classes."""
  tokens: Literal["chars", "bpe", "unigram"] = "chars"
  """What a symbol is: a character, or a part of a word, learnt from the training split (bpe, unigram)."""
  vocab_size: int = 4_000
  """Parts of words at most; characters are all known."""

  def __post_init__(self) -> None:
    """Refuses numbers that fit no text."""
    sizes = {name: getattr(self, name) for name in ("batch_size", "seq_len", "vocab_size")}
    check_at_least(1, {f"data.{name}": size for name, size in sizes.items()})
    if not 0 < self.held_out < 1:
      raise UserError(f"--data.held_out={self.held_out} is a share between 0 and 1, like 0.1")

  def build(self) -> Data:
    """Loads and cuts; see `Data`.

    A batch has tokens, targets, mask [B, T] and reset [B]; condition [B, T] if it is conditional; and, of parts
    of words, characters [B, T]: how many each target stands for.

    Raises:
      UserError: the source does not exist or cannot be had, or is too short for the fields.
    """
    corpus = load_corpus(self.source)
    parts = self._split(corpus.documents)
    if self.tokens == "chars":
      tokenizer, vocabulary = None, tuple(sorted(set().union(*corpus.documents.values())))
    else:
      tokenizer = train_tokenizer(self.tokens, [*_lines(parts["train"])], self.vocab_size)
      vocabulary = tokenizer.vocabulary
    encode = _encoder(vocabulary, tokenizer)
    texts = {split: _in_a_row([*map(encode, parts[split])], self.conditional) for split in parts}
    sizes = {split: len(arrays["tokens"]) for split, arrays in texts.items()}
    for split, size in sizes.items():
      needed = (self.batch_size if split == "train" else 1) * (self.seq_len * 2 + 1)
      if size < needed:
        raise UserError(
          f"{self.source}: {size} symbols to {split} on, {needed} are needed; lower "
          "--data.batch_size or --data.seq_len"
        )
    stream = _streams(texts["train"], self.batch_size, self.seq_len)
    told = _teller(tokenizer)

    def batch(seed, step):
      return told(stream(seed, step))

    shapes = as_shapes(batch(0, 0))

    def eval_batches(split):
      if split not in texts:
        raise unknown("split", split, texts)
      return in_order(told(_windows(texts[split], self.seq_len)), self.batch_size)

    return Data(
      spec=Spec(shapes, tuple(corpus.documents) if self.conditional else (), vocabulary, tokenizer=tokenizer),
      batch=batch,
      eval_batches=eval_batches,
      sizes=sizes,
      digest=digest_of(x for arrays in texts.values() for x in arrays.values()),
      description=f"{corpus.description}. Licence: {corpus.licence}. Citation: {corpus.citation}",
    )

  def _split(self, documents) -> dict[str, list[str]]:
    """The three splits: a part of every document."""
    parts = {"train": [], "validation": [], "test": []}
    for text in documents.values():
      start = round(len(text) * (1 - self.held_out))
      middle = (start + len(text)) // 2
      parts["train"].append(text[:start])
      parts["validation"].append(text[start:middle])
      parts["test"].append(text[middle:])
    return parts


def _lines(pieces: Sequence[str]) -> Iterator[str]:
  """With their ends; parts of words do not reach across them, and long texts are slow to cut as a whole."""
  return (line for piece in pieces for line in piece.splitlines(keepends=True))


def _encoder(vocabulary: Sequence[str], tokenizer: Tokenizer | None) -> Callable[[str], np.ndarray]:
  """A document -> its token numbers [N] int32."""
  if tokenizer is not None:
    empty = np.zeros(0, np.int32)
    return lambda text: np.concatenate([empty, *map(tokenizer.encode, _lines([text]))])
  numbers = {symbol: number for number, symbol in enumerate(vocabulary)}
  return lambda text: np.array([numbers[symbol] for symbol in text], np.int32)


def _in_a_row(pieces: Sequence[np.ndarray], conditional: bool) -> Arrays:
  """Token numbers of the documents one after another and, where it is wanted, of which document each is."""
  arrays = {"tokens": np.concatenate(pieces)}
  if conditional:
    arrays["condition"] = np.repeat(np.arange(len(pieces), dtype=np.int32), [len(piece) for piece in pieces])
  return arrays


def _teller(tokenizer: Tokenizer | None) -> Callable[[Arrays], Arrays]:
  """Adds to a batch how many characters each target stands for, where that is not one."""
  if tokenizer is None:
    return lambda batch: batch
  counts = characters_of(tokenizer)
  return lambda batch: batch | {"characters": counts[batch["targets"]]}


def characters_of(tokenizer: Tokenizer) -> np.ndarray:
  """float32 [V] the characters of each token; of one that is written byte by byte, the first byte counts."""
  counts = np.array([len(token) for token in tokenizer.vocabulary], np.float32)
  counts[: len(SPECIAL)] = 0
  for number, token in enumerate(tokenizer.vocabulary):
    if byte := _BYTE.fullmatch(token):
      counts[number] = int(byte[1], 16) & 0xC0 != 0x80  # those that go on with a character are 10xxxxxx
  return counts


def _streams(arrays: dict[str, np.ndarray], batch_size: int, seq_len: int):
  """(seed, step) -> the next window of every stream; each pass starts at another offset."""
  length = len(arrays["tokens"]) // batch_size
  streams = {name: x[: length * batch_size].reshape(batch_size, length) for name, x in arrays.items()}
  steps_per_pass = (length - 1) // seq_len - 1  # one window less, for the offset

  @functools.lru_cache(maxsize=4)
  def offset(seed: int, epoch: int) -> int:
    return int(np.random.default_rng((seed, epoch)).integers(seq_len))

  def batch(seed: int, step: int) -> dict[str, np.ndarray]:
    epoch, window = divmod(step, steps_per_pass)
    start = offset(seed, epoch) + window * seq_len
    cut = {name: x[:, start : start + seq_len] for name, x in streams.items()}
    return {
      **cut,
      "targets": streams["tokens"][:, start + 1 : start + seq_len + 1],
      "mask": np.ones((batch_size, seq_len), np.float32),
      "reset": np.full(batch_size, window == 0, np.float32),
    }

  return batch


def _windows(arrays: dict[str, np.ndarray], seq_len: int) -> dict[str, np.ndarray]:
  """All of a text as windows [N, T] that start without a past; the last one is masked where it ends."""
  length = len(arrays["tokens"])
  count = -(-(length - 1) // seq_len)
  short = count * seq_len + 1 - length
  padded = {name: np.pad(x, (0, short)) for name, x in arrays.items()}
  mask = np.ones(count * seq_len, np.float32)
  mask[len(mask) - short :] = 0.0
  return {
    **{name: x[:-1].reshape(count, seq_len) for name, x in padded.items()},
    "targets": padded["tokens"][1:].reshape(count, seq_len),
    "mask": mask.reshape(count, seq_len),
    "reset": np.ones(count, np.float32),
  }
