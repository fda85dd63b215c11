"""Every slide holds something, and everything on it stays in its place, whatever the run was."""

import json
import pathlib

import matplotlib
import numpy as np
import pytest
from PIL import ImageFont
from recorded_runs import matrix, write_run

from dlcourse.errors import UserError
from dlcourse.slides.words import WORDS
from dlcourse.slides.write import write_slides

pptx = pytest.importorskip("pptx", reason="needs the extra `report`")
EMU = 914_400  # an inch
LETTERS = ImageFont.truetype(pathlib.Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 100)
LONG = tuple(f"a very long class name number {i} that goes on and on" for i in range(12))
NOTES = (
  "- met `this`\n- " + "many words of mine " * 60 + "\n\n# My own slide\n" + "- an item of some length\n" * 30
)
FACTS = {
  "classes": dict.fromkeys(LONG, 100) | {LONG[0]: 3},
  "broken": [{"file": "x/" * 100, "reason": "?"}],
  "repeated": [["a" * 300, "b" * 300]],
  "contradictions": [["c", "d"]],
  "leaks": [["e", "f"]],
}
RUNS = {
  "three": {"classes": ("cat", "dog", "yak")},
  "twelve": {"classes": LONG, "facts": FACTS, "depth": 30},
  "forty": {"classes": tuple(f"类别的名称{i}" * 4 for i in range(40)), "curves": ()},
  "perfect": {"classes": ("cat", "dog"), "counts": np.diag([50, 50])},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs")
  return {name: write_run(folder / name, **run) for name, run in RUNS.items()}


@pytest.fixture(scope="module")
def decks(runs, tmp_path_factory):
  folder = tmp_path_factory.mktemp("decks")
  (folder / "notes.md").write_text(NOTES)
  files = {
    (name, language): write_slides(
      runs[name], folder / f"{name}.{language}.pptx", language, folder / "notes.md"
    )
    for name in RUNS
    for language in WORDS
  }
  return {key: pptx.Presentation(file) for key, file in files.items()}


EACH = pytest.mark.parametrize(("name", "language"), [(name, language) for name in RUNS for language in WORDS])


def lines_of(text, width, size):
  """How many lines a text takes: greedily, word by word."""
  lines, used, space = 1, 0.0, LETTERS.getlength(" ") * size / 7200
  for word in text.split(" "):
    wide = LETTERS.getlength(word) * size / 7200
    if used and used + space + wide > width:
      lines, used = lines + 1, 0.0
    used += wide + (space if used else 0)
    while used > width:
      lines, used = lines + 1, used - width
  return lines


def height_of(frame, width):
  """Of the text in a frame, in inches."""
  total = 0.0
  for paragraph in frame.paragraphs:
    (run,) = paragraph.runs
    size = run.font.size.pt
    total += (
      1.2
      * size
      / 72
      * lines_of(run.text, width - (0.38, 0.82)[paragraph.level] * (len(frame.paragraphs) > 1), size)
    )
  return total


def overlap(one, other):
  across = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
  down = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
  return across > 0 and down > 0


@EACH
def test_nothing_leaves_the_slide_its_box_or_covers_another(decks, name, language):
  deck = decks[name, language]
  assert deck.slide_width / deck.slide_height == pytest.approx(16 / 9, abs=1e-3)
  for slide in deck.slides:
    shapes = list(slide.shapes)
    for number, shape in enumerate(shapes):
      assert min(shape.left, shape.top) >= 0
      assert shape.left + shape.width <= deck.slide_width
      assert shape.top + shape.height <= deck.slide_height
      assert not any(overlap(shape, other) for other in shapes[:number])
      if shape.has_text_frame:
        assert height_of(shape.text_frame, shape.width / EMU - 0.2) <= shape.height / EMU, shape.text_frame.text
      if shape.has_table:
        for row in shape.table.rows:
          for cell, column in zip(row.cells, shape.table.columns, strict=True):
            room = (column.width - cell.margin_left - cell.margin_right) / EMU
            needed = height_of(cell.text_frame, room) if cell.text else 0
            assert needed + (cell.margin_top + cell.margin_bottom) / EMU <= row.height / EMU + 1e-3, cell.text


@EACH
def test_letters_are_large_and_no_slide_is_empty(decks, name, language):
  for slide in decks[name, language].slides:
    assert slide.shapes.title.text_frame.text
    others = [shape for shape in slide.shapes if shape != slide.shapes.title]
    assert others
    for shape in others:
      if shape.has_text_frame:
        assert shape.text_frame.text
        assert all(run.font.size.pt >= 18 for p in shape.text_frame.paragraphs for run in p.runs)
      if shape.has_table:
        cells = [cell for row in shape.table.rows for cell in row.cells]
        assert all(
          run.font.size.pt >= 12 for cell in cells for p in cell.text_frame.paragraphs for run in p.runs
        )
      if shape.has_chart:
        assert shape.chart.font.size.pt >= 12


def texts(deck):
  """Title -> all its slide says."""
  said = {}
  for slide in deck.slides:
    frames = [shape.text_frame for shape in slide.shapes if shape.has_text_frame]
    cells = [
      cell.text for shape in slide.shapes if shape.has_table for row in shape.table.rows for cell in row.cells
    ]
    said[slide.shapes.title.text_frame.text] = [p.text for frame in frames for p in frame.paragraphs] + cells
  return said


def shape_of(deck, title, kind):
  (slide,) = [slide for slide in deck.slides if slide.shapes.title.text_frame.text == title]
  return [shape for shape in slide.shapes if getattr(shape, kind)]


def test_the_slides_tell_what_was_recorded(decks):
  said = texts(decks["three", "en"])
  assert "Source: own images, folder “photos”" in said["Data"]
  assert {"training", "180", "validation", "20", "test", "50"} <= set(said["Data"])
  assert "Size: 16 × 16 pixels, colour" in said["Preprocessing"]
  assert {"dense_0", "49,216", "output", "650", "49,866"} <= set(said["Layers of the model"])
  assert {"240 of 600", "4 evaluations, one every 40 steps", "0.25", "12 s"} <= set(said["Training"])
  assert {"accuracy", "88.0\u00a0%", "macro F1", "70.0\u00a0%"} <= set(said["Results on the test split"])
  assert "Best step: 80; validation loss 0.15, validation accuracy 85.0\u00a0%" in said["Learning curves"]
  assert "Wrong: 6 of 50 test images (12.0\u00a0%)" in said["Frequent confusions"]
  assert (
    "Test accuracy 88.0\u00a0% on 50 images (95\u00a0% interval 76.2\u00a0% to 94.4\u00a0%)"
    in said["Conclusion"]
  )
  assert "an item of some length" in said["My own slide (1/3)"]
  assert any("met this" in text for title in said if title.startswith("Challenges") for text in said[title])
  assert "Test accuracy" not in str(texts(decks["three", "fr"]))


def test_curves_are_charts_and_a_small_confusion_matrix_is_a_table(decks):
  deck = decks["three", "en"]
  loss, accuracy = (shape.chart for shape in shape_of(deck, "Learning curves", "has_chart"))
  assert [series.name for series in accuracy.plots[0].series] == ["training", "validation", "best step"]
  train, _, best = (list(series.values) for series in accuracy.plots[0].series)
  assert train == [0.8, 0.9, 1.0]
  assert best == [0.7, 1.0]  # a line from the lowest to the highest
  assert list(loss.plots[0].series[1].values) == pytest.approx([0.3, 0.15, 0.2])
  (table,) = shape_of(deck, "Confusion matrix", "has_table")
  cells = [[cell.text for cell in row.cells] for row in table.table.rows]
  assert cells[0][1:] == ["cat", "dog", "yak"]
  assert [[int(text) for text in row[1:]] for row in cells[1:]] == matrix(3).tolist()
  colours = [
    [str(cell.fill.fore_color.rgb) for cell in list(row.cells)[1:]] for row in list(table.table.rows)[1:]
  ]
  assert colours[0] == ["1F4E9E", "FFFFFF", "FFFFFF"]
  assert not shape_of(decks["forty", "en"], "Confusion matrix", "has_table")


def test_what_a_run_has_not_has_no_slide(decks):
  assert "Learning curves" not in texts(decks["forty", "en"])
  perfect = texts(decks["perfect", "en"])
  assert "No test image was classified wrongly: 100 of 100" in perfect["Frequent confusions"]
  assert "The most confident errors" not in perfect
  assert "Comparison with simpler methods" not in perfect


def test_simpler_methods_stand_beside_the_model_where_they_were_measured(tmp_path):
  run = write_run(tmp_path / "run", ("cat", "dog", "yak"))
  row = {
    "classifier": "random forest",
    "accuracy": 0.9,
    "accuracy_low": 0.8,
    "accuracy_high": 0.95,
    "seconds": 0.5,
  }
  (run / "report/baselines.json").write_text(json.dumps([row]))
  deck = pptx.Presentation(write_slides(run, tmp_path / "x.pptx", "fr"))
  (table,) = shape_of(deck, "Comparaison avec des méthodes plus simples", "has_table")
  rows = [[cell.text for cell in row.cells] for row in table.table.rows]
  assert [row[0] for row in rows[1:]] == ["forêt aléatoire", "ce modèle (MLP)"]
  assert rows[1][2:] == ["80,0\u00a0% – 95,0\u00a0%", "0,5 s"]


def test_a_presentation_that_is_there_is_never_replaced(runs, tmp_path):
  mine = tmp_path / "slides.pptx"
  mine.write_text("edited by hand")
  with pytest.raises(UserError, match=r"slides\.pptx is there already"):
    write_slides(runs["three"], mine)
  assert mine.read_text() == "edited by hand"


@pytest.mark.parametrize(
  ("file", "notes", "said"),
  [
    ("slides.ppt", None, r"should end in \.pptx"),
    ("gone/slides.pptx", None, "is no folder"),
    ("slides.pptx", "gone.md", "cannot be read: No such file"),
    ("slides.pptx", "latin.md", "no text in UTF-8"),
  ],
)
def test_what_cannot_be_used_is_one_line(runs, tmp_path, file, notes, said):
  (tmp_path / "latin.md").write_bytes("é".encode("latin-1"))
  with pytest.raises(UserError, match=said):
    write_slides(runs["three"], tmp_path / file, "en", notes and tmp_path / notes)
  assert [entry.name for entry in tmp_path.iterdir()] == ["latin.md"]
