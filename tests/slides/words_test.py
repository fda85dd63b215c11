import string

import pytest

from dlcourse.slides.words import WORDS, Voice


def gaps(text):
  return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_the_languages_say_the_same_things_with_the_same_gaps():
  english, french = WORDS["en"], WORDS["fr"]
  assert set(english) == set(french)
  assert {key: gaps(text) for key, text in english.items()} == {key: gaps(text) for key, text in french.items()}
  assert sum(english[key] != french[key] for key in english) > 100


@pytest.mark.parametrize(
  ("language", "said"),
  [
    ("en", ("60,850", "0.00123", "96.2\u00a0%", "a, b and c", "12 s", "2.5 min", "0.57 s")),
    ("fr", ("60\u00a0850", "0,00123", "96,2\u00a0%", "a, b et c", "12 s", "2,5 min", "0,57 s")),
  ],
)
def test_numbers_are_written_as_in_the_language(language, said):
  say = Voice(language)
  parts = (say.count(60_850), say.number(0.001234), say.share(0.96192), say.joined(["a", "b", "c"]))
  assert (*parts, say.time(12.3), say.time(150), say.time(0.571)) == said


def test_french_keeps_a_sign_on_the_line_of_its_word():
  for text in WORDS["fr"].values():
    assert not any(f" {sign}" in text for sign in ":;%»")
    assert "« " not in text
