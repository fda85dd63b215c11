"""Results on the terminal."""

import inspect
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlcourse.data.findings import Findings
from dlcourse.errors import UserError
from dlcourse.evaluators import Report
from dlcourse.experiment import Experiment, Study, catalogue, load
from dlcourse.models.trace import Layer
from dlcourse.report.layers import NOTE, summary_rows, task_summary

if TYPE_CHECKING:
  from dlcourse.grading import Grade


MOST_CLASSES = 40  # of a table


def _console() -> Console:
  console = Console(quiet=jax.process_index() != 0)
  if not console.is_terminal:
    console.width = 160  # a pipe has no edge to wrap at
  return console


def _table(rows: list[Mapping[str, Any]], title: str | Text | None = None) -> Table:
  """A table whose columns are the keys of the rows."""
  table = Table(title=title)
  for column in dict.fromkeys(name for row in rows for name in row):
    table.add_column(column)
  for row in rows:
    values = (row.get(column.header, "") for column in table.columns)
    texts = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
    table.add_row(*(Text(text) for text in texts))  # as it is, with no markup
  return table


def show_values(values: Mapping[str, float], title: str) -> None:
  """Name and value, a line each."""
  _console().print(_table([{title: name, "value": value} for name, value in values.items()]))


def show_samples(files: list[pathlib.Path]) -> None:
  """Where the samples are; texts also as they are."""
  console = _console()
  for file in files:
    if file.suffix == ".txt":
      console.rule(file.name)
      console.print(Text(file.read_text(encoding="utf-8")))
  console.print(f"{len(files)} files in {files[0].parent}, first {files[0].name}", markup=False)


def show_file(path: pathlib.Path, keras_opens: bool) -> None:
  """An exported model: where it is, how large, and who opens it."""
  opens = "keras.models.load_model opens it too" if keras_opens else "Keras does not open it"
  _console().print(f"{path}: {path.stat().st_size:,} bytes; {opens}", markup=False)


def show_answer(image: str, likeliest: Sequence[tuple[str, float]]) -> None:
  """The classes of an image and their probabilities."""
  rows = [{"class": _printable(name), "probability": f"{share:.4f}"} for name, share in likeliest]
  _console().print(_table(rows, Text(_printable(image))))


def _printable(text: str) -> str:
  """Without what a terminal would obey: names of classes come from files of other people."""
  return "".join(letter if letter.isprintable() else "�" for letter in text)


def show_result(path: pathlib.Path, result: Mapping[str, Any]) -> None:
  """Test metrics of a run, and where its report is."""
  show_values(result["test"], f"test, step {result['best_step']}")
  _console().print(
    f"{result['seconds']:.1f} s of training; report: {path / 'report' / 'index.md'}", markup=False
  )


def show_findings(found: Findings) -> None:
  """What is in somebody's images, class by class, and what is remarkable of them."""
  rows = [
    {"class": _printable(name), **{split: counts[name] for split, counts in found.counts.items()}}
    for name in found.classes
  ]
  console = _console()
  if len(rows) > MOST_CLASSES:
    console.print(f"{found.root}: {sum(found.classes.values())} images in {len(rows)} classes", markup=False)
  else:
    console.print(_table(rows, Text(_printable(found.root))))
  for remark in found.remarks():
    console.print(f"! {_printable(remark)}", markup=False)


def show_plan(experiment: str, reasons: Sequence[str]) -> None:
  """What is trained, and why so."""
  console = _console()
  console.print(f"{experiment}, with", markup=False)
  for reason in reasons:
    console.print(f"- {reason}", markup=False)


def show_grades(grades: "Sequence[Grade]") -> None:
  """What archives claim, and what their models are worth."""
  rows = [
    {
      "archive": _printable(grade.archive),
      "claimed": _share(grade.claimed),
      "measured": _share(grade.measured),
      "95 % interval": "" if grade.low is None else f"{_share(grade.low)} … {_share(grade.high)}",
      "images": grade.images or "",
      "parameters": "" if grade.parameters is None else f"{grade.parameters:,}",
      "verdict": _printable(grade.verdict),
    }
    for grade in grades
  ]
  table = _table(rows)
  for column in table.columns[1:6]:
    column.justify = "right"
  _console().print(table)


def _share(value: float | None) -> str:
  return "" if value is None else f"{value:.4f}"


def show_study(path: pathlib.Path, summary: Report) -> None:
  """The tables of a study."""
  for name, rows in summary.tables.items():
    _console().print(_table(rows, name))
  _console().print(f"in {path}", markup=False)


def show_runs(study: Study) -> None:
  """The runs that a study makes."""
  rows = [
    {"run": run.label, "experiment": run.experiment, "seed": run.seed, "overrides": " ".join(run.overrides)}
    for run in study.runs
  ]
  _console().print(_table(rows))


def show_catalogue() -> None:
  """Every experiment and study with its first line and whether its result has been run."""
  for kind in (Experiment, Study):
    found = catalogue(kind)
    rows = [
      {kind.__name__.lower(): name, "what": _first_line(fn), "result": _run(fn)} for name, fn in found.items()
    ]
    _console().print(_table(rows))


def show_summary(name: str) -> None:
  """The layers of an experiment's networks.

  Raises:
    UserError: no such experiment, or its data cannot be had.
  """
  table = _table(summary_rows(_layers(name)), name)
  for column in table.columns[3:]:
    column.justify = "right"
  _console().print(table)
  _console().print(NOTE)


def show_summaries() -> None:
  """What the networks of every experiment cost, a row each; of some the data cannot be had, which is said."""
  table = _table([{"experiment": name, **_costs(name)} for name in catalogue()])
  for column in table.columns[1:4]:
    column.justify = "right"
  _console().print(table)


def _costs(name: str) -> dict[str, str]:
  try:
    layers = _layers(name)
  except UserError as error:
    return dict.fromkeys(("parameters", "multiply-adds", "layers"), "") | {"note": str(error)}
  counts = {
    "parameters": sum(layer.parameters for layer in layers),
    "multiply-adds": sum(layer.multiply_adds for layer in layers),
    "layers": len(layers),
  }
  return {column: f"{count:,}" for column, count in counts.items()}


def _layers(name: str) -> list[Layer]:
  experiment = load(name)
  spec = experiment.data.build().spec
  return task_summary(experiment.task.build(spec, experiment.steps), spec)


def _first_line(recipe: Callable) -> str:
  return (inspect.getdoc(recipe) or "").split("\n")[0]


def _run(recipe: Callable) -> str:
  """The `Result:` line of a docstring, which is there once the experiment has been run."""
  found = re.search(r"^Result: (.*(?:\n(?!\n).*)*)", inspect.getdoc(recipe) or "", re.MULTILINE)
  return " ".join(found[1].split()) if found else "not run yet"
