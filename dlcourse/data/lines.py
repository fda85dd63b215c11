"""Short texts that stand by themselves, as batches for an autoencoder (H5.4.3)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dlcourse.data.batches import Arrays
from dlcourse.data.line_sources import load_lines
from dlcourse.data.ragged import side_by_side
from dlcourse.data.recipe import Data, DataRecipe
from dlcourse.data.splits import published_or_stratified
from dlcourse.data.token_batches import check_split, teacher_forced, token_data
from dlcourse.data.tokens import Kind, Tokenizer, train_tokenizer
from dlcourse.errors import check_at_least

_TIMES = {"tokens": "target_lengths", "targets": "target_lengths"}


@dataclasses.dataclass(frozen=True)
class Lines(DataRecipe):
  """Short texts [B, T], each by itself; vocabulary of the training split."""

  source: str
  """film_sentences, molecules, or file:PATH, one text a line."""
  batch_size: int = 64
  """Texts in a global batch, over all devices."""
  tokens: Kind = "words"
  """What a token is: chars, words, spaced (set apart by blanks), smiles (of molecules), or parts of words (bpe,
  unigram)."""
  vocab_size: int = 10_000
  """Tokens of the vocabulary at most; rarer ones are unknown."""
  longest: int = 24
  """Tokens of a text, the end included; what comes after them is cut."""
  buckets: int = 3
  """Lengths of batches at most."""
  validation: float = 0.05
  """Share of the groups of texts, such as reviews, that validates, or of the published training split."""
  test: float = 0.1
  """Share of them that tests, where no split is published."""
  split_seed: int = 0
  """Seed of the splits."""

  def __post_init__(self) -> None:
    """Refuses numbers that fit no source."""
    sizes = {name: getattr(self, name) for name in ("batch_size", "vocab_size", "buckets")}
    check_at_least(1, {f"data.{name}": size for name, size in sizes.items()})
    check_at_least(2, {"data.longest": self.longest})
    check_split(self.validation, self.test, self.split_seed)

  def build(self) -> Data:
    """Loads, splits, encodes; see `Data`.

    A batch has tokens (<bos> y1 y2 …) and targets (y1 y2 … <eos>) [B, T], target_lengths and mask [B].

    Raises:
      UserError: the source does not exist or cannot be had, or the fields do not fit it.
    """
    source = load_lines(self.source)
    every = np.arange(source.groups.max() + 1)
    whole = {"group": every, "label": np.zeros_like(every)}
    shares = self.validation, self.test, self.split_seed
    parts = published_or_stratified(whole, source.splits, *shares)
    texts = {
      name: [source.texts[index] for index in np.flatnonzero(np.isin(source.groups, part["group"]))]
      for name, part in parts.items()
    }
    tokenizer = train_tokenizer(self.tokens, texts["train"], self.vocab_size)
    return token_data(
      {name: self._encode(tokenizer, part) for name, part in texts.items()},
      _TIMES,
      self.batch_size,
      self.buckets,
      tokenizer,
      (),
      f"{source.description}. Licence: {source.licence}. Citation: {source.citation}",
    )

  def _encode(self, tokenizer: Tokenizer, texts: Sequence[str]) -> Arrays:
    answers, _ = side_by_side([tokenizer.encode(text) for text in texts], self.longest - 1)
    forced = teacher_forced(answers)
    return {name: forced[name] for name in ("tokens", "targets", "target_lengths")}
