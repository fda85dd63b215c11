"""Pairs of texts as batches for sequence to sequence: translations, headlines (H3.6.2, H3.7.3, H3.11.1)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dlcourse.data.batches import Arrays
from dlcourse.data.pair_sources import Pair, load_pairs
from dlcourse.data.ragged import side_by_side
from dlcourse.data.recipe import Data, DataRecipe
from dlcourse.data.splits import published_or_stratified
from dlcourse.data.token_batches import check_split, teacher_forced, token_data
from dlcourse.data.tokens import Kind, Tokenizer, train_tokenizer
from dlcourse.errors import check_at_least

_TIMES = {
  "inputs": "lengths",
  "tokens": "target_lengths",
  "targets": "target_lengths",
  "mask": "target_lengths",
}


@dataclasses.dataclass(frozen=True)
class Pairs(DataRecipe):
  """Sources [B, S] and targets [B, T] in one vocabulary, learnt from both sides of the training split."""

  source: str
  """gettext_fr (English to French), aws_operations (a manual's text to a headline), tsv:FILE, or tfds:NAME
  (ted_hrlr_translate/pt_to_en)."""
  batch_size: int = 64
  """Pairs in a global batch, over all devices."""
  tokens: Kind = "bpe"
  """What a token is: chars, words, spaced (set apart by blanks), or parts of words (bpe, unigram)."""
  vocab_size: int = 4_000
  """Tokens of the vocabulary at most."""
  longest: int = 64
  """Tokens of a text, the end included; what comes after them is cut."""
  buckets: int = 8
  """Lengths of batches at most."""
  validation: float = 0.05
  """Share of the pairs that validates, where none is published."""
  test: float = 0.1
  """Share of the pairs that tests, where no split is published."""
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

    A batch has inputs [B, S] and lengths [B]; tokens (<bos> y1 y2 …), targets (y1 y2 … <eos>) and mask [B, T],
    and target_lengths [B].

    Raises:
      UserError: the source does not exist or cannot be had, or the fields do not fit it.
    """
    source = load_pairs(self.source)
    count = len(source.pairs)
    whole = {"pair": np.arange(count), "label": np.zeros(count, np.int32)}
    shares = self.validation, self.test, self.split_seed
    parts = published_or_stratified(whole, source.splits, *shares)
    pairs = {name: [source.pairs[index] for index in part["pair"]] for name, part in parts.items()}
    tokenizer = train_tokenizer(
      self.tokens, [text for pair in pairs["train"] for text in pair], self.vocab_size
    )
    return token_data(
      {name: self._encode(tokenizer, part) for name, part in pairs.items()},
      _TIMES,
      self.batch_size,
      self.buckets,
      tokenizer,
      (),
      f"{source.description}. Licence: {source.licence}. Citation: {source.citation}",
    )

  def _encode(self, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> Arrays:
    inputs, lengths = side_by_side([tokenizer.encode(source) for source, _ in pairs], self.longest)
    answers, _ = side_by_side([tokenizer.encode(target) for _, target in pairs], self.longest - 1)
    return {"inputs": inputs, "lengths": lengths, **teacher_forced(answers)}
