import numpy as np
import pytest

from dlcourse.data.sentence_sources import SentenceSet, load_sentences, read_table, without_repeats
from dlcourse.errors import UserError


def sentences(texts, labels):
  return SentenceSet(tuple(texts), np.array(labels, np.int32), ("a", "b"), "some", "none", "none")


def test_repeats_are_dropped_and_contradictions_altogether():
  texts = ["A good film!", "a good   film", "Bad.", "bad", "so-so", "so so", "...", "one more"]
  kept = without_repeats(sentences(texts, [0, 0, 0, 1, 1, 1, 0, 0]))
  assert kept.texts == ("A good film!", "so-so", "one more")
  assert kept.labels.tolist() == [0, 1, 0]
  assert kept.description == "some; without 5 that repeat or contradict another"


def test_names_and_addresses_do_not_make_a_text_another_one():
  texts = ["@you late again http://t.co/a1", "@me late again https://t.co/b2", "@me never late"]
  assert without_repeats(sentences(texts, [0, 0, 1])).texts == (texts[0], texts[2])


@pytest.mark.data
@pytest.mark.parametrize(
  ("name", "counts", "dropped"),
  [
    ("rotten_tomatoes", [4264, 4264], "without 2 "),
    ("imdb", [12_431, 12_470], "without 99 "),
    ("tweets", [15_396, 13_576, 6_611], "without 2,575 "),
  ],
)
def test_the_real_sets_are_complete(name, counts, dropped):
  found = load_sentences(name)
  assert np.bincount(found.labels).tolist() == counts
  assert len(found.classes) == len(counts)
  assert dropped in found.description
  assert not any("<br" in text or "\n" in text for text in found.texts)
  assert found.labels.dtype == np.int32


@pytest.mark.data
def test_labels_belong_to_their_texts():
  texts, labels = (getattr(load_sentences("rotten_tomatoes"), name) for name in ("texts", "labels"))
  label_of = dict(zip(texts, labels.tolist(), strict=True))
  (worst,) = (text for text in texts if text.startswith("things really get weird , though not particularly"))
  (best,) = (text for text in texts if text.startswith("the rock is destined to be the 21st century's new"))
  assert (label_of[worst], label_of[best]) == (0, 1)


def test_a_persons_own_table(tmp_path):
  path = tmp_path / "mine.csv"
  path.write_text(
    '\ufeffid,Label,Text\n1,yes,"one, two"\n\n2,no,"three ""four"""\n3,yes,fünf\n', encoding="utf-8"
  )
  found = load_sentences(f"csv:{path}")
  assert found.texts == ("one, two", 'three "four"', "fünf")
  assert found.classes == ("no", "yes")
  assert found.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
  ("contents", "reason"),
  [
    ("text,label\na,b\nc\n", "line 3: 1 fields, the first line has 2"),
    ("text,label\na,b\nc,b\n", "only the label 'b'"),
    ("words,class\na,b\n", "has the columns words, class; it needs one named text and one named label"),
    ("text,label\n", "has 1 row"),
    ('text,label\n"a,b\n', "line"),
    ("text,label\n\0a,b\n", "line|only"),
  ],
)
def test_tables_that_do_not_fit_are_reported_in_one_line(tmp_path, contents, reason):
  path = tmp_path / "mine.csv"
  path.write_text(contents)
  with pytest.raises(UserError, match=reason) as info:
    load_sentences(f"csv:{path}")
  assert str(path) in str(info.value)
  assert "\n" not in str(info.value)


def test_quotation_marks_enclose_fields_only_between_commas(tmp_path):
  path = tmp_path / "pairs.tsv"
  path.write_text('a "b\tc\nd"\t"e"\n')
  assert read_table(path, "\t") == [['a "b', "c"], ['d"', '"e"']]


@pytest.mark.parametrize("name", ["rotten_tomatos", "csv:", ""])
def test_unknown_names(name):
  with pytest.raises(UserError, match="unknown set of sentences"):
    load_sentences(name)
