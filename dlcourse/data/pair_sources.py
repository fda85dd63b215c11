"""Every source of pairs of texts, by name: a sentence and its translation, a text and its headline."""

import dataclasses
import functools
import gzip
import html
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dlcourse.data import archives
from dlcourse.data.sentence_sources import in_a_row, read_table, words_of
from dlcourse.data.tfds_text import tfds_pairs
from dlcourse.errors import UserError, unknown

Pair = tuple[str, str]

FRENCH_CATALOGUES = {
  "french_gramps": "gramps 6.0.8 (GPL-2.0-or-later)",
  "french_jupyterlab": "jupyterlab-language-pack-fr-FR 4.5.post3 (BSD-3-Clause)",
  "french_mayan": "mayan-edms 4.12.2 (GPL-2.0-only)",
  "french_pretix": "pretix 2026.8.0 (AGPL-3.0)",
  "french_spyder": "spyder 6.1.8 (MIT)",
  "french_wagtail": "wagtail 8.0.1 (BSD-3-Clause)",
}
_MO_MAGIC = 0x950412DE
_UNCLEAN = re.compile(r"[^\w\s.,;:!?'\"()+/-]|_|\d|\w/\w|https?:|--")  # markup, placeholders, names of files
_TAG = re.compile(r"<[^<>]*>")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_BLANKS = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "«": '"', "»": '"', "…": "."})


@dataclasses.dataclass(frozen=True)
class PairSet:
  """Pairs of texts in memory.

  Attributes:
    pairs: (source, target); no source twice where no splits are published.
    description: one line for reports.
    licence: as the source states it, or "none stated".
    citation: paper or address to cite.
    splits: the published split of each pair, train, validation or test; () where none is published.
  """

  pairs: tuple[Pair, ...]
  description: str
  licence: str
  citation: str
  splits: tuple[str, ...] = ()


def load_pairs(name: str) -> PairSet:
  """Loads pairs of texts; of sources that are nearly the same one is left in.

  Published splits stay as they are, but for what is held out: that is not in the training split.

  Args:
    name: "gettext_fr", "aws_operations", "tsv:FILE" for the user's own, or "tfds:NAME" of TensorFlow Datasets,
      see `tfds_text.tfds_pairs`.

  Raises:
    UserError: unknown name, or what the source itself reports.
  """
  kind, _, place = name.partition(":")
  if name in _NAMED:
    source = _NAMED[name]()
  elif kind == "tsv" and place:
    source = pair_table(place)
  elif kind == "tfds" and place:
    source = tfds_translations(place)
  else:
    raise unknown("set of pairs", name, [*_NAMED, "tsv:FILE", "tfds:NAME"])
  if source.splits:
    return source
  pairs = tuple(without_near_repeats(source.pairs))
  dropped = len(source.pairs) - len(pairs)
  return dataclasses.replace(
    source, pairs=pairs, description=f"{source.description}; without {dropped:,} that nearly repeat another"
  )


@functools.cache  # seconds to read, and a process builds its data for training and for the report
def gettext_fr() -> PairSet:
  """What six programs say in English, of 2 to 15 words, and its translation into French.

  Raises:
    UserError: as `archives.fetch`.
  """
  pairs = {}
  for archive in FRENCH_CATALOGUES:
    for path in sorted(archives.fetch(archive).glob("*.mo")):
      for source, target in read_mo(path):
        pair = _typed(source), _typed(target)
        if _clean(*pair):
          pairs.setdefault(*pair)
  return PairSet(
    pairs=tuple(pairs.items()),
    description="English user-interface texts of six programs and their French translations",
    licence="; ".join(FRENCH_CATALOGUES.values()),
    citation="the translators of " + ", ".join(FRENCH_CATALOGUES.values()),
  )


