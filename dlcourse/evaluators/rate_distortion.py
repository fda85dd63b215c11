"""Bits against distortion: images coded as symbols of a VQ-VAE, beside JPEG, WebP and PNG (H5.4.1)."""

import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from PIL import Image

from dlcourse import symbol_code
from dlcourse.compressed_file import Compressed, packed, surroundings
from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import task_of
from dlcourse.evaluators.compression import mosaic, png_bytes
from dlcourse.evaluators.image_quality import some_images
from dlcourse.experiment import Run
from dlcourse.report.figures import GREY, new_figure
from dlcourse.theory.image_similarity import WINDOW, psnr, ssim
from dlcourse.workdir import read_json

if TYPE_CHECKING:
  from matplotlib.figure import Figure

NAME = "rate_distortion"  # of table and figure
SYMBOLS = "symbols"
QUALITIES = {
  "JPEG": (1, 3, 5, 8, 12, 18, 25, 35, 50, 65, 80, 90, 95),
  "WEBP": (0, 1, 2, 3, 5, 8, 12, 18, 25, 35, 50, 65, 80, 90, 100),
}
TICKS = tuple(x * 10.0**power for power in range(-3, 2) for x in (1, 2, 5))  # bits a pixel

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class RateDistortion(Evaluator):
  """Size and loss of test images as coded symbols, and of one picture of all of them as JPEG, WebP and PNG."""

  images: int = 1_000
  """How many test images are coded; in few of them headers weigh."""

  def __post_init__(self) -> None:
    """Refuses to measure nothing."""
    check_at_least(1, {"evaluators….images": self.images})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """A table and a figure of all points, and scalars that are called SCORE/CODE@N.

    Bits are those of whole files, for each pixel with all its channels; the model is in none. psnr is that of
    all pixels together, in dB, and ssim the mean over the images. Of a format bits_per_pixel is what it needs
    for the psnr of the symbols, and psnr and ssim are what it has at their size, all between two of its
    qualities; a score that would be beyond the smallest or the largest file is left out.

    Raises:
      UserError: the task has no symbols with a prior, or the images are too small.
    """
    if min(data.spec.image_shape[:2]) < WINDOW:
      raise UserError(f"RateDistortion needs images of {WINDOW} x {WINDOW} or more; set --data.size")
    images = some_images(data, "test", self.images)
    code = symbol_code.image_code(symbol_code.networks_of(task_of(task), state, data.spec))
    coded = code.encode(images, iter)
    content = Compressed(
      code.kind, bytes(32), "rate_distortion", surroundings(), images.shape, coded.numbers, coded.words
    )
    made = code.decode(coded.words, coded.numbers, len(images), iter)
    rows = [_point(SYMBOLS, "", len(packed(content)), images, made), *_formats(images)]
    scores = _scores(rows)
    return Report(
      {f"{name}@{len(images)}": value for name, value in scores.items()},
      {NAME: rows},
      {NAME: _figure(rows)},
    )


def compared(results: Sequence[tuple[Run, Mapping[str, Any]]]) -> Report:
  """A `Study.summarise`: the symbols of every run in one table and figure, and the formats of the first run."""
  tables = [_table(pathlib.Path(result["workdir"]) / "report" / f"{NAME}.json") for _, result in results]
  rows = [
    {**row, "code": run.label}
    for (run, _), table in zip(results, tables, strict=True)
    for row in table
    if row["code"] == SYMBOLS
  ]
  rows += [row for row in tables[0] if row["code"] != SYMBOLS]
  return Report(tables={NAME: rows}, figures={NAME: _figure(rows)})


def _table(file: pathlib.Path) -> list[Row]:
  """Of a run; none of one that was told to measure something else."""
  return read_json(file) if file.exists() else []


def _point(code: str, quality: int | str, size: int, images: np.ndarray, made: np.ndarray) -> Row:
  """A row of the table; of images without loss there is no distortion to say."""
  row = {"code": code, "quality": quality, "bytes": size, "bits/pixel": 8 * size / images[..., 0].size}
  if np.array_equal(images, made):
    return row
  pooled = (x.reshape(1, -1, *x.shape[2:]) for x in (made, images))
  return row | {"psnr": float(psnr(*pooled, 255)[0]), "ssim": float(ssim(made, images, 255).mean())}


