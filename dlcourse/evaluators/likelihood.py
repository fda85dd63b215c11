"""How likely a latent-variable model holds images it has not seen (H5.2.2).

Shapes: N images, K draws, Z latents.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import task_of
from dlcourse.evaluators.latents import examined, with_latents
from dlcourse.report.figures import GREY, new_figure
from dlcourse.task import Latents

if TYPE_CHECKING:
  from matplotlib.figure import Figure

ACTIVE = 0.01  # variance of a posterior mean over images, from which on a latent counts as used
COLLAPSED = 0.1  # share of active latents below which a warning is due


@dataclasses.dataclass(frozen=True)
class ImportanceLikelihood(Evaluator):
  """-log p(x) by importance weighting: the bound of Burda et al. (2016, arXiv:1509.00519, equation 8).

  With more draws it falls to -log p(x), which one draw, the ELBO, overestimates by KL(q(z | x) || p(z | x)).
  Every score is called METRIC/iwK@N, by the draws and the images that it was measured with.
  """

  images: int = 1_000
  """How many images of the test split, and as many of the training split, are measured: the first ones."""
  draws: int = 1_000
  """K, draws of the latents for each image."""

  def __post_init__(self) -> None:
    """Refuses to measure nothing."""
    check_at_least(1, {"evaluators….images": self.images, "evaluators….draws": self.draws})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars nll, elbo (negative, of one draw), nll_train, each of them in nats; and a table.

    Of a task that reports bits_per_dim, pixels being whole numbers, nll is given in that unit, too. The table
    has half the width of the interval of 95 % of each mean.

    Raises:
      UserError: the task has no likelihood, or gives NaN.
    """
    latents = with_latents(task, "ImportanceLikelihood", "log_weight")
    exact = "bits_per_dim" in jax.eval_shape(task_of(task).eval_step, state, key, dict(data.spec.batch))
    pixels = math.prod(data.spec.image_shape)
    log_mean = jax.jit(lambda state, key, batch: _log_means(latents, state, key, batch, self.draws))
    rows, scalars = [], {}
    for split in ("test", "train"):
      bound, elbo = self._measured(log_mean, state, data, split, key)
      ending = "" if split == "test" else f"_{split}"
      for name, values in ((f"nll{ending}", -bound), (f"elbo{ending}", elbo)):
        scalars[f"{name}/iw{self.draws}@{len(values)}"] = float(values.mean())
        rows.append(
          {"measure": name, "nats": float(values.mean()), "±": _half_width(values), "images": len(values)}
        )
      if exact and split == "test":
        scalars[f"bits_per_dim/iw{self.draws}@{len(bound)}"] = float(-bound.mean() / (pixels * math.log(2)))
    return Report(scalars, {"likelihood": rows})

  def _measured(self, log_mean, state, data: Data, split: str, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bound with K draws and the mean bound with one, nats, [N] each."""
    found = examined(log_mean, state, data, split, key, self.images)
    bound, elbo = found["bound"], found["elbo"]
    if not np.isfinite(bound).all():
      raise UserError("the likelihood of an image is NaN: training has diverged, or the checkpoint is damaged")
    return bound, elbo


def _log_means(latents: Latents, state, key: jax.Array, batch, draws: int) -> dict[str, jax.Array]:
  """log of the mean weight ("bound") and mean of the log weight ("elbo") over draws, [B] each.

  One draw is in memory at a time.
  """

  def step(carry, key):
    log_total, total = carry
    weight = latents.log_weight(state, key, batch)
    return (jnp.logaddexp(log_total, weight), total + weight), None

  count = batch["mask"].shape[0]
  start = jnp.full(count, -jnp.inf), jnp.zeros(count)
  (log_total, total), _ = jax.lax.scan(step, start, jax.random.split(key, draws))
  return {"bound": log_total - jnp.log(draws), "elbo": total / draws}


@dataclasses.dataclass(frozen=True)
class ActiveLatents(Evaluator):
  """Which latents a VAE uses: a posterior that is the prior whatever the image has collapsed (H5.3.3)."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars active_units and active_share, a table of all latents and a figure.

    A latent is active where the variance of its posterior mean over the test images is more than 0.01 (Burda et
    al., 2016, section 5.2). The table has that variance and the mean KL of each, in nats. Where fewer than a
    tenth are active a warning is logged.

    Raises:
      UserError: the task has no posteriors.
    """
    latents = with_latents(task, "ActiveLatents", "rates")

    @jax.jit
    def looked_at(state, key, batch):
      return {"mean": latents.encode(state, batch), "rate": latents.rates(state, key, batch)}

    found = examined(looked_at, state, data, "test", key)
    variance, rate = found["mean"].var(axis=0), found["rate"].mean(axis=0)
    active = variance > ACTIVE
    if active.mean() < COLLAPSED:
      logging.warning(
        "posterior collapse: %d of %d latents say anything of an example; lower --task.beta, or raise "
        "--task.warm_up or --task.free_bits",
        active.sum(),
        len(active),
      )
    order = np.argsort(-rate, kind="stable")
    rows = [{"latent": int(i), "KL in nats": float(rate[i]), "variance": float(variance[i])} for i in order]
    scalars = {"active_units": float(active.sum()), "active_share": float(active.mean())}
    return Report(scalars, {"latents": rows}, {"latents": _figure(rate[order], active[order])})


def _figure(rate: np.ndarray, active: np.ndarray) -> "Figure":
  """The KL of each latent, largest first."""
  figure = new_figure(6.0, 3.2)
  axes, places = figure.subplots(), np.arange(len(rate))
  for chosen, colour, label in ((active, "tab:blue", "active"), (~active, GREY, "not active")):
    if chosen.any():
      axes.bar(places[chosen], rate[chosen], width=1.0, color=colour, label=label)
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.set(xlabel="latent, by its KL", ylabel="KL in nats")
  axes.legend(frameon=False)
  return figure


def _half_width(values: np.ndarray) -> float:
  """Of the interval of 95 % of their mean."""
  return float(1.96 * values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
