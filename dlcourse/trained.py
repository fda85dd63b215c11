"""What starts from a workdir alone: evaluate, sample, report."""

import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
from absl import logging

from dlcourse import workdir
from dlcourse.checkpoint import Checkpoints, Gone, Progress
from dlcourse.data.recipe import Data
from dlcourse.errors import UserError
from dlcourse.evaluators import measure
from dlcourse.evaluators.samples import Request, draw, save_samples
from dlcourse.experiment import Experiment, differences
from dlcourse.parallel import Program
from dlcourse.report.layers import task_summary
from dlcourse.report.write import write_report
from dlcourse.task import TrainState
from dlcourse.train import assemble

Which = Literal["best", "last"]
_OTHER: Mapping[Which, Which] = {"best": "last", "last": "best"}
_TRIES = 3


class Trained(NamedTuple):
  """A trained experiment, ready to be asked."""

  path: pathlib.Path
  experiment: Experiment
  data: Data
  program: Program
  state: TrainState
  progress: Progress
  record: dict[str, Any]


def open_trained(path: pathlib.Path, which: Which = "best", devices: int | None = None) -> Trained:
  """Rebuilds what a workdir was trained with and restores a checkpoint; the folder is only read.

  Args:
    path: the workdir.
    which: the best checkpoint (see `Best`) or the last one.
    devices: how many to use; None: all that can share a batch.

  Raises:
    UserError: no workdir, no checkpoint yet, or damaged.
  """
  experiment, record = workdir.rebuild(path)
  data, program = assemble(experiment, devices, "jit", fit=True)
  changed = differences(record.get("data", {}), workdir.data_facts(data))
  if "data" in record and changed:
    logging.warning("%s was trained on other data: %s", path, workdir.changes(changed))
  for _ in range(_TRIES):
    try:
      state, progress = _restored(path, program.state, which)
      return Trained(path, experiment, data, program, state, progress, record)
    except Gone:
      continue  # a training that runs at this moment has a better one by now
  other = _OTHER[which]
  raise UserError(
    f"the {which} checkpoint of {path} is gone; `dlcourse report {path} --checkpoint={other}` takes the other"
  )


def _restored(path: pathlib.Path, state: TrainState, which: Which) -> tuple[TrainState, Progress]:
  with Checkpoints(path / "checkpoints", read_only=True) as checkpoints:
    latest = checkpoints.latest()
    if latest is None:
      raise UserError(f"{path} has no checkpoint yet; train it first (same --experiment and --workdir)")
    step, progress = latest
    if which == "best" and progress.best_step is not None:
      step = progress.best_step
    return checkpoints.restore(state, step), progress


def evaluate(trained: Trained, split: str = "test") -> dict[str, float]:
  """The metrics of a split, also written to `evaluate_SPLIT.json`."""
  values = measure(trained.program, trained.state, trained.data, split)
  row = {"step": int(trained.state.step), "split": split, **values}
  workdir.write_json(trained.path / f"evaluate_{split}.json", row)
  return values


def sample(trained: Trained, request: Request, seed: int = 0) -> list[pathlib.Path]:
  """Draws samples and writes them under `samples/`.

  Returns:
    The files written.

  Raises:
    UserError: the task does not generate, or not from such a request.
  """
  if trained.program.generate is None:
    raise UserError(f"{trained.record['experiment']} does not generate: its task only predicts")
  spec = trained.data.spec
  outputs = draw(trained.program, trained.state, spec, request, jax.random.key(seed))
  return save_samples(outputs, spec, trained.path / "samples")


def _values(row: Mapping[str, Any]) -> dict[str, float]:
  """The metrics of a line of `metrics.jsonl`."""
  return {name: value for name, value in row.items() if name not in ("step", "split", "seconds")}


def report(trained: Trained) -> dict[str, Any]:
  """Writes `report/` (curves, layers, evaluators) and `result.json`, which it returns."""
  test = measure(trained.program, trained.state, trained.data, "test")
  rows = workdir.read_metrics(trained.path)
  result = {
    "experiment": trained.record["experiment"],
    "overrides": trained.record["overrides"],
    "seed": trained.record["seed"],
    "steps": max((row["step"] for row in rows), default=int(trained.state.step)),
    "best_step": trained.progress.best_step,
    "seconds": round(sum(row.get("seconds", 0.0) for row in rows), 1),
    "commit": trained.record.get("commit"),
    "devices": trained.record["devices"],
    "versions": trained.record["versions"],
    "train": next((_values(row) for row in reversed(rows) if row["split"] == "train"), {}),
    "test": test,
  }
  key = jax.random.key(0)
  reports = {
    type(evaluator).__name__: evaluator(
      trained.program, trained.state, trained.data, jax.random.fold_in(key, index)
    )
    for index, evaluator in enumerate(trained.experiment.evaluators)
  }
  for evaluated in reports.values():
    result["test"] |= evaluated.scalars
  if jax.process_index() == 0:
    experiment, data = trained.experiment, trained.data
    layers = task_summary(trained.program.task, data.spec)
    write_report(trained.path, rows, result, reports, trained.state.params, layers, experiment.best, data)
    workdir.write_json(trained.path / "result.json", result)
  return result
