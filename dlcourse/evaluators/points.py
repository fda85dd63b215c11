"""How many modes of a known mixture a generative model has found (H4.5.1)."""

import dataclasses

import jax
import numpy as np

from dlcourse.data.batches import unbatched
from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.samples import Request, draw
from dlcourse.report.figures import GREY, new_figure
from dlcourse.theory.sample_quality import modes_covered


@dataclasses.dataclass(frozen=True)
class ModeCoverage(Evaluator):
  """Modes covered and the share of samples near one; see `modes_covered` for the convention."""

  samples: int = 2_500
  """How many points are drawn."""

  def __post_init__(self) -> None:
    """Refuses to judge by nothing."""
    check_at_least(1, {"evaluators….samples": self.samples})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars `modes` and `high_quality`; samples above real points as a figure.

    Raises:
      UserError: the data is not points.
    """
    if "point" not in data.spec.batch:
      raise UserError(f"ModeCoverage judges points; this data has {', '.join(sorted(data.spec.batch))}")
    test = unbatched(data.eval_batches("test"), ("point", "label"))
    real, label = test["point"], test["label"]
    centres = np.stack([real[label == mode].mean(axis=0) for mode in range(len(data.spec.classes))])
    deviation = float(np.sqrt(np.square(real - centres[label]).mean()))
    made = draw(task, state, data.spec, Request(self.samples), key)["point"]
    found = modes_covered(made, centres, deviation)
    rows = [{"mode": name, "samples": int(n)} for name, n in zip(data.spec.classes, found.counts, strict=True)]
    figure = new_figure(4.5, 4.5)
    axes = figure.subplots()
    axes.plot(*real.T, ".", color=GREY, markersize=2, label="real")
    axes.plot(*made.T, ".", color="tab:blue", markersize=2, alpha=0.5, label="generated")
    axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
    axes.legend(frameon=False, loc="upper right", markerscale=4)
    scalars = {"modes": float(found.covered), "high_quality": found.high_quality}
    return Report(scalars, {"modes": rows}, {"points": figure})