def _formats(images: np.ndarray) -> list[Row]:
  """A point a quality, and the formats without loss; grey or RGB images."""
  picture = mosaic(images)
  rows = [
    _point(f"{kind} lossless", "", size, images, images)
    for kind, size in (
      ("PNG", png_bytes(picture, 256)),
      ("WEBP", len(_written(picture, "WEBP", {"lossless": True, "quality": 100, "method": 6}))),
    )
  ]
  for kind, qualities in QUALITIES.items():
    further = {"method": 6} if kind == "WEBP" else {"optimize": True}
    for quality in qualities:
      file = _written(picture, kind, {"quality": quality, **further})
      with Image.open(io.BytesIO(file)) as opened:
        made = np.asarray(opened.convert("L" if picture.shape[-1] == 1 else "RGB")).reshape(picture.shape)
      rows.append(_point(kind, quality, len(file), images, unmosaic(made, images.shape)))
  return rows


def unmosaic(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The images of `mosaic`, [N, H, W, C]."""
  count, height, width, channels = shape
  rows, columns = picture.shape[0] // height, picture.shape[1] // width
  grid = picture.reshape(rows, height, columns, width, channels).swapaxes(1, 2)
  return grid.reshape(-1, height, width, channels)[:count]


def _written(picture: np.ndarray, kind: str, options: Mapping[str, Any]) -> bytes:
  file = io.BytesIO()
  Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(file, kind, **options)
  return file.getvalue()


def _scores(rows: Sequence[Row]) -> dict[str, float]:
  """See `RateDistortion`."""
  (ours,) = (row for row in rows if row["code"] == SYMBOLS)
  scores = {"bits_per_pixel/symbols": ours["bits/pixel"]}
  scores |= {f"{name}/symbols": ours[name] for name in ("psnr", "ssim") if name in ours}
  for kind in QUALITIES:
    curve = [row for row in rows if row["code"] == kind and "psnr" in row]
    for x, y in (("psnr", "bits/pixel"), ("bits/pixel", "psnr"), ("bits/pixel", "ssim")):
      value = _between(curve, x, y, ours[x]) if x in ours else None
      if value is not None:
        scores[f"{y.replace('/', '_per_')}/{kind.lower()}"] = value
  return scores


def _between(curve: Sequence[Row], x: str, y: str, at: float) -> float | None:
  """y where x is `at`, on a line through the points; None beyond them."""
  points = sorted((row[x], row[y]) for row in curve)
  xs, ys = (np.array(values) for values in zip(*points, strict=True))
  if not xs[0] <= at <= xs[-1]:
    return None
  logarithmic = y == "bits/pixel"
  return float(np.exp(np.interp(at, xs, np.log(ys))) if logarithmic else np.interp(at, xs, ys))


def _figure(rows: Sequence[Row]) -> "Figure":
  """psnr and ssim over bits; a line a format, a point a code of symbols, what has no loss a vertical line."""
  figure = new_figure(10.0, 4.0)
  for axes, (name, unit) in zip(figure.subplots(1, 2), (("psnr", "PSNR in dB"), ("ssim", "SSIM")), strict=True):
    for code in dict.fromkeys(row["code"] for row in rows):
      own = [row for row in rows if row["code"] == code]
      points = sorted((row["bits/pixel"], row[name]) for row in own if name in row)
      if code in QUALITIES:
        axes.plot(*zip(*points, strict=True), ".-", label=code, linewidth=1.2)
      elif points:
        axes.plot(*zip(*points, strict=True), "*", label=code, markersize=11)
      else:
        style = "--" if code.startswith("PNG") else ":"
        axes.axvline(own[0]["bits/pixel"], color=GREY, linestyle=style, linewidth=1, label=code)
    axes.set(xscale="log", xlabel="bits a pixel", ylabel=unit)
    shown = [x for x in TICKS if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]]
    axes.set_xticks(shown, [f"{x:g}" for x in shown])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
  if rows:
    axes.legend(frameon=False, fontsize=8)
  return figure
