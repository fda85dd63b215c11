import collections
import gettext
import io
import struct

import pytest

from dlcourse.data import archives
from dlcourse.data.pair_sources import load_pairs, read_mo, without_near_repeats
from dlcourse.data.sentence_sources import words_of
from dlcourse.errors import UserError

TEXTS = {"": "Content-Type: text/plain; charset=UTF-8\n", "a cat": "un chat", "summer": "été", "x\4a": "y"}


def catalogue(texts, order="<"):
  """A compiled catalogue as the gettext manual lays it out."""
  strings = [(source.encode(), target.encode()) for source, target in sorted(texts.items())]
  start = 28 + 16 * len(strings)
  tables, blob = ([], []), b""
  for side in (0, 1):
    for pair in strings:
      tables[side].append(struct.pack(f"{order}2I", len(pair[side]), start + len(blob)))
      blob += pair[side] + b"\0"
  header = struct.pack(f"{order}7I", 0x950412DE, 0, len(strings), 28, 28 + 8 * len(strings), 0, start)
  return header + b"".join(tables[0]) + b"".join(tables[1]) + blob


@pytest.mark.parametrize("order", "<>")
def test_a_catalogue_is_read_without_contexts_and_header(tmp_path, order):
  path = tmp_path / "x.mo"
  path.write_bytes(catalogue(TEXTS, order))
  assert gettext.GNUTranslations(io.BytesIO(path.read_bytes())).gettext("summer") == "été"
  assert dict(read_mo(path)) == {"a cat": "un chat", "summer": "été"}


def test_damaged_catalogues_are_reported(tmp_path):
  path = tmp_path / "x.mo"
  whole = catalogue(TEXTS)
  for contents, said in [
    (b"", "is damaged"),
    (whole[:40], "is damaged"),
    (b"not a catalogue at all, but long enough", "is no compiled gettext catalogue"),
    (whole.replace("é".encode(), b"\xff\xff"), "is damaged"),
  ]:
    path.write_bytes(contents)
    with pytest.raises(UserError, match=said):
      list(read_mo(path))


def test_sources_that_differ_by_one_word_are_near_repeats_if_they_are_long():
  first = "the file could not be written here"
  sources = [
    first,
    "The file could not be written here!",
    "the file could not be found here",  # one exchanged
    "the file could not be written",  # one left out
    "the big file could not be written here",  # one put in
    "the file could never have been written here",  # two exchanged
    "open file",
    "open folder",
    "Open file...",
    "...",
  ]
  kept = [source for source, _ in without_near_repeats((source, "x") for source in sources)]
  assert kept == [first, sources[5], "open file", "open folder"]


def test_a_persons_own_pairs(tmp_path):
  path = tmp_path / "mine.tsv"
  path.write_text('a "cat"\tun chat\na dog\tun chien\na dog\tle chien\n \tvide\n', encoding="utf-8")
  assert load_pairs(f"tsv:{path}").pairs == (('a "cat"', "un chat"), ("a dog", "un chien"))
  path.write_text("a\tb\tc\nd\te\tf\n")
  with pytest.raises(UserError, match="has 3 fields a line; it needs a source, a tabulator and a target"):
    load_pairs(f"tsv:{path}")


@pytest.mark.data
def test_the_french_catalogues_read_as_the_standard_library_reads_them():
  (path,) = archives.fetch("french_gramps").glob("*.mo")
  with path.open("rb") as file:
    reference = gettext.GNUTranslations(file)
  found = dict(read_mo(path))
  assert len(found) > 6_500
  assert all(reference.gettext(source) == target for source, target in found.items())


@pytest.mark.data
def test_the_french_pairs_are_clean():
  pairs = load_pairs("gettext_fr").pairs
  assert len(pairs) == 11_919
  assert not collections.Counter(words_of(source) for source, _ in pairs).most_common(1)[0][1] > 1
  for source, target in pairs:
    assert 2 <= len(source.split()) <= 15
    assert not set(source + target) & set("%{}<>[]|_&@#$\\\n0123456789")
    assert source != target
  assert ("Close All Tabs", "Fermer tous les onglets") in pairs


@pytest.mark.data
def test_a_headline_is_not_given_away_by_its_text():
  pairs = load_pairs("aws_operations").pairs
  assert len(pairs) == 16_073
  assert ("Lists the SAML provider resource objects", "list saml providers") in {
    (" ".join(source.split()[:6]), target) for source, target in pairs
  }
  for source, target in pairs:
    assert "<p>" not in source
    assert len(source.split()) >= 5
    assert target == target.lower()
    assert " " not in target or target.title().replace(" ", "") not in source


@pytest.mark.parametrize("name", ["gettext_de", "tsv:", ""])
def test_unknown_names(name):
  with pytest.raises(UserError, match="unknown set of pairs"):
    load_pairs(name)
