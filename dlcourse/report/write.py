"""Writes the folder `report/` of a workdir: PNG for people, JSON for programs."""

import math
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from dlcourse.data.recipe import Data
from dlcourse.evaluators import Report
from dlcourse.experiment import Best
from dlcourse.models.trace import Layer
from dlcourse.progress import HEADLINES
from dlcourse.report.drawing import architecture
from dlcourse.report.figures import learning_curves, use_every_font
from dlcourse.report.layers import NOTE, summary_rows
from dlcourse.workdir import write_json

PyTree = Any


def parameter_table(params: PyTree) -> list[dict[str, Any]]:
  """One row an array: path, shape, count; from arrays or from their shapes."""
  return [
    {
      "path": jax.tree_util.keystr(path, simple=True, separator="/"),
      "shape": list(leaf.shape),
      "count": int(np.prod(leaf.shape)),
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  ]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Rows as a Markdown table; columns are their keys, a missing value is an empty cell."""
  columns = list(dict.fromkeys(name for row in rows for name in row))
  cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
  lines = [columns, ["---"] * len(columns), *cells]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
  if isinstance(value, float):
    return f"{value:.4g}" if math.isfinite(value) else ""
  return str(value)


def save(report: Report, folder: pathlib.Path) -> None:
  """Figures as NAME.png, tables as NAME.json."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, figure in report.figures.items():
    use_every_font(figure)
    with warnings.catch_warnings(record=True) as said:
      figure.savefig(folder / f"{name}.png", dpi=130, bbox_inches="tight")
    lacking = [one for one in said if str(one.message).startswith("Glyph")]  # once a letter
    if lacking:
      logging.warning(
        "%s shows boxes for %d letters, which no font here has; one with many is Noto Sans (CJK)",
        folder / f"{name}.png",
        len(lacking),
      )
    for one in (one for one in said if one not in lacking):
      warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
  for name, rows in report.tables.items():
    write_json(folder / f"{name}.json", rows)


def write_report(
  path: pathlib.Path,
  rows: Sequence[Mapping[str, Any]],
  result: Mapping[str, Any],
  reports: Mapping[str, Report],
  params: PyTree,
  layers: Sequence[Layer],
  best: Best,
  data: Data,
) -> None:
  """Writes curves, a drawing and a table of the layers, every evaluator's report and an index in Markdown.

  What the index of an earlier report lists and this one does not write is removed.

  Args:
    path: the workdir.
    rows: of `metrics.jsonl`.
    result: what `result.json` will hold.
    reports: evaluator's name -> what it said.
    params: of the state that was evaluated.
    layers: the summary of the networks.
    best: of the experiment.
    data: of the experiment.
  """
  folder = path / "report"
  names = curve_names(rows, best)
  best_step = result["best_step"] if best.metric else None
  curves = {"learning_curves": learning_curves(rows, names, best_step)} if names else {}
  own = Report(
    tables={"parameters": parameter_table(params), "summary": [layer._asdict() for layer in layers]},
    figures=curves | {"architecture": architecture(layers)},
  )
  every = [own, *reports.values()]
  listed = [f"![{name}]({name}.png)" for report in every for name in report.figures]
  listed += [f"- [{name}]({name}.json)" for report in every for name in report.tables]
  listed = [*dict.fromkeys(listed)]  # several scores may show the same answers
  index = folder / "index.md"
  for name in _listed(index.read_text(encoding="utf-8", errors="replace")) if index.exists() else ():
    (folder / name).unlink(missing_ok=True)
  for report in every:
    save(report, folder)
  index.write_text(_index(result, data, layers, listed), encoding="utf-8")


def curve_names(rows: Sequence[Mapping[str, Any]], best: Best) -> list[str]:
  """The headlines that were logged and the metric that chooses the checkpoint, none the negative of another.

  Args:
    rows: of `metrics.jsonl`.
    best: of the experiment.
  """
  logged = {name for row in rows for name in row}
  names: list[str] = []
  for name in dict.fromkeys((*HEADLINES, best.metric)):
    if name in logged and not any(_mirrored(rows, name, other) for other in names):
      names.append(name)
  return names


def _mirrored(rows: Sequence[Mapping[str, Any]], name: str, other: str) -> bool:
  """Whether one metric is the negative of another, as a VAE's ELBO is of its loss where β = 1."""
  pairs = [(row.get(name, np.nan), row.get(other, np.nan)) for row in rows if name in row or other in row]
  return all(np.isclose(x, -y, rtol=1e-5, atol=0) for x, y in pairs)


def _listed(index: str) -> list[str]:
  """The files beside an index that it lists."""
  found = re.findall(r"^(?:!|- )\[([^/]+)\]\((\1\.(?:png|json))\)$", index, re.MULTILINE)
  return [file for _, file in found]


def _index(result: Mapping[str, Any], data: Data, layers: Sequence[Layer], listed: Sequence[str]) -> str:
  device = result["devices"]
  lines = [
    f"# {result['experiment']}",
    "",
    " ".join(["Overrides:", *(f"`{o}`" for o in result["overrides"])]) if result["overrides"] else "",
    f"Seed {result['seed']}, {result['steps']} steps, {result['seconds']:.0f} s on {device['count']} × "
    f"{device['kind']}; evaluated at step {result['best_step']}.{_work(result)}{_energy(result)}",
    "",
    "## Test",
    "",
    "| test | value |",
    "| --- | ---: |",
    *(f"| {name} | {value:.6g} |" for name, value in result["test"].items()),
    "",
    "## Data",
    "",
    " ".join(data.description.split()),
    "",
    f"| split | {'symbols' if 'reset' in data.spec.batch else 'examples'} |",
    "| --- | ---: |",
    *(f"| {split} | {size:,} |" for split, size in data.sizes.items()),
    "",
    "## Layers",
    "",
    *_layer_lines(summary_rows(layers)),
    "",
    NOTE,
    "",
    "## Figures and tables",
    "",
    *(line + "\n" if line.startswith("!") else line for line in listed),
    "",
  ]
  return "\n".join(lines)


def _work(result: Mapping[str, Any]) -> str:
  """What a step multiplies, and how well that uses the devices, as far as it is known."""
  used = f", {result['mfu']:.1%} of the devices' peak (MFU)" if "mfu" in result else ""
  return f" A step is {result['step_flops']:.3g} FLOPs{used}." if "step_flops" in result else ""


def _energy(result: Mapping[str, Any]) -> str:
  """What the training took from the grid, if it is as assumed."""
  said = result["energy"]
  return f" About {said['wh']:.2g} Wh and {said['co2_g']:.2g} g of CO2 ({said['assumed']})."


def _layer_lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
  """The summary as a Markdown table with its numbers on the right and its sums in bold."""
  columns = list(rows[0])
  rules = ["---"] * 3 + ["---:"] * (len(columns) - 3)
  sums = [f"**{text}**" if text else "" for text in rows[-1].values()]
  return [f"| {' | '.join(cells)} |" for cells in (columns, rules, *(row.values() for row in rows[:-1]), sums)]
