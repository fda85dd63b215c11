"""How much room a text takes on a slide.

Lengths are inches, sizes of letters points. Texts are measured in DejaVu Sans, which is wider than the letters
of presentations: what fits there fits in those too.
"""

import functools
import pathlib
import re
import unicodedata

import matplotlib
from PIL import ImageFont

LINE = 1.2  # height of a line, in sizes of its letters
_SPACES = re.compile(r"[ \t\n\r]+")  # at which a line may end: not at those that French has before a colon
_MEASURED = 100  # size at which letters are measured
_WIDE = 0.4  # of a size, by which letters of East Asia are wider than the box that the font has for them


def text_width(text: str, size: float) -> float:
  """Of a line."""
  wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)  # which the font lacks
  return (_letters().getlength(text) / _MEASURED + _WIDE * wide) * size / 72


@functools.cache
def _letters() -> ImageFont.FreeTypeFont:
  return ImageFont.truetype(pathlib.Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", _MEASURED)


def wrapped(text: str, width: float, size: float) -> list[str]:
  """The lines of a text, broken between words, and within those that are longer than a line."""
  lines = [""]
  for word in _SPACES.split(text.strip(" ")):
    longer = f"{lines[-1]} {word}" if lines[-1] else word
    if text_width(longer, size) <= width:
      lines[-1] = longer
      continue
    lines += [word] if lines[-1] else []
    lines[-1] = word
    while text_width(lines[-1], size) > width and len(lines[-1]) > 1:
      fits = next(
        n for n in range(len(lines[-1]) - 1, 0, -1) if n == 1 or text_width(lines[-1][:n], size) <= width
      )
      lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
  return lines


def clipped(text: str, width: float, size: float) -> str:
  """A text that takes one line, its end left out if it has to be."""
  text = _SPACES.sub(" ", text)
  if text_width(text, size) <= width:
    return text
  fitting = (n for n in range(len(text) - 1, 0, -1) if text_width(text[:n] + "…", size) <= width)
  return text[: next(fitting, 0)].rstrip() + "…"
