"""What slides are made of: bullets, tables, charts and pictures, each measured so that it stays in its place.

All lengths are inches, sizes of letters points.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NamedTuple

from PIL import Image
from pptx import Presentation
from pptx.chart.chart import Chart
from pptx.chart.data import CategoryChartData, XyChartData
from pptx.dml.color import RGBColor
from pptx.enum.chart import XL_CHART_TYPE, XL_LEGEND_POSITION
from pptx.enum.dml import MSO_LINE_DASH_STYLE
from pptx.enum.text import MSO_ANCHOR, MSO_AUTO_SIZE, PP_ALIGN
from pptx.presentation import Presentation as Deck
from pptx.shapes.base import BaseShape
from pptx.slide import Slide
from pptx.table import Table, _Cell
from pptx.text.text import TextFrame
from pptx.util import Inches, Pt

from dlcourse.slides.measure import LINE, clipped, text_width, wrapped

WIDTH, HEIGHT = 13.333, 7.5  # 16:9
TITLE_SIZE, BODY_SIZES, TABLE_SIZES, CHART_SIZE = 32, (24, 22, 20, 18), (18, 16, 14, 12), 14
BLUE, ORANGE, GREY, INK = (RGBColor.from_string(code) for code in ("1F4E9E", "D9701B", "7F7F7F", "1A1A2E"))
_DARK = 0.5  # share from which on a shaded cell has white letters
_GAP = 6  # points between paragraphs
_INSET, _INDENT = 0.2, (0.375, 0.8125)  # of a box: left and right; of bullets on their two levels
_CELL = 0.16, 0.1  # what a cell takes beside its text: across, down
_TITLE_ONLY, _WITH_BODY, _TITLE = 5, 1, 0  # layouts of the template of python-pptx


class Box(NamedTuple):
  """A place on a slide."""

  left: float
  top: float
  width: float
  height: float


class Bullet(NamedTuple):
  """A paragraph; level 0 or 1."""

  text: str
  level: int = 0
  bold: bool = False


BODY = Box(0.6, 1.4, 12.13, 5.6)
_HEAD = Box(0.6, 0.4, 12.13, 0.8)


def new_deck(title: str) -> Deck:
  """An empty presentation, 16:9, whose layouts are placed for that."""
  deck = Presentation()
  deck.slide_width, deck.slide_height = Inches(WIDTH), Inches(HEIGHT)
  deck.core_properties.title, deck.core_properties.author = title, ""
  for number in (_TITLE_ONLY, _WITH_BODY):
    layout = deck.slide_layouts[number].placeholders
    _place(layout[0], _HEAD)
  _place(deck.slide_layouts[_WITH_BODY].placeholders[1], BODY)
  return deck


def _place(shape: BaseShape, box: Box) -> None:
  shape.left, shape.top, shape.width, shape.height = map(Inches, box)


def add_title(deck: Deck, title: str, lines: Sequence[str]) -> Slide:
  """The first slide."""
  slide = deck.slides.add_slide(deck.slide_layouts[_TITLE])
  for shape, box in zip(
    slide.placeholders, (Box(0.8, 1.9, 11.73, 1.9), Box(0.8, 4.0, 11.73, 2.2)), strict=True
  ):
    _place(shape, box)
  size = next(n for n in (44, 36, 28) if n == 28 or len(wrapped(title, 11.5, n)) <= 2)
  _write(slide.shapes.title.text_frame, [Bullet(title, bold=True)], size, BLUE)
  _write(slide.placeholders[1].text_frame, [Bullet(clipped(line, 11.5, 22)) for line in lines], 22, INK)
  return slide


def add_slide(deck: Deck, title: str, bullets: Sequence[Bullet] = (), box: Box = BODY) -> Slide:
  """A slide with its title, and bullets in a box; they have to fit, see `pages`."""
  slide = deck.slides.add_slide(deck.slide_layouts[_WITH_BODY if bullets else _TITLE_ONLY])
  frame = slide.shapes.title.text_frame
  _place(slide.shapes.title, _HEAD)
  _write(frame, [Bullet(clipped(title, _HEAD.width - _INSET, TITLE_SIZE), bold=True)], TITLE_SIZE, BLUE)
  frame.vertical_anchor, frame.paragraphs[0].alignment = MSO_ANCHOR.MIDDLE, PP_ALIGN.LEFT
  if bullets:
    size = next((n for n in BODY_SIZES if bullets_height(bullets, box.width, n) <= box.height), BODY_SIZES[-1])
    _place(slide.placeholders[1], box)
    _write(slide.placeholders[1].text_frame, bullets, size, INK)
  return slide


def _write(frame: TextFrame, bullets: Sequence[Bullet], size: float, colour: RGBColor) -> None:
  frame.auto_size, frame.word_wrap = MSO_AUTO_SIZE.NONE, True
  for number, bullet in enumerate(bullets):
    paragraph = frame.add_paragraph() if number else frame.paragraphs[0]
    paragraph.level, paragraph.space_before, paragraph.line_spacing = bullet.level, Pt(_GAP), 1.0
    run = paragraph.add_run()
    run.text, run.font.size, run.font.bold = bullet.text, Pt(size), bullet.bold
    run.font.color.rgb = colour


def bullets_height(bullets: Sequence[Bullet], width: float, size: float) -> float:
  """Of a box of that width which holds them."""
  lines = [
    len(wrapped(b.text, width - _INSET - _INDENT[b.level], size * (1.05 if b.bold else 1))) for b in bullets
  ]
  return (sum(lines) * LINE * size + len(bullets) * _GAP) / 72 + 0.1


def pages(groups: Sequence[Sequence[Bullet]], box: Box = BODY) -> list[list[Bullet]]:
  """Bullets as few slides hold them; a group stays together unless it takes more than a slide.

  Args:
    groups: of bullets.
    box: of one slide.
  """
  size, found = BODY_SIZES[-1], [[]]
  parts = [part for group in groups for part in _parts(group, box, size)]
  for part in parts:
    if found[-1] and bullets_height([*found[-1], *part], box.width, size) > box.height:
      found.append([])
    found[-1] += part
  return [page for page in found if page]


def _parts(group: Sequence[Bullet], box: Box, size: float) -> list[list[Bullet]]:
  """A group, or if it is longer than a slide its bullets, of which long ones are several."""
  if bullets_height(group, box.width, size) <= box.height:
    return [list(group)]
  parts = []
  for bullet in group:
    lines = wrapped(bullet.text, box.width - _INSET - _INDENT[bullet.level], size * 1.05)
    most = int((box.height - 0.3) * 72 / size / LINE)
    parts += [[bullet._replace(text=" ".join(lines[n : n + most]))] for n in range(0, len(lines), most)]
  return parts


def put_text(slide: Slide, text: str, box: Box, size: float = BODY_SIZES[-1]) -> None:
  """A line below a figure, with what does not fit left out."""
  frame = slide.shapes.add_textbox(*map(Inches, box)).text_frame
  _write(frame, [Bullet(clipped(text, box.width - _INSET, size))], size, INK)


def put_table(slide: Slide, rows: Sequence[Sequence[str]], box: Box, numbers: int = 1) -> float:
  """A table whose first row is its head, in the largest letters with which it fits; returns its height.

  Of more rows than fit, the last ones are left out, and the row in their place says so.

  Args:
    slide: where.
    rows: texts, all equally many.
    box: its place; it takes the height that it needs.
    numbers: how many columns, from the right, hold numbers.
  """
  most = int(box.height / _row_height(TABLE_SIZES[-1]))
  if len(rows) > most:
    rest = ["…", *[""] * (len(rows[0]) - 1)]
    rows = [*rows[: most - 1], rest]
  fitting = (
    n for n in TABLE_SIZES if len(rows) * _row_height(n) <= box.height and _natural(rows, n) <= box.width
  )
  size = next(fitting, TABLE_SIZES[-1])
  table = _add_table(slide, len(rows), len(rows[0]), box._replace(height=len(rows) * _row_height(size)))
  for column, width in zip(table.columns, _shared(rows, size, box.width), strict=True):
    column.width = Inches(width)
  for i, row in enumerate(rows):
    for j, text in enumerate(row):
      width = table.columns[j].width / Inches(1) - _CELL[0]
      right = j >= len(row) - numbers
      _fill(table.cell(i, j), clipped(text, width, size), size, PP_ALIGN.RIGHT if right else PP_ALIGN.LEFT)
  return len(rows) * _row_height(size)


def _row_height(size: float) -> float:
  return size * LINE / 72 + _CELL[1]


def _widths(rows: Sequence[Sequence[str]], size: float) -> list[float]:
  """Of the columns, if nothing is left out; a head is bold."""
  columns = zip(*rows, strict=True)
  return [
    max(text_width(text, size * (1 if n else 1.08)) for n, text in enumerate(c)) + _CELL[0] for c in columns
  ]


def _natural(rows: Sequence[Sequence[str]], size: float) -> float:
  return sum(_widths(rows, size))


def _shared(rows: Sequence[Sequence[str]], size: float, width: float) -> list[float]:
  """The widths of columns that fill a width; where they are too much, the widest give way."""
  widths = _widths(rows, size)
  if sum(widths) <= width:
    return [own + (width - sum(widths)) / len(widths) for own in widths]
  most = width
  while sum(min(own, most) for own in widths) > width:
    most *= 0.98
  return [min(own, most) for own in widths]


def _add_table(slide: Slide, rows: int, columns: int, box: Box) -> Table:
  table = slide.shapes.add_table(rows, columns, *map(Inches, box)).table
  for row in table.rows:
    row.height = Inches(box.height / rows)
  return table


def _fill(cell: _Cell, text: str, size: float, alignment: PP_ALIGN) -> None:
  cell.margin_left = cell.margin_right = Inches(_CELL[0] / 2)
  cell.margin_top = cell.margin_bottom = Inches(_CELL[1] / 2)
  cell.vertical_anchor = MSO_ANCHOR.MIDDLE
  paragraph = cell.text_frame.paragraphs[0]
  paragraph.alignment = alignment
  run = paragraph.add_run()
  run.text, run.font.size = text, Pt(size)


def put_shaded(
  slide: Slide, corner: str, names: Sequence[str], counts: Sequence[Sequence[int]], box: Box
) -> float:
  """A square table of counts, each shaded by its share of its row; returns its height.

  Args:
    slide: where.
    corner: what is written above the names.
    names: of rows and columns.
    counts: as many rows and columns.
    box: its place.
  """
  count = len(names)
  size = next((n for n in TABLE_SIZES if (count + 1) * _row_height(n) <= box.height), TABLE_SIZES[-1])
  first = min(3.0, max(text_width(text, 1.08 * size) for text in (corner, *names)) + _CELL[0])
  each = min(1.7, (box.width - first) / count)
  tall = min(0.7, max(_row_height(size), box.height / (count + 1)))
  width = first + count * each
  place = Box(box.left + (box.width - width) / 2, box.top, width, (count + 1) * tall)
  table = _add_table(slide, count + 1, count + 1, place)
  table.horz_banding = False
  for number, column in enumerate(table.columns):
    column.width = Inches(each if number else first)
  _fill(table.cell(0, 0), clipped(corner, first - _CELL[0], 1.08 * size), size, PP_ALIGN.LEFT)
  for i, name in enumerate(names, 1):
    _fill(table.cell(0, i), clipped(name, each - _CELL[0], 1.08 * size), size, PP_ALIGN.CENTER)
    _fill(table.cell(i, 0), clipped(name, first - _CELL[0], size), size, PP_ALIGN.LEFT)
    total = max(1, sum(counts[i - 1]))
    for j, number in enumerate(counts[i - 1], 1):
      cell = table.cell(i, j)
      _fill(cell, str(number), size, PP_ALIGN.CENTER)
      _shade(cell, number / total, right=i == j)
  return place.height


def _shade(cell: _Cell, share: float, right: bool) -> None:
  """Blue on the diagonal, red beside it."""
  full = (0x1F, 0x4E, 0x9E) if right else (0xC0, 0x39, 0x2B)
  cell.fill.solid()
  cell.fill.fore_color.rgb = RGBColor(*(round(255 + share * (part - 255)) for part in full))
  dark = share > _DARK
  cell.text_frame.paragraphs[0].runs[0].font.color.rgb = RGBColor(255, 255, 255) if dark else INK


def put_picture(slide: Slide, file: pathlib.Path | BinaryIO, box: Box, words: str, shown: float = 1.0) -> None:
  """A picture in the middle of a box, as large as fits.

  Args:
    slide: where.
    file: of it.
    box: its place.
    words: what it shows, for those who cannot see it.
    shown: which share of it, from the top; the rest is cropped, and can be had back in PowerPoint.
  """
  with Image.open(file) as image:
    width, height = image.width, image.height * shown
  scale = min(box.width / width, box.height / height)
  left = box.left + (box.width - scale * width) / 2
  top = box.top + (box.height - scale * height) / 2
  places = map(Inches, (left, top, scale * width, scale * height))
  picture = slide.shapes.add_picture(str(file) if isinstance(file, pathlib.Path) else file, *places)
  picture.crop_bottom = 1 - shown
  _describe(picture, words)


def _describe(shape: BaseShape, words: str) -> None:
  shape.element.xpath(".//p:cNvPr")[0].set("descr", words)


def put_lines(
  slide: Slide,
  box: Box,
  title: str,
  lines: Mapping[str, Sequence[tuple[float, float]]],
  xlabel: str,
  share: bool,
) -> None:
  """A chart of lines over steps: the first blue, the second orange, a third grey and dashed.

  Args:
    slide: where.
    box: its place.
    title: above it.
    lines: name -> points.
    xlabel: below it.
    share: whether the values are shares, written as per cent.
  """
  data = XyChartData()
  for name, points in lines.items():
    series = data.add_series(name)
    for x, y in points:
      series.add_data_point(x, y)
  chart = _chart(slide, XL_CHART_TYPE.XY_SCATTER_LINES_NO_MARKERS, data, box, title)
  chart.has_legend = True
  chart.legend.position, chart.legend.include_in_layout = XL_LEGEND_POSITION.BOTTOM, False
  steps = chart.category_axis
  steps.has_title, steps.minimum_scale, steps.has_major_gridlines = True, 0, False
  steps.maximum_scale = max(x for points in lines.values() for x, _ in points)
  _caption(steps.axis_title.text_frame, xlabel, bold=False)
  chart.value_axis.tick_labels.number_format = "0%" if share else "General"
  chart.value_axis.tick_labels.number_format_is_linked = False
  if share:
    chart.value_axis.maximum_scale = 1
  chart.value_axis.major_gridlines.format.line.color.rgb = RGBColor(0xD9, 0xD9, 0xD9)
  for series, colour in zip(chart.plots[0].series, (BLUE, ORANGE, GREY), strict=False):
    series.smooth, series.format.line.color.rgb, series.format.line.width = False, colour, Pt(2.5)
    if colour is GREY:
      series.format.line.dash_style = MSO_LINE_DASH_STYLE.DASH


def put_bars(slide: Slide, box: Box, title: str, values: Mapping[str, float], share: bool) -> None:
  """A chart of horizontal bars, the first on top, each with its value.

  Args:
    slide: where.
    box: its place.
    title: above it.
    values: name -> length.
    share: whether the values are shares, written as per cent.
  """
  data = CategoryChartData()
  data.categories = [clipped(name, box.width / 3, CHART_SIZE) for name in values]
  data.add_series(title, list(values.values()))
  chart = _chart(slide, XL_CHART_TYPE.BAR_CLUSTERED, data, box, title)
  chart.has_legend = False
  chart.category_axis.reverse_order = True
  chart.value_axis.visible, chart.value_axis.has_major_gridlines = False, False
  chart.value_axis.minimum_scale = 0
  plot = chart.plots[0]
  plot.gap_width, plot.has_data_labels = 40, True
  plot.data_labels.number_format = "0.0%" if share else "#,##0"
  plot.data_labels.number_format_is_linked = False
  plot.series[0].format.fill.solid()
  plot.series[0].format.fill.fore_color.rgb = BLUE


def _chart(
  slide: Slide, kind: XL_CHART_TYPE, data: CategoryChartData | XyChartData, box: Box, title: str
) -> Chart:
  frame = slide.shapes.add_chart(kind, *map(Inches, box), data)
  _describe(frame, title)
  chart = frame.chart
  chart.font.size, chart.has_title = Pt(CHART_SIZE), True
  _caption(chart.chart_title.text_frame, title, bold=True)
  return chart


def _caption(frame: TextFrame, text: str, bold: bool) -> None:
  frame.text = text
  font = frame.paragraphs[0].runs[0].font
  font.size, font.bold = Pt(CHART_SIZE + 2 * bold), bold
