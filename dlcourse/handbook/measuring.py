"""What several measurements of claims need: counts, differences, papers, and tables that studies have left."""

import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import dlcourse.experiments
from dlcourse.errors import UserError
from dlcourse.handbook.claim import Finding

RESULTS = pathlib.Path(dlcourse.experiments.__file__).parent / "results"
Row = dict[str, Any]


def published(value: str, holds: bool | None, source: str) -> Callable[[], Finding]:
  """A measurement that is a look into a paper: of history, or of what no machine here can run again."""
  return lambda: Finding(value, holds, source)


def parameters(model: nn.Module, *shape: int, dtype: Any = jnp.float32) -> int:
  """Trainable parameters of a network for an input of that shape, by shapes alone."""
  variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def gap(a: Any, b: Any) -> float:
  """The largest difference of two arrays."""
  return float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))


def recorded(name: str) -> list[list[Row]]:
  """The tables that a study has left as Markdown in `experiments/results`, numbers read as such.

  Args:
    name: of the file, without its ending.

  Raises:
    UserError: there is no such file.
  """
  file = RESULTS / f"{name}.md"
  if not file.exists():
    raise UserError(f"the table {file} is not there; a checkout of the project has it in experiments/results")
  tables: list[list[Row]] = []
  header: list[str] = []
  for line in file.read_text(encoding="utf-8").splitlines():
    if not line.startswith("|"):
      header = []
      continue
    cells = [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]
    if not header:
      header = cells
      tables.append([])
    elif not set(cells[0]) <= set(":-"):
      tables[-1].append(dict(zip(header, map(_value, cells), strict=True)))
  return tables


def _value(cell: str) -> float | str:
  try:
    return float(cell.replace(",", ""))
  except ValueError:
    return cell


def rows_by(table: list[Row], column: str = "run") -> dict[str, Row]:
  """The rows of a recorded table by what stands in a column."""
  return {str(row[column]): row for row in table}


def study_source(name: str, row: Row) -> str:
  """How a page names a recorded row: study, seeds, device, commit."""
  return f"study {name}, n = {row['n']:g} seeds, {row['device']}, commit {row['commit']}"
