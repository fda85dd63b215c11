"""What a discriminator can tell of two densities, as a figure and a table (H4.4.2, H4.5.2)."""

import numpy as np

from dlcourse.evaluators import Report
from dlcourse.report.figures import GREY, new_figure
from dlcourse.theory.divergences import (
  jensen_shannon,
  normal,
  optimal_discriminator,
  trained_discriminator,
  uniform,
  value_of_game,
  wasserstein,
)

SHIFTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
_WIDTH = 0.001
_MEANS, _DEVIATION, _SAMPLES = (-1.0, 1.0), 1.0, 4_000


def compare_divergences() -> Report:
  """A trained discriminator beside the best one, and JSD and W₁ of two unit intervals as one moves away."""
  rng = np.random.default_rng(0)
  real, fake = (rng.normal(mean, _DEVIATION, _SAMPLES) for mean in _MEANS)
  near = np.linspace(-4, 4, 161)
  best = optimal_discriminator(*(normal(near, mean, _DEVIATION) for mean in _MEANS))
  trained = trained_discriminator(real, fake, near)
  grid = np.arange(0, 4, _WIDTH)
  rows = [_row(grid, shift) for shift in SHIFTS]

  figure = new_figure(9, 3.6)
  left, right = figure.subplots(1, 2)
  for mean, name in zip(_MEANS, ("data", "generator"), strict=True):
    left.fill_between(near, normal(near, mean, _DEVIATION), alpha=0.3, label=f"density of the {name}")
  left.plot(near, best, color="black", label="D* = p / (p + q)")
  left.plot(near, trained, "--", color="tab:red", label="D, trained on samples")
  left.set(xlabel="x", ylim=(0, 1.45))
  left.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
  for name, colour in (("JSD", "tab:blue"), ("W₁", "tab:orange")):
    right.plot(SHIFTS, [row[name] for row in rows], "o-", color=colour, label=name, markersize=4)
  right.axhline(np.log(2), color=GREY, linestyle=":", label="log 2")
  right.set(xlabel="distance of two unit intervals", ylabel="nats, or units of x")
  right.grid(alpha=0.3)
  right.legend(frameon=False)
  weight = sum(normal(near, mean, _DEVIATION) for mean in _MEANS)
  error = float((weight * np.abs(trained - best)).sum() / weight.sum())
  return Report({"mean |D - D*|": error}, {"divergences": rows}, {"divergences": figure})


def _row(grid: np.ndarray, shift: float) -> dict[str, float]:
  p, q = uniform(grid, 0.0), uniform(grid, shift)
  jsd, value = jensen_shannon(p, q, _WIDTH), value_of_game(p, q, optimal_discriminator(p, q), _WIDTH)
  return {
    "distance": shift,
    "JSD": jsd,
    "W₁": wasserstein(p, q, _WIDTH),
    "V(D*)": value,
    "-log 4 + 2 JSD": float(-np.log(4) + 2 * jsd),
  }
