"""Runs the trainings of a study, one after another, and says what they say together."""

import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlcourse.errors import UserError
from dlcourse.evaluators import Report
from dlcourse.experiment import Experiment, Options, Run, Study, load
from dlcourse.metrics_log import read_metrics
from dlcourse.parallel import make_mesh
from dlcourse.report.figures import line_figure
from dlcourse.report.write import markdown, save
from dlcourse.train import train
from dlcourse.trained import open_trained, report
from dlcourse.workdir import RECORD, check_planned, read_json, write_json

_DEFAULT = Options()
_READ = ("train", "test", "seconds", "devices", "commit")  # of a result


def run_study(
  study: Study, path: pathlib.Path, overrides: Sequence[str] = (), options: Options = _DEFAULT
) -> Report:
  """Runs what has not been run yet, then summarises into `path`.

  Args:
    study: which runs.
    path: its folder; each run has its own below it, so that a killed study goes on.
    overrides: further ones for every run, after its own.
    options: of every run, but for the seed, which is the run's.

  Raises:
    UserError: the overrides fit no field of a run, or its folder holds another one; nothing is trained.
  """
  if (path / RECORD).exists():
    raise UserError(f"{path} is the workdir of one training; name another --workdir for the study")
  planned = [_plan(run, path / folder, overrides, options) for run, folder in folders(study)]
  results = [(plan.run, _result(plan) | {"workdir": plan.path}) for plan in planned]
  summary = study.summarise(results)
  save(summary, path)
  write_json(path / "study.json", {"scalars": summary.scalars, "tables": summary.tables})
  parts = [*map(markdown, summary.tables.values()), *(f"![{name}]({name}.png)\n" for name in summary.figures)]
  (path / "study.md").write_text("\n".join(parts), encoding="utf-8")
  return summary


class _Plan(NamedTuple):
  run: Run
  path: pathlib.Path
  overrides: list[str]
  experiment: Experiment
  options: Options


def _plan(run: Run, path: pathlib.Path, overrides: Sequence[str], options: Options) -> _Plan:
  every = [*run.overrides, *overrides]
  options = dataclasses.replace(options, seed=run.seed)
  plan = _Plan(run, path, every, load(run.experiment, every), options)
  check_planned(path, run.experiment, every, plan.experiment, options, make_mesh(options.devices).size)
  return plan


def folders(study: Study) -> list[tuple[Run, str]]:
  """Each run with the name of its folder: its label and its number among the runs of that label."""
  counts: dict[str, int] = defaultdict(int)
  named = []
  for run in study.runs:
    named.append((run, f"{run.label.replace(' ', '_')}-{counts[run.label]}"))
    counts[run.label] += 1
  return named


def _result(plan: _Plan) -> dict[str, Any]:
  if (plan.path / RECORD).exists() and (plan.path / "result.json").exists():
    result = read_json(plan.path / "result.json")
    if isinstance(result, dict) and set(_READ) <= set(result) and "refused" not in result:
      return result
  train(plan.run.experiment, plan.overrides, plan.experiment, plan.path, plan.options)
  return report(open_trained(plan.path, devices=plan.options.devices))


def interval(values: Sequence[float]) -> float:
  """Half-width of the 95 % confidence interval of a mean (Student's t); NaN for a single value."""
  from scipy.stats import t  # 0.3 s

  if len(values) < 2:
    return float("nan")
  return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def along(xlabel: str, split: str, metric: str) -> Callable[[Sequence[tuple[Run, Mapping[str, Any]]]], Report]:
  """A `Study.summarise`: a metric along a number, a line and a row for each kind of run.

  Labels of the runs are "KIND X", such as "plain 20"; runs of one label are repetitions.

  Args:
    xlabel: what X is.
    split: "train" (the last logged means of training) or "test".
    metric: its name.
  """

  def summarise(results: Sequence[tuple[Run, Mapping[str, Any]]]) -> Report:
    lines: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, result in results:
      kind, _, x = run.label.rpartition(" ")
      value = result[split].get(metric)
      lines[kind][float(x)].append(float("nan") if value is None else value)
    rows = [
      {"run": kind, **{f"{x:g}": float(np.mean(values)) for x, values in points.items()}}
      for kind, points in lines.items()
    ]
    figure = line_figure(lines, xlabel, f"{metric} ({split})")
    return Report(tables={f"{split} {metric}": rows}, figures={f"{split}_{metric}": figure})

  return summarise


def together(*parts: Callable) -> Callable[[Sequence[tuple[Run, Mapping[str, Any]]]], Report]:
  """A `Study.summarise` that says what several say."""

  def summarise(results: Sequence[tuple[Run, Mapping[str, Any]]]) -> Report:
    reports = [part(results) for part in parts]
    return Report(*({k: v for report in reports for k, v in report[field].items()} for field in range(3)))

  return summarise


def rank_correlation(
  quality: str, *metrics: str
) -> Callable[[Sequence[tuple[Run, Mapping[str, Any]]]], Report]:
  """A `Study.summarise`: whether metrics say how good a model is, by Spearman's ρ over evaluations.

  Args:
    quality: what a monitor measured, such as "fid/digits@400".
    *metrics: metrics of the validation split.
  """

  def summarise(results: Sequence[tuple[Run, Mapping[str, Any]]]) -> Report:
    from scipy.stats import spearmanr  # 0.3 s

    table = []
    for run, result in results:
      logged = [row for row in read_metrics(result["workdir"]) if quality in row]
      measured = {name: [row[name] for row in logged if name in row] for name in (quality, *metrics)}
      rho = {f"ρ {name}": float(spearmanr(measured[quality], measured[name]).statistic) for name in metrics}
      table.append({"run": run.label, "seed": run.seed, "evaluations": len(logged), **rho})
    return Report(tables={f"{quality} against losses".replace("/", " "): table})

  return summarise


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
        values = [float("nan") if value is None else value for value in values]  # JSON has no NaN
        if values:
          row |= {metric: float(np.mean(values)), f"± {metric}": interval(values)}
      row["minutes each"] = float(np.mean([result["seconds"] for result in group])) / 60
      row["device"] = f"{group[0]['devices']['count']} × {group[0]['devices']['kind']}"
      row["commit"] = group[0]["commit"]
      rows.append(row)
    return Report(tables={"summary": rows})

  return summarise
