"""How much of its codebook a VQ-VAE uses (van den Oord et al., 2017; H5.3.3)."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np
from absl import logging

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import task_of
from dlcourse.report.figures import new_figure

if TYPE_CHECKING:
  from matplotlib.figure import Figure

COLLAPSED = 0.1  # share of used codes below which a warning is due


@dataclasses.dataclass(frozen=True)
class CodebookUsage(Evaluator):
  """Which codes the images of the test split have, and how evenly."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars codebook_usage, codebook_perplexity and code_bits; and a figure of how often each code comes.

    Usage is the share of the codes that come at all. With p the share of all places that a code takes, the bits
    of a place are the entropy H = -Σ p log₂ p, which a coder that knows only these shares needs, and the
    perplexity is 2^H: that many codes, all equally frequent, would have the same entropy.

    Raises:
      UserError: the task has no codebook.
    """
    codes = task_of(task).codes
    if codes is None:
      raise UserError("CodebookUsage needs an autoencoder with a codebook; the code of this task is no symbols")
    read, counts = jax.jit(codes.read), np.zeros(codes.count, np.int64)
    for batch in data.eval_batches("test"):
      found = jax.device_get(read(state, batch))[batch["mask"] > 0]
      counts += np.bincount(found.ravel(), minlength=codes.count)
    shares = counts[counts > 0] / counts.sum()
    bits, usage = float(-(shares * np.log2(shares)).sum()), len(shares) / codes.count
    if usage < COLLAPSED:
      logging.warning(
        "codebook collapse: %d of %d codes are used; lower --task.model.revive_after", len(shares), codes.count
      )
    scalars = {"codebook_usage": usage, "codebook_perplexity": 2.0**bits, "code_bits": bits}
    return Report(scalars, figures={"codebook": _figure(counts / counts.sum())})


def _figure(shares: np.ndarray) -> "Figure":
  """The share of each code, largest first, beside equal ones."""
  figure = new_figure(6.0, 3.2)
  axes = figure.subplots()
  axes.bar(np.arange(len(shares)), 100 * np.sort(shares)[::-1], width=1.0)
  axes.axhline(100 / len(shares), color="black", linewidth=0.8, linestyle="--", label="all equally often")
  axes.set(xlabel="code, by its share", ylabel="share of places in %")
  axes.legend(frameon=False)
  return figure
