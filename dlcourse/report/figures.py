"""The figures of a report. Each function returns a matplotlib figure; none touches global state."""

from __future__ import annotations

import math
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

GREY, BEST = "0.5", "tab:red"
LONG_NAME = 24  # symbols of a class name, at most
WIDE = 16  # ratio of the largest to the smallest x from which on the axis is logarithmic
MANY_CURVES = 10  # as many as there are colours and places in a legend
LAST_OF_EUROPE = 0x058F  # code point: Latin, Greek, Cyrillic, Armenian
FONTS = (  # with the letters of other continents: of Linux, Windows and macOS
  *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Droid Sans Fallback", "IPAGothic"),
  *("Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "Leelawadee UI"),
  *("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Arial Unicode MS"),
  *("Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Noto Sans Ethiopic"),
)
GRID_SIDE = 400  # pixels of the shorter side of a saved grid, at least


def new_figure(width: float, height: float, layout: str | None = "constrained") -> Figure:
  """An empty figure, in inches. Matplotlib is imported here: it takes a second that training need not wait."""
  from matplotlib.figure import Figure

  return Figure(figsize=(width, height), layout=layout)


def use_every_font(figure: Figure) -> None:
  """Lets texts with letters that Matplotlib's own font lacks take them from a font of this machine."""
  from matplotlib import font_manager
  from matplotlib.text import Text

  texts = [
    text for text in figure.findobj(Text) if any(ord(letter) > LAST_OF_EUROPE for letter in text.get_text())
  ]
  if texts:
    here = set(font_manager.get_font_names())
    more = [name for name in FONTS if name in here]
    for text in texts:
      text.set_fontfamily([*text.get_fontfamily(), *more])


def learning_curves(rows: Sequence[Mapping[str, float]], names: Sequence[str], best_step: int | None) -> Figure:
  """One panel a metric, a line a split, the best step marked.

  Args:
    rows: lines of `metrics.jsonl`.
    names: the metrics to draw.
    best_step: marked by a vertical line where given.
  """
  figure = new_figure(5.2 * len(names), 3.6)
  for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
    for split in ("train", "validation"):
      points = [(row["step"], row[name]) for row in rows if row["split"] == split and name in row]
      if points:
        style = "o-" if split == "validation" or len(points) == 1 else "-"  # a line of one point is invisible
        axes.plot(*zip(*points, strict=True), style, label=split, markersize=3, linewidth=1.2)
    if best_step is not None:
      axes.axvline(best_step, color=BEST, linestyle="--", linewidth=1, label=f"best, step {best_step}")
    axes.set(xlabel="step", ylabel=name)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
  return figure


def line_figure(lines: Mapping[str, Mapping[float, Sequence[float]]], xlabel: str, ylabel: str) -> Figure:
  """One line a name through the means at each x, with every single value as a dot.

  Args:
    lines: name -> {x: values}.
    xlabel: of the axis.
    ylabel: of the axis.
  """
  figure = new_figure(5.5, 4.0)
  axes = figure.subplots()
  for name, points in lines.items():
    at = sorted(points)
    (line,) = axes.plot(at, [np.mean(points[x]) for x in at], label=shortened(name, LONG_NAME), linewidth=1.4)
    dots = [(x, value) for x in at for value in points[x]]
    axes.plot(*zip(*dots, strict=True), "o", color=line.get_color(), markersize=4)
  axes.set(xlabel=xlabel, ylabel=ylabel)
  ticks = sorted({x for points in lines.values() for x in points})
  if min(ticks, default=0) > 0 and max(ticks) >= WIDE * min(ticks):
    axes.set_xscale("log", base=2)
  axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
  axes.minorticks_off()
  axes.grid(alpha=0.3)
  axes.legend(frameon=False)
  return figure


def shortened(name: str, length: int) -> str:
  """A name that takes at most this many symbols, none of which matplotlib reads as mathematics or as hidden."""
  name = name if len(name) <= length else f"{name[: length - 1]}…"
  return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def confusion_figure(counts: np.ndarray, classes: Sequence[str], normalised: bool = False) -> Figure:
  """counts [C, C] (rows: labels) coloured by the share of their row, with the counts or percentages in them."""
  share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  classes = [shortened(name, LONG_NAME) for name in classes]
  longest = max(map(len, classes))
  side = max(4.0, 0.5 * len(classes) + 1.5) + 0.06 * longest
  figure = new_figure(side + 0.8, side)
  axes = figure.subplots()
  image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
  figure.colorbar(image, ax=axes, shrink=0.8, label="share of the label" + " (in %)" * normalised)
  ticks = np.arange(len(classes))
  axes.set(xlabel="prediction", ylabel="label")
  slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
  axes.set_xticks(ticks, classes, **(slanted if longest > 3 else {}))
  axes.set_yticks(ticks, classes)
  if len(classes) <= 25:
    for i, j in zip(*np.nonzero(counts), strict=True):
      colour = "white" if share[i, j] > 0.5 else "black"
      said = f"{100 * share[i, j]:.0f}" if normalised else str(counts[i, j])
      axes.text(j, i, said, ha="center", va="center", color=colour, fontsize=8)
  return figure


def roc_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]]) -> Figure:
  """One curve a class; of many, the legend names those with the least area and the others are grey.

  Args:
    curves: name -> (false positive rate, true positive rate, area).
  """
  figure = new_figure(5.5, 4.5)
  axes = figure.subplots()
  axes.set(xlabel="false positive rate", ylabel="true positive rate")
  _draw_classes(axes, curves, "area", {"loc": "lower right"})
  axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
  return figure


