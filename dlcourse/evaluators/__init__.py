"""What is measured on a trained (or training) task: numbers, tables and figures."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from dlcourse import metrics
from dlcourse.data.recipe import Data

if TYPE_CHECKING:
  from matplotlib.figure import Figure


class Report(NamedTuple):
  """What an evaluator or a study has to say.

  Attributes:
    scalars: name -> number.
    tables: name -> rows, each {column: value}.
    figures: name -> figure.
  """

  scalars: Mapping[str, float] = {}
  tables: Mapping[str, list[Mapping[str, Any]]] = {}
  figures: Mapping[str, "Figure"] = {}


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """A measurement that is more than a metric; subclasses add their fields and say how to measure."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Measures a task (or its compiled `Program`) in this state on the test split of `data`."""
    raise NotImplementedError


def measure(program, state, data: Data, split: str, seed: int = 0) -> dict[str, float]:
  """The task's own metrics over a whole split; the same for any number of devices.

  Args:
    program: a compiled task, see `dlcourse.parallel.Program`.
    state: a TrainState.
    data: of the experiment.
    split: "train", "validation" or "test".
    seed: of the keys that a keyed evaluation (a VAE's) draws.
  """
  key = jax.random.key(seed)
  parts = [
    program.eval_step(state, jax.random.fold_in(key, index), batch)
    for index, batch in enumerate(data.eval_batches(split))
  ]
  return metrics.read(metrics.accumulate(parts))
