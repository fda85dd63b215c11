"""Writes the folder `report/` of a workdir: PNG for people, JSON for programs."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dlcourse.evaluators import Report
from dlcourse.experiment import Best
from dlcourse.progress import HEADLINES
from dlcourse.report.figures import learning_curves
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
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def save(report: Report, folder: pathlib.Path) -> None:
  """Figures as NAME.png, tables as NAME.json."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, figure in report.figures.items():
    figure.savefig(folder / f"{name}.png", dpi=130, bbox_inches="tight")
  for name, rows in report.tables.items():
    write_json(folder / f"{name}.json", rows)


def write_report(
  path: pathlib.Path,
  rows: Sequence[Mapping[str, Any]],
  result: Mapping[str, Any],
  reports: Mapping[str, Report],
  params: PyTree,
  best: Best,
) -> None:
  """Writes curves, parameter table, every evaluator's report and an index in Markdown.

  Args:
    path: the workdir.
    rows: of `metrics.jsonl`.
    result: what `result.json` will hold.
    reports: evaluator's name -> what it said.
    params: of the state that was evaluated.
    best: of the experiment.
  """
  folder = path / "report"
  logged = {name for row in rows for name in row}
  names = [name for name in HEADLINES if name in logged]
  if best.metric and best.metric in logged and best.metric not in names:
    names.append(best.metric)
  best_step = result["best_step"] if best.metric else None
  table = parameter_table(params)
  own = Report(
    tables={"parameters": table},
    figures={"learning_curves": learning_curves(rows, names, best_step)} if names else {},
  )
  for report in (own, *reports.values()):
    save(report, folder)
  pictures = [name for report in (own, *reports.values()) for name in report.figures]
  (folder / "index.md").write_text(_index(result, table, pictures))


def _index(result: Mapping[str, Any], table: list[dict[str, Any]], pictures: list[str]) -> str:
  device = result["devices"]
  lines = [
    f"# {result['experiment']}",
    "",
    " ".join(["Overrides:", *(f"`{o}`" for o in result["overrides"])]) if result["overrides"] else "",
    f"Seed {result['seed']}, {result['steps']} steps, {result['seconds']:.0f} s on {device['count']} × "
    f"{device['kind']}; evaluated at step {result['best_step']}.",
    "",
    "| test | value |",
    "| --- | ---: |",
    *(f"| {name} | {value:.6g} |" for name, value in result["test"].items()),
    "",
    "| parameters | shape | count |",
    "| --- | --- | ---: |",
    *(f"| {row['path']} | {' × '.join(map(str, row['shape']))} | {row['count']:,} |" for row in table),
    f"| **all** | | **{sum(row['count'] for row in table):,}** |",
    "",
    *(f"![{name}]({name}.png)\n" for name in pictures),
  ]
  return "\n".join(lines)
