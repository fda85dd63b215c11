"""The architecture of a network as a drawing (H2.10.1), made from its traced summary."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from dlcourse.models.trace import Layer, Shape
from dlcourse.report.figures import new_figure, shortened
from dlcourse.report.layers import Group, grouped

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

MANY = 16  # boxes of a network; with more layers its blocks are drawn, then its stages
# All lengths are inches.
WIDTH = 11.0  # of the page
SIDE, THICK, BAR = 1.3, 0.5, 0.14  # of the largest map, of the most channels, of a vector
OBLIQUE = 0.3  # how far a map goes back, up and to the right, of its side
GAP, MARGIN = 0.26, 0.15  # between columns, around the page
FONT = 7.5  # points
LETTER, LINE = 0.62 * FONT / 72, 1.3 * FONT / 72  # about what a letter and a line take
LABEL = 18  # letters of a line
KEY = 1.15  # of a colour in the legend
CAPTION = "below each box: name, shape of the output, parameters; arrows: the order of work"

# What a layer does, its colour and a part of the name of its class; the first that is found holds.
KINDS = (
  ("pooling", "#d65f5f", ("Pool", "Subsample")),
  ("norm", "#bdbdbd", ("Norm",)),
  ("recurrent", "#956cb4", ("LSTM", "GRU", "RNN", "Cell")),
  ("attention", "#d684bd", ("Attention",)),
  ("embedding", "#82c6e2", ("Embed",)),
  ("convolution", "#4878d0", ("Conv",)),
  ("dense", "#6acc64", ("Dense",)),
)
BLOCK, INPUT, OTHER = ("block of layers", "#ee854a"), ("input", "#eeeeee"), ("other", "#8c613c")


class _Box(NamedTuple):
  """A group as it is drawn: input and output shape, meaning and colour, label."""

  source: Shape
  shape: Shape
  look: tuple[str, str]
  lines: tuple[str, ...]


class _Scale(NamedTuple):
  """The largest of what is drawn: side of a map, channels, units of a vector, length of a sequence."""

  side: int
  channels: int
  units: int
  length: int


def architecture(layers: Sequence[Layer]) -> Figure:
  """The layers from left to right, each network on rows of its own.

  Maps are blocks whose side and thickness tell their size and channels, vectors are bars and sequences sheets,
  on a scale that is compressed: else nothing but the first maps would be seen. A norm is a part of the layer it
  follows, and layers that take the same input stand one above the other. What stays long is drawn by blocks or
  by stages, see `grouped`.

  Args:
    layers: of one or several networks, as `summarise` gives them.
  """
  rows: list[tuple[str, list[list[_Box]]]] = []
  for network in dict.fromkeys(layer.network for layer in layers):
    boxes = _boxes([layer for layer in layers if layer.network == network])
    titles = [network] + [""] * len(boxes)
    rows += zip(titles, _wrapped(_columns(boxes), _scale(boxes)), strict=False)
  return _drawn(rows, _scale([box for _, row in rows for column in row for box in column]))


def _boxes(layers: Sequence[Layer]) -> list[_Box]:
  groups: list[tuple[Group, int]] = []
  for group in grouped(layers, MANY):
    if groups and _is_norm(group):
      last, parameters = groups[-1]
      groups[-1] = (last, parameters + group.parameters)
    else:
      groups.append((group, group.parameters))
  start = layers[0].input
  return [_Box((), start, INPUT, ("input", _text(start)))] + [_box(*pair) for pair in groups]


def _is_norm(group: Group) -> bool:
  return len(group.layers) == 1 and "Norm" in group.kind and group.input == group.output


def _box(group: Group, parameters: int) -> _Box:
  name = group.name.removeprefix(f"{group.network}/")
  several = f"{shortened(group.kind, LABEL - 2)} × {group.blocks}"
  lines = [*_name_lines(name), *([several] if group.blocks > 1 else []), _text(group.output)]
  return _Box(group.input, group.output, _look(group), (*lines, f"{parameters:,}" if parameters else ""))


def _name_lines(name: str) -> list[str]:
  """A path on at most two lines, broken between its words."""
  if len(name) <= LABEL:
    return [shortened(name, LABEL)]
  words = name.replace("/", "/ ").replace("_", "_ ")
  lines = [line.replace(" ", "") for line in textwrap.wrap(words, LABEL)]
  if len(lines) > 2:
    lines = [lines[0], "…" + "".join(lines[1:])[-LABEL + 1 :]]
  return [shortened(line, LABEL) for line in lines]


def _text(shape: Shape) -> str:
  return " × ".join(map(str, shape)) if shape else "1"


def _look(group: Group) -> tuple[str, str]:
  working = [layer for layer in group.layers if "Norm" not in layer.kind] or group.layers
  if len(working) > 1 and any(layer.kind != layer.block for layer in working):
    return BLOCK
  kind = working[0].kind
  found = ((what, colour) for what, colour, parts in KINDS if any(part in kind for part in parts))
  return next(found, OTHER)


def _columns(boxes: Sequence[_Box]) -> list[list[_Box]]:
  """A box each, but those that take what the one before took, and not what it gave, join it."""
  columns: list[list[_Box]] = []
  for box in boxes:
    last = columns[-1][-1] if columns else None
    if last and box.source == last.source != last.shape:
      columns[-1].append(box)
    else:
      columns.append([box])
  return columns


def _scale(boxes: Sequence[_Box]) -> _Scale:
  shapes = [box.shape for box in boxes]
  return _Scale(
    side=max((max(shape[-3:-1]) for shape in shapes if len(shape) > 2), default=1),
    channels=max((shape[-1] for shape in shapes if len(shape) > 2), default=1),
    units=max((shape[-1] for shape in shapes if 0 < len(shape) <= 2), default=1),
    length=max((shape[0] for shape in shapes if len(shape) == 2), default=1),
  )


def _measures(shape: Shape, scale: _Scale) -> tuple[float, float, float]:
  """Width, height and depth of a box."""
  if len(shape) > 2:
    height = max(0.08, SIDE * (max(shape[-3:-1]) / scale.side) ** 0.6)
    return max(0.05, THICK * (shape[-1] / scale.channels) ** 0.5), height, OBLIQUE * height
  units = shape[-1] if shape else 1
  height = max(0.08, SIDE * math.log(units + 1) / math.log(scale.units + 1))
  return (max(0.2, 2 * THICK * (shape[0] / scale.length) ** 0.5) if len(shape) == 2 else BAR), height, 0.05


def _width(column: Sequence[_Box], scale: _Scale) -> float:
  """Of the boxes and of their labels."""
  boxes = (width + depth for width, _, depth in (_measures(box.shape, scale) for box in column))
  return max(*boxes, *(LETTER * len(line) for box in column for line in box.lines))


def _wrapped(columns: Sequence[list[_Box]], scale: _Scale) -> list[list[list[_Box]]]:
  """Rows that fit on the page, about equally long."""
  widths = [_width(column, scale) + GAP for column in columns]
  count = math.ceil(sum(widths) / (WIDTH - 2 * MARGIN))
  rows: list[list[list[_Box]]] = [[]]
  room = WIDTH - 2 * MARGIN
  share, used, done = sum(widths) / count, 0.0, 0.0
  for column, width in zip(columns, widths, strict=True):
    if rows[-1] and (used + width > room or done + width / 2 > len(rows) * share):
      rows.append([])
      used = 0.0
    rows[-1].append(column)
    used, done = used + width, done + width
  return rows


def _tall(box: _Box, scale: _Scale) -> float:
  _, height, depth = _measures(box.shape, scale)
  return height + depth


def _under(boxes: Sequence[_Box]) -> float:
  """What their labels take below them."""
  return LINE * (max(len(box.lines) for box in boxes) + 1)


def _stacked(column: Sequence[_Box], scale: _Scale) -> float:
  """Of boxes with their labels, one below the other."""
  return sum(_tall(box, scale) + _under([box]) for box in column)


def _row_height(row: Sequence[list[_Box]], scale: _Scale) -> float:
  label = _under([box for column in row for box in column])
  return max(_tall(column[0], scale) + label if len(column) == 1 else _stacked(column, scale) for column in row)


def _drawn(rows: Sequence[tuple[str, list[list[_Box]]]], scale: _Scale) -> Figure:
  looks = dict.fromkeys(box.look for _, row in rows for column in row for box in column if box.look != INPUT)
  heads = [4 * LINE if title else LINE for title, _ in rows]
  heights = [_row_height(row, scale) for _, row in rows]
  widths = [sum(_width(column, scale) + GAP for column in row) for _, row in rows]
  width = 2 * MARGIN + max(*widths, KEY * len(looks), LETTER * len(CAPTION))
  total = sum(heads) + sum(heights) + 2 * MARGIN + 3 * LINE
  figure = new_figure(width, total, layout=None)
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(0, width), ylim=(0, total))
  axes.set_axis_off()
  top = total - MARGIN
  for (title, row), head, height in zip(rows, heads, heights, strict=True):
    axes.text(MARGIN, top - LINE, shortened(title, 60), fontsize=FONT + 2, weight="bold", va="top")
    _draw_row(axes, row, scale, top - head, top - head - height)
    top -= head + height
  _legend(axes, list(looks))
  return figure


def _draw_row(axes: Axes, row: Sequence[list[_Box]], scale: _Scale, top: float, bottom: float) -> None:
  """Single boxes stand with their middle on one line and their labels on another."""
  floor = bottom + _under([box for column in row for box in column])
  left, before = MARGIN, []
  for column in row:
    across = _width(column, scale)
    centre, ends = left + across / 2, []
    ceiling = (top + bottom + _stacked(column, scale)) / 2
    for box in column:
      height = _tall(box, scale)
      middle = (top + floor) / 2 if len(column) == 1 else ceiling - height / 2
      under = floor if len(column) == 1 else ceiling - height
      ends.append(_draw_box(axes, box, scale, centre, middle, under))
      ceiling -= height + _under([box])
    for _, *start in before:
      for end, _, y in ends:
        _arrow(axes, tuple(start), left - GAP / 2, (end, y))
    left, before = left + across + GAP, ends


def _arrow(axes: Axes, start: tuple[float, float], turn: float, end: tuple[float, float]) -> None:
  """A line with a corner between two columns, so that it crosses no label."""
  style = {"color": "0.4", "linewidth": 0.8}
  if start[1] != end[1]:
    axes.plot([start[0], turn, turn], [start[1], start[1], end[1]], **style)
    start = (turn, end[1])
  axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "shrinkA": 0, "shrinkB": 1, **style})


def _draw_box(
  axes: Axes, box: _Box, scale: _Scale, centre: float, middle: float, label: float
) -> tuple[float, float, float]:
  """A box around a point, its label from some height down; returns its left and right end and its middle."""
  from matplotlib.colors import to_rgb
  from matplotlib.patches import Polygon

  width, height, depth = _measures(box.shape, scale)
  x, y = centre - (width + depth) / 2, middle - (height + depth) / 2
  front = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
  (a, b), (c, d) = front[2], front[3]
  lid = [(c, d), (a, b), (a + depth, b + depth), (c + depth, d + depth)]
  flank = [(x + width, y), (a, b), (a + depth, b + depth), (x + width + depth, y + depth)]
  for corners, light in ((front, 1.0), (lid, 1.15), (flank, 0.8)):
    colour = [min(1.0, light * part) for part in to_rgb(box.look[1])]
    axes.add_patch(Polygon(corners, facecolor=colour, edgecolor="0.25", linewidth=0.6, joinstyle="round"))
  text = "\n".join(box.lines)
  axes.text(centre, label - LINE / 2, text, ha="center", va="top", fontsize=FONT, linespacing=1.2)
  return x, x + width + depth, middle


def _legend(axes: Axes, looks: Sequence[tuple[str, str]]) -> None:
  """What the colours and the labels mean, on the bottom lines."""
  from matplotlib.patches import Rectangle

  for number, (what, colour) in enumerate(looks):
    x = MARGIN + KEY * number
    axes.add_patch(Rectangle((x, MARGIN), 0.12, 0.1, facecolor=colour, edgecolor="0.25", linewidth=0.6))
    axes.text(x + 0.17, MARGIN + 0.05, what, fontsize=FONT, va="center")
  axes.text(MARGIN, MARGIN + 1.5 * LINE, CAPTION, fontsize=FONT, color="0.4")
