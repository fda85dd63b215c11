"""Whether a discriminator gives away which images it was trained on (H4.10.2)."""

import dataclasses

import jax
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.intervals import area_row, interval_scalars

RESAMPLES = 1_000


@dataclasses.dataclass(frozen=True)
class Membership(Evaluator):
  """The attack of LOGAN (Hayes et al., 2019, arXiv:1705.07663): what scores high was trained on."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scores of the whole training split against those of the test split, which has to have the same classes.

    Scalars membership_advantage, the largest true positive rate minus false positive rate over all thresholds
    (Yeom et al., 2018, arXiv:1709.01604), with membership_p, how often chance alone reaches it (one-sided test
    of Kolmogorov and Smirnov); membership_auc, 0.5 where nothing is given away, with the ends of its bootstrap
    interval of 95 %. A table of the area.

    Raises:
      UserError: the task gives no number for each image, or NaN.
    """
    from scipy.stats import ks_2samp  # 0.3 s

    trained_on, unseen = (_scores(task, state, data, split, key) for split in ("train", "test"))
    attack = ks_2samp(trained_on, unseen, alternative="less", method="asymp")  # members score higher
    scores = np.concatenate([trained_on, unseen])
    row = area_row("membership", np.arange(len(scores)) < len(trained_on), scores, RESAMPLES)
    return Report(
      scalars={
        "membership_advantage": float(attack.statistic),
        "membership_p": float(attack.pvalue),
        **interval_scalars("membership_auc", row),
      },
      tables={"membership": [row]},
    )


def _scores(task, state, data: Data, split: str, key: jax.Array) -> np.ndarray:
  """What the discriminator says of each example of a split, [N]."""
  parts = []
  for batch in data.eval_batches(split):
    scores = jax.device_get(task.predict(state, key, batch))
    if getattr(scores, "shape", None) != batch["mask"].shape:
      raise UserError("Membership needs a task that gives each image one number, as the discriminator of a GAN")
    parts.append(scores[batch["mask"] > 0])
  found = np.concatenate(parts)
  if not np.isfinite(found).all():
    raise UserError("the discriminator says NaN: training has diverged, or the checkpoint is damaged")
  return found
