"""Whether one translator is better than another, or only luckier in its test sentences (H3.11.1)."""

import pathlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dlcourse.errors import UserError
from dlcourse.evaluators import Report
from dlcourse.experiment import Run
from dlcourse.workdir import read_json

RESAMPLES = 1_000


def paired_bootstrap(better: str, baseline: str) -> Callable[[Sequence[tuple[Run, Mapping[str, Any]]]], Report]:
  """A `Study.summarise`: BLEU of the runs of two labels, seed by seed, on the same resampled test sentences.

  Koehn, 2004, "Statistical Significance Tests for Machine Translation Evaluation", as sacrebleu has it, with
  1,000 resamples. p is the share of resamples whose difference is as far from its mean as the difference is
  from 0.

  Args:
    better: label of the runs that are claimed to be better.
    baseline: label of what they are compared with.
  """

  def summarise(results: Sequence[tuple[Run, Mapping[str, Any]]]) -> Report:
    found: dict[str, dict[int, list]] = defaultdict(dict)
    for run, result in results:
      found[run.label][run.seed] = _answers(result["workdir"])
    rows = [
      {"seed": seed, **_compared(found[better][seed], answers)} for seed, answers in found[baseline].items()
    ]
    return Report(tables={f"{better} against {baseline}": rows})

  return summarise


def _answers(workdir: pathlib.Path) -> list[dict[str, str]]:
  path = workdir / "report" / "answers.json"
  rows = read_json(path)
  if not rows:
    raise UserError(f"{path} holds no answers; `dlcourse report --workdir={workdir}` writes them")
  return rows


def _compared(better: Sequence[Mapping[str, str]], baseline: Sequence[Mapping[str, str]]) -> dict[str, float]:
  """BLEU of both, their difference and p, of answers to the same references."""
  from sacrebleu.metrics import BLEU  # half a second that training need not wait for
  from sacrebleu.significance import PairedTest

  references = [row["reference"] for row in baseline]
  if [row["reference"] for row in better] != references:
    raise UserError("the runs answered different test splits: only answers to the same sentences can be paired")
  systems = [("baseline", [row["answer"] for row in baseline]), ("better", [row["answer"] for row in better])]
  _, scores = PairedTest(systems, {"BLEU": BLEU()}, [references], "bs", RESAMPLES)()
  before, after = scores["BLEU"]
  return {
    "bleu": after.score,
    "± bleu": after.ci,
    "baseline": before.score,
    "± baseline": before.ci,
    "difference": after.score - before.score,
    "p": after.p_value,
  }
