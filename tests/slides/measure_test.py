import pytest

from dlcourse.slides.measure import clipped, text_width, wrapped


def test_a_text_is_as_wide_as_its_letters_at_their_size():
  assert text_width("", 18) == 0
  assert text_width("iiii", 18) < text_width("WWWW", 18)
  assert text_width("word", 36) == pytest.approx(2 * text_width("word", 18))
  assert text_width("数据", 72) >= 2  # a letter of East Asia is a square


def test_lines_are_full_and_none_is_wider_than_its_place():
  text = "the quick brown fox jumps over a " + "very" * 20 + " long\u00a0word"
  lines = wrapped(text, 2.0, 18)
  assert all(text_width(line, 18) <= 2.0 for line in lines)
  assert "".join(lines).replace(" ", "") == text.replace(" ", "")
  first, second = lines[0], lines[1].split()[0]
  assert text_width(f"{first} {second}", 18) > 2.0  # else it would have been on the first line
  assert lines[-1].endswith("long\u00a0word")


def test_what_is_too_long_for_a_line_ends_in_dots():
  assert clipped("short", 2.0, 18) == "short"
  cut = clipped("a long name that nobody reads to its end", 2.0, 18)
  assert cut.endswith("…")
  assert text_width(cut, 18) <= 2.0 < text_width(cut[:-1] + "mm…", 18)
