from dlcourse.slides.deck import Bullet
from dlcourse.slides.notes import Section, sections

TEXT = """- met `this` and **that**
  - below it

# First ##
One line
and the next.

Another paragraph.
1. number
* star\x1b[31m
## Empty

### Last
text
"""


def test_headings_begin_sections_and_items_and_paragraphs_are_bullets():
  assert sections(TEXT) == [
    Section("", [Bullet("met this and that"), Bullet("below it", level=1)]),
    Section(
      "First",
      [Bullet("One line and the next."), Bullet("Another paragraph."), Bullet("number"), Bullet("star[31m")],
    ),
    Section("Last", [Bullet("text")]),
  ]


def test_nothing_says_nothing():
  assert sections("\n# Only a heading\n") == []
