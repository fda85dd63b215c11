"""Every source of short texts that stand by themselves, by name."""

import collections
import dataclasses
import functools
import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dlcourse.data import archives
from dlcourse.data.sentence_sources import imdb, words_of
from dlcourse.data.text_sources import read_text
from dlcourse.errors import unknown

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;'-]*[.!?]")
_TOKEN = re.compile(r"\w+(?:'\w+)*|[^\w\s]")  # as a tokenizer of words cuts such sentences
_WIDTHS = range(5, 17)  # words and marks of a sentence
_KEPT = 30
_COMMON = 200  # reviews that a word is in, at least


@dataclasses.dataclass(frozen=True)
class LineSet:
  """Short texts in memory.

  Attributes:
    texts: N texts, no two of the same words.
    groups: int32 [N], rising from 0: texts of one group belong together and stay in one split.
    description: one line for reports.
    licence: as the source states it, or "none stated".
    citation: paper or address to cite.
    splits: the published split of each group, train or test; () where none is published.
  """

  texts: tuple[str, ...]
  groups: np.ndarray
  description: str
  licence: str
  citation: str
  splits: tuple[str, ...] = ()


def load_lines(name: str) -> LineSet:
  """Loads short texts.

  Args:
    name: "film_sentences", "molecules", or "file:PATH" for the user's own, one a line.

  Raises:
    UserError: unknown name, or what the source itself reports.
  """
  kind, _, place = name.partition(":")
  if name in _NAMED:
    return _NAMED[name]()
  if kind == "file" and place:
    return lines_of_file(place)
  raise unknown("set of lines", name, [*_NAMED, "file:PATH"])


@functools.cache  # seconds to read, and a process builds its data for training and for the report
def film_sentences() -> LineSet:
  """Sentences of film reviews, of 5 to 16 words and marks, of common words only; a group is a review.

  A word is common that 200 of the 25,000 reviews have. Of sentences of the same words the first is left in.

  Raises:
    UserError: as `archives.fetch`.
  """
  source = imdb()
  counts = collections.Counter(word for text in source.texts for word in set(_tokens(text)))
  found: dict[str, tuple[str, int]] = {}
  for review, text in enumerate(source.texts):
    for sentence in filter(_SENTENCE.fullmatch, _SENTENCE_END.split(text)):
      tokens = _tokens(sentence)
      if len(tokens) in _WIDTHS and all(counts[word] >= _COMMON for word in tokens):
        found.setdefault(words_of(sentence), (sentence, review))
  texts, reviews = zip(*found.values(), strict=True)
  return LineSet(
    texts=texts,
    groups=np.unique(reviews, return_inverse=True)[1].astype(np.int32),
    description=f"{len(texts):,} sentences of {source.description}, of 5 to 16 words and marks, all of them "
    f"words that at least {_COMMON} reviews have",
    licence=source.licence,
    citation=source.citation,
  )


@functools.cache  # seconds to read, and a process builds its data for training and for the report
def molecules() -> LineSet:
  """Molecules like drugs in the SMILES notation: of both splits of MOSES every 30th.

  Raises:
    UserError: as `archives.fetch`.
  """
  folder, texts, splits = archives.fetch("moses"), [], []
  for split in ("train", "test"):
    lines = gzip.decompress((folder / f"{split}.csv.gz").read_bytes()).decode().split()
    kept = lines[1::_KEPT]  # the first is the heading
    texts += kept
    splits += [split] * len(kept)
  return LineSet(
    texts=tuple(texts),
    groups=np.arange(len(texts), dtype=np.int32),
    description=f"{len(texts):,} molecules of MOSES, one of every {_KEPT}, from the package molsets 0.3.1",
    licence="MIT (molsets)",
    citation="D. Polykovskiy et al.: Molecular Sets (MOSES), Frontiers in Pharmacology 2020, arXiv:1811.12823",
    splits=tuple(splits),
  )


def lines_of_file(place: str) -> LineSet:
  """The user's own texts, one a line of a UTF-8 file, each once and in a group by itself.

  Raises:
    UserError: as `read_text`.
  """
  path = Path(place).expanduser()
  texts = tuple(dict.fromkeys(line.strip() for line in read_text(path).splitlines() if line.strip()))
  return LineSet(texts, np.arange(len(texts), dtype=np.int32), f"lines of {path}", "none stated", "none stated")


def _tokens(text: str) -> list[str]:
  return _TOKEN.findall(text.lower())


_NAMED: dict[str, Callable[[], LineSet]] = {"film_sentences": film_sentences, "molecules": molecules}
