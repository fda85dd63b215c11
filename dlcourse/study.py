"""Runs the trainings of a study, one after another, and says what they say together."""

import pathlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dlcourse.evaluators import Report
from dlcourse.experiment import Run, Study, load
from dlcourse.report.write import markdown, save
from dlcourse.train import Options, train
from dlcourse.trained import open_trained, report
from dlcourse.workdir import create, new_record, read_json, write_json


def run_study(study: Study, path: pathlib.Path, overrides: Sequence[str] = ()) -> Report:
  """Runs what has not been run yet, then summarises into `path`.

  Args:
    study: which runs.
    path: its folder; each run has its own below it, so that a killed study goes on.
    overrides: further ones for every run, after its own.
  """
  results = [(run, _result(run, path / folder, overrides)) for run, folder in folders(study)]
  summary = study.summarise(results)
  save(summary, path)
  write_json(path / "study.json", {"scalars": summary.scalars, "tables": summary.tables})
  (path / "study.md").write_text("\n".join(markdown(rows) for rows in summary.tables.values()))
  return summary


def folders(study: Study) -> list[tuple[Run, str]]:
  """Each run with the name of its folder: its label and its number among the runs of that label."""
  counts: dict[str, int] = defaultdict(int)
  named = []
  for run in study.runs:
    named.append((run, f"{run.label.replace(' ', '_')}-{counts[run.label]}"))
    counts[run.label] += 1
  return named


def _result(run: Run, path: pathlib.Path, overrides: Sequence[str]) -> dict[str, Any]:
  every = [*run.overrides, *overrides]
  experiment = load(run.experiment, every)
  if (path / "result.json").exists():
    create(path, new_record(run.experiment, every, run.seed, experiment))  # refuses the result of another run
    return read_json(path / "result.json")
  train(run.experiment, every, experiment, path, Options(seed=run.seed))
  return report(open_trained(path))


def interval(values: Sequence[float]) -> float:
  """Half-width of the 95 % confidence interval of a mean (Student's t); NaN for a single value."""
  from scipy.stats import t  # 0.3 s

  if len(values) < 2:
    return float("nan")
  return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def mean_by_label(*metrics: str) -> Callable[[Sequence[tuple[Run, Mapping[str, Any]]]], Report]:
  """A `Study.summarise`: one row a label, mean ± 95 % interval of test metrics, minutes, device.

  Args:
    *metrics: names in a result's "test".
  """

  def summarise(results: Sequence[tuple[Run, Mapping[str, Any]]]) -> Report:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run, result in results:
      groups[run.label].append(result)
    rows = []
    for label, group in groups.items():
      row: dict[str, Any] = {"run": label, "n": len(group)}
      for metric in metrics:
        values = [result["test"][metric] for result in group if metric in result["test"]]
        if values:
          row |= {metric: float(np.mean(values)), f"± {metric}": interval(values)}
      row["minutes each"] = float(np.mean([result["seconds"] for result in group])) / 60
      row["device"] = f"{group[0]['devices']['count']} × {group[0]['devices']['kind']}"
      row["commit"] = group[0]["commit"]
      rows.append(row)
    return Report(tables={"summary": rows})

  return summarise
