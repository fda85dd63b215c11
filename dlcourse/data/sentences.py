"""Labelled sentences as batches of tokens (many-to-one, H3.6.2)."""

import dataclasses
from typing import Literal

import numpy as np

from dlcourse.data.batches import Arrays
from dlcourse.data.ragged import side_by_side
from dlcourse.data.recipe import Data, DataRecipe
from dlcourse.data.sentence_sources import load_sentences
from dlcourse.data.splits import published_or_stratified
from dlcourse.data.token_batches import check_split, token_data
from dlcourse.data.tokens import Kind, Tokenizer, train_tokenizer
from dlcourse.data.wordpiece import Subwords, pretrained
from dlcourse.errors import check_at_least

_TIMES = {"inputs": "lengths"}


@dataclasses.dataclass(frozen=True)
class Sentences(DataRecipe):
  """Sentences [B, T] with one label each, in published or stratified splits; vocabulary of the training one."""

  source: str
  """rotten_tomatoes, imdb, tweets, csv:FILE with the columns text and label, or tfds:NAME (imdb_reviews,
  glue/sst2)."""
  batch_size: int = 64
  """Sentences in a global batch, over all devices."""
  tokens: Kind | Literal["minilm"] = "words"
  """What a token is: chars, words, spaced (set apart by blanks), parts of words (bpe, unigram), or what it is
  to a published network (minilm), whatever --data.vocab_size says."""
  vocab_size: int = 10_000
  """Tokens of the vocabulary at most; rarer ones are unknown."""
  longest: int = 64
  """Tokens of a sentence; what comes after them is cut."""
  buckets: int = 4
  """Lengths of batches at most."""
  validation: float = 0.1
  """Share of the sentences that validates, where none is published."""
  test: float = 0.1
  """Share of the sentences that tests, where no split is published."""
  split_seed: int = 0
  """Seed of the splits."""

  def __post_init__(self) -> None:
    """Refuses numbers that fit no source."""
    sizes = {name: getattr(self, name) for name in ("batch_size", "vocab_size", "longest", "buckets")}
    check_at_least(1, {f"data.{name}": size for name, size in sizes.items()})
    check_split(self.validation, self.test, self.split_seed)

  def build(self) -> Data:
    """Loads, splits, encodes; see `Data`. A batch has inputs [B, T], lengths, label and mask [B].

    Raises:
      UserError: the source does not exist or cannot be had, or the fields do not fit it.
    """
    source = load_sentences(self.source)
    whole = {"text": np.arange(len(source.texts)), "label": source.labels}
    shares = self.validation, self.test, self.split_seed
    parts = published_or_stratified(whole, source.splits, *shares)
    texts = {name: [source.texts[index] for index in part["text"]] for name, part in parts.items()}
    if self.tokens == "minilm":
      tokenizer = pretrained("minilm")
    else:
      tokenizer = train_tokenizer(self.tokens, texts["train"], self.vocab_size)
    splits = {name: self._encode(tokenizer, texts[name], part["label"]) for name, part in parts.items()}
    return token_data(
      splits,
      _TIMES,
      self.batch_size,
      self.buckets,
      tokenizer,
      source.classes,
      f"{source.description}. Licence: {source.licence}. Citation: {source.citation}",
    )

  def _encode(self, tokenizer: Tokenizer | Subwords, texts: list[str], labels: np.ndarray) -> Arrays:
    inputs, lengths = side_by_side([tokenizer.encode(text) for text in texts], self.longest)
    return {"inputs": inputs, "lengths": lengths, "label": labels}
