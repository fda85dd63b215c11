import re

import numpy as np
import pytest

from dlcourse.data import line_sources
from dlcourse.data.line_sources import film_sentences, load_lines
from dlcourse.data.sentence_sources import SentenceSet
from dlcourse.data.tokens import UNK, train_tokenizer
from dlcourse.errors import UserError

REVIEWS = (
  "A film not to miss. I saw it in 1999 and it was good. It isn't a bad film at all!",
  "a film not to miss. A FILM not to miss! Good film. It's a bad film - at all.",
  "Not a zebra film at all. It was good at all: not to miss.",
)


def test_sentences_are_whole_of_common_words_and_come_once(monkeypatch):
  source = SentenceSet(REVIEWS, np.zeros(3, np.int32), ("a",), "reviews", "licence", "citation")
  monkeypatch.setattr(line_sources, "imdb", lambda: source)
  monkeypatch.setattr(line_sources, "_COMMON", 2)
  monkeypatch.setattr(line_sources, "_WIDTHS", range(5, 9))
  found = film_sentences.__wrapped__()
  # Left out: a number, words of one review ("isn't", "zebra"), no capital, repeated words, too short, a colon.
  assert found.texts == ("A film not to miss.",)
  np.testing.assert_array_equal(found.groups, [0])
  monkeypatch.setattr(line_sources, "_COMMON", 1)
  found = film_sentences.__wrapped__()
  assert found.texts == (
    "A film not to miss.",
    "It isn't a bad film at all!",
    "It's a bad film - at all.",
    "Not a zebra film at all.",
  )
  np.testing.assert_array_equal(found.groups, [0, 0, 1, 2])
  assert found.description.startswith("4 sentences of reviews")


def test_lines_of_a_file_come_once_each_in_a_group_of_its_own(tmp_path):
  (tmp_path / "mine.txt").write_text("one two\n\n  three \none two\nfour\n", encoding="utf-8")
  found = load_lines(f"file:{tmp_path / 'mine.txt'}")
  assert found.texts == ("one two", "three", "four")
  np.testing.assert_array_equal(found.groups, [0, 1, 2])


def test_what_does_not_exist_is_refused(tmp_path):
  with pytest.raises(UserError, match="perhaps you meant 'film_sentences'"):
    load_lines("film_sentence")
  with pytest.raises(UserError, match="no such file"):
    load_lines(f"file:{tmp_path / 'none.txt'}")


@pytest.mark.data
def test_film_sentences_have_hardly_an_unknown_word_even_where_half_of_them_are_learnt_from():
  found = film_sentences()
  assert len(found.texts) == len(found.groups) == 31_639
  assert len({" ".join(re.findall(r"\w+", text.lower())) for text in found.texts}) > 31_500
  assert np.all(np.diff(found.groups) >= 0)
  tokenizer = train_tokenizer("words", found.texts[::2], 10_000)
  encoded = [tokenizer.encode(text) for text in found.texts[1::2]]
  assert {len(row) for row in encoded} == set(range(5, 17))
  assert np.mean(np.concatenate(encoded) == UNK) < 0.001


@pytest.mark.data
def test_molecules_are_as_published_and_their_atoms_are_tokens():
  found = load_lines("molecules")
  assert found.splits.count("train") == 52_823  # of 1,584,663
  assert found.splits.count("test") == 5_870  # of 176,074
  assert len(set(found.texts)) == len(found.texts)
  assert found.texts[0] == "CCCS(=O)c1ccc2[nH]c(=NC(=O)OC)[nH]c2c1"
  tokenizer = train_tokenizer("smiles", found.texts, 100)
  assert {"Cl", "Br", "[nH]", "c", "#"} < set(tokenizer.vocabulary)
  assert not {"l", "r", "["} & set(tokenizer.vocabulary)
  assert len(tokenizer.vocabulary) < 40
  assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in found.texts[::50])