@functools.cache  # seconds to read, and a process builds its data for training and for the report
def aws_operations() -> PairSet:
  """The first sentence or two of what the manual says of an operation of a web service, and its name in words.

  Of every service the newest version; "Returns a list of …" goes with "list …".

  Raises:
    UserError: as `archives.fetch`.
  """
  newest = {path.name.partition("--")[0]: path for path in sorted(archives.fetch("aws_operations").iterdir())}
  pairs = {}
  for path in newest.values():
    with gzip.open(path) as file:
      operations = json.load(file)["operations"]
    for name, operation in operations.items():
      manual = " ".join(html.unescape(_TAG.sub(" ", operation.get("documentation", ""))).split())
      headline = " ".join(_CAMEL.findall(name)).lower()
      text = " ".join(_SENTENCE_END.split(manual)[:2])
      if len(text.split()) >= 5 and name not in text:
        pairs.setdefault(text, headline)
  return PairSet(
    pairs=tuple(pairs.items()),
    description="operations of Amazon's web services: two sentences of the manual, and the name as a headline, "
    "from the package botocore 1.44.5",
    licence="Apache-2.0",
    citation="Amazon Web Services: botocore, https://github.com/boto/botocore",
  )


def pair_table(place: str) -> PairSet:
  """The user's own pairs: UTF-8, one pair a line, source and target set apart by a tabulator.

  Raises:
    UserError: no such file, not UTF-8, not two fields in a line.
  """
  path = Path(place).expanduser()
  rows = read_table(path, "\t")
  if len(rows[0]) != 2:
    raise UserError(f"{path} has {len(rows[0])} fields a line; it needs a source, a tabulator and a target")
  pairs: dict[str, str] = {}
  for source, target in rows:
    if source.strip() and target.strip():
      pairs.setdefault(source.strip(), target.strip())
  return PairSet(tuple(pairs.items()), f"pairs of {path}", "none stated", "none stated")


def tfds_translations(name: str) -> PairSet:
  """Translations of TensorFlow Datasets.

  Raises:
    UserError: as `tfds_text.tfds_pairs`.
  """
  published = tfds_pairs(name)
  pairs, splits = in_a_row(published.splits)
  return PairSet(pairs=tuple(pairs), splits=splits, **published.facts)


def read_mo(path: Path) -> Iterator[Pair]:
  """The texts of a compiled catalogue and their translations (GNU gettext manual, section 10.3).

  Plural forms and texts that depend on a context are left out.

  Raises:
    UserError: damaged.
  """
  contents = path.read_bytes()
  try:
    order = "<" if struct.unpack_from("<I", contents)[0] == _MO_MAGIC else ">"
    magic, _, count, sources, targets = struct.unpack_from(f"{order}5I", contents)
    if magic != _MO_MAGIC:
      raise UserError(f"{path} is no compiled gettext catalogue")
    for index in range(count):
      texts = []
      for table in (sources, targets):
        length, start = struct.unpack_from(f"{order}2I", contents, table + 8 * index)
        texts.append(contents[start : start + length].decode("utf-8"))
      if texts[0] and not any("\0" in text or "\4" in text for text in texts):
        yield texts[0], texts[1]
  except (struct.error, UnicodeDecodeError) as error:
    raise UserError(f"{path} is damaged ({error}); delete its folder and try again") from error


def without_near_repeats(pairs: Iterable[Pair]) -> Iterator[Pair]:
  """The pairs whose source does not say what one before it does.

  Sources of 6 words or more are nearly the same if they differ by one word (put in, left out or exchanged);
  shorter ones if they differ in punctuation and case alone.
  """
  seen = set()
  for source, target in pairs:
    words = tuple(words_of(source).split())
    keys = {words}
    if len(words) >= 6:
      keys |= {words[:index] + words[index + 1 :] for index in range(len(words))}
    if words and seen.isdisjoint(keys):
      yield source, target
      seen |= keys


def _typed(text: str) -> str:
  """One line with plain quotation marks, and without the marks of keyboard shortcuts and trailing dots."""
  text = text.replace("&", "").translate(_BLANKS)
  return " ".join(text.split()).rstrip(" .:")


def _clean(source: str, target: str) -> bool:
  """Whether both are words only, 2 to 15 in the source, and not the same."""
  counts = len(source.split()), len(target.split())
  return (
    2 <= counts[0] <= 15
    and counts[1] <= 2 * counts[0] + 2
    and counts[0] <= 2 * counts[1] + 2
    and source.isascii()
    and source.lower() != target.lower()
    and not _UNCLEAN.search(source)
    and not _UNCLEAN.search(target)
  )


_NAMED: dict[str, Callable[[], PairSet]] = {"gettext_fr": gettext_fr, "aws_operations": aws_operations}
