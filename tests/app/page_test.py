"""HTML that shows what strangers call their classes, and does nothing else with it."""

import re

import numpy as np

from dlcourse.app import page

EVIL = '<img src="http://x/y.png" onerror="alert(1)">${1+1}{{value}}'


def test_names_are_shown_and_never_obeyed():
  shares = np.float32([0.25, 0.75])
  for text in (page.answer([EVIL, "b"], shares), page.note(EVIL), page.table([{EVIL: EVIL}])):
    assert not re.search(r"<img|\$\{|\{\{|\"http", text)
    assert "&lt;img src=&quot;http://x/y.png&quot;" in text


def test_bars_are_as_long_as_the_probabilities_with_the_likeliest_first():
  text = page.answer(["a", "b", "c"], np.float32([0.125, 0.625, 0.25]))
  assert re.findall(r'title="(\w): ([\d.]+)"', text) == [
    ("b", "0.62500000"),
    ("c", "0.25000000"),
    ("a", "0.12500000"),
  ]
  assert re.findall(r"width:([\d.]+)%", text) == ["62.5000", "25.0000", "12.5000"]
  assert text.startswith('<div class="answer">b: 62.50%</div>')


def test_of_many_classes_the_rest_is_one_bar():
  shares = np.full(1000, 1e-3, np.float32)
  text = page.answer([f"class {i}" for i in range(1000)], shares)
  assert text.count('<div class="bar"') == page.MOST_BARS + 1
  assert "980 others: 0.98000" in text


def test_a_verdict_names_the_correct_class():
  assert page.verdict(None, None) == ""
  assert "right" in page.verdict(True, "cat")
  assert "wrong: it is cat" in page.verdict(False, "cat")
  assert "2 of 3 right: accuracy 66.7%" in page.tally(2, 3)


def test_messages_name_fields_and_not_flags():
  assert "prompt has 5 symbols" in page.problem(ValueError("--prompt has 5 symbols"))
