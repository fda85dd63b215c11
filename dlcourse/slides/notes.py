"""A person's own notes, in Markdown, as bullets."""

import re
from typing import NamedTuple

from dlcourse.slides.deck import Bullet

_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*")
_ITEM = re.compile(r"(\s*)(?:[-*+]|\d+[.)])\s+(.*)")
_MARKS = re.compile(r"(\*\*|__|`)(.+?)\1")
_SUB = 2  # spaces from which on an item belongs to the one above


class Section(NamedTuple):
  """What stands below a heading; "" before the first one."""

  heading: str
  bullets: list[Bullet]


def sections(text: str) -> list[Section]:
  """The parts of a text between its headings, without those that say nothing.

  Args:
    text: Markdown: headings, items and paragraphs; other marks stay as they are.
  """
  found, continues = [Section("", [])], False
  for line in text.splitlines():
    heading, item = _HEADING.fullmatch(line.strip()), _ITEM.fullmatch(line)
    bullets = found[-1].bullets
    if heading:
      found.append(Section(_plain(heading[1]), []))
    elif item:
      bullets.append(Bullet(_plain(item[2]), level=int(len(item[1]) >= _SUB)))
    elif line.strip() and continues and bullets:
      bullets[-1] = bullets[-1]._replace(text=f"{bullets[-1].text} {_plain(line)}")
    elif line.strip():
      bullets.append(Bullet(_plain(line)))
    continues = bool(line.strip()) and not heading
  return [section for section in found if section.bullets]


def _plain(text: str) -> str:
  """Without marks, nor what no slide can hold."""
  text = _MARKS.sub(r"\2", text.strip())
  return "".join(letter for letter in text if letter.isprintable())