def precision_recall_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]]) -> Figure:
  """The same of precision and recall.

  Args:
    curves: name -> (recall, precision, average precision).
  """
  figure = new_figure(7.5, 4.5)
  axes = figure.subplots()
  axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
  beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}  # there is no corner without a curve
  _draw_classes(axes, curves, "average precision", beside)
  return figure


def _draw_classes(
  axes: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]], area: str, place: Mapping[str, Any]
) -> None:
  least = sorted(curves, key=lambda name: curves[name][2])[:MANY_CURVES]
  for name, (x, y, value) in curves.items():
    if name in least:
      axes.plot(x, y, label=f"{shortened(name, LONG_NAME)} ({value:.4f})", linewidth=1.2)
    else:
      axes.plot(x, y, color=GREY, alpha=0.4, linewidth=0.8, zorder=1)
  axes.grid(alpha=0.3)
  title = f"class ({area})" if len(curves) <= MANY_CURVES else f"class ({area}), {MANY_CURVES} lowest"
  axes.legend(title=title, framealpha=0.8, edgecolor="none", fontsize=8, **place)


def labelled_images(images: np.ndarray, titles: Sequence[str], columns: int = 6) -> Figure:
  """uint8 images [N, H, W, C], each under its title."""
  rows = -(-len(images) // columns)
  figure = new_figure(1.6 * columns, 2.05 * rows)
  for index, axes in enumerate(np.atleast_1d(figure.subplots(rows, columns)).flat):
    axes.set_axis_off()
    if index < len(images):
      axes.imshow(images[index].squeeze(), cmap="gray", vmin=0, vmax=255)
      axes.set_title(titles[index], fontsize=8)
  return figure


def labelled_series(series: Sequence[np.ndarray], titles: Sequence[str], columns: int = 4) -> Figure:
  """Sequences [T, D], a line a channel, each under its title."""
  rows = -(-len(series) // columns)
  figure = new_figure(2.4 * columns, 1.7 * rows)
  for index, axes in enumerate(np.atleast_1d(figure.subplots(rows, columns)).flat):
    if index >= len(series):
      axes.set_axis_off()
      continue
    axes.plot(series[index], linewidth=0.9)
    axes.tick_params(labelsize=6)
    axes.set_title(" ".join(titles[index].split()), fontsize=8)
  return figure


def eight_bit(images: np.ndarray) -> np.ndarray:
  """Images in [0, 1] as a picture file keeps them: the nearest of 256 levels, uint8."""
  return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def tile(images: np.ndarray, columns: int) -> np.ndarray:
  """Images [N, H, W, C] in [0, 1] -> one uint8 picture with a one-pixel frame around each."""
  images = np.pad(eight_bit(images), ((0, -len(images) % columns), (1, 1), (1, 1), (0, 0)), constant_values=64)
  count, height, width, channels = images.shape
  grid = images.reshape(count // columns, columns, height, width, channels)
  return grid.swapaxes(1, 2).reshape(count // columns * height, columns * width, channels)


def grid_columns(count: int) -> int:
  """How many of `count` images stand in a row: about the square root, without empty places if that can be."""
  root = math.isqrt(count - 1) + 1  # rounded up
  return next((columns for columns in range(root, 2 * root) if count % columns == 0), root)


def image_grid(images: np.ndarray, columns: int | None = None) -> Figure:
  """Images [N, H, W, C] in [0, 1], `columns` a row."""
  picture = tile(images, min(columns or grid_columns(len(images)), len(images)))
  height, width = picture.shape[:2]
  figure = new_figure(6, 6 * height / width, layout=None)
  axes = figure.add_axes((0, 0, 1, 1))
  axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
  axes.set_axis_off()
  return figure


def save_image_grid(
  images: np.ndarray, folder: pathlib.Path, texts: Mapping[str, str] | None = None
) -> list[pathlib.Path]:
  """Writes `grid.png`, enlarged to be seen, and one PNG an image at its own size; returns the files.

  Args:
    images: [N, H, W, C] in [0, 1].
    folder: where to.
    texts: keyword -> text, which each file carries as metadata.
  """
  files = [folder / "grid.png", *(folder / f"{index:04d}.png" for index in range(len(images)))]
  grid = tile(images, grid_columns(len(images)))
  times = -(-GRID_SIDE // min(grid.shape[:2]))
  pictures = [grid.repeat(times, axis=0).repeat(times, axis=1)]
  pictures += [*eight_bit(images)]
  metadata = PngInfo()
  for keyword, text in (texts or {}).items():
    metadata.add_text(keyword, text)
  for file, picture in zip(files, pictures, strict=True):
    image = Image.fromarray(picture.squeeze(axis=-1) if picture.shape[-1] == 1 else picture)
    image.save(file, pnginfo=metadata)
  return files


def text_page(texts: Sequence[str]) -> Figure:
  """Texts below each other in a fixed-width font, long lines wrapped."""
  lines = []
  for number, text in enumerate(texts, 1):
    lines.append(f"── {number} " + "─" * 66)
    for line in text.splitlines():
      lines += textwrap.wrap(line, 72, drop_whitespace=False) or [""]
  figure = new_figure(7, 0.145 * len(lines) + 0.3, layout=None)
  page = "\n".join(lines).replace("$", r"\$")
  figure.text(0.02, 0.98, page, family="monospace", fontsize=8.5, va="top")
  return figure
