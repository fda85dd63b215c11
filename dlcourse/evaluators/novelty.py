"""What an autoencoder finds unlike all it was trained on (H5.4.5).

Shapes: N examples, D values of each.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.data.batches import unbatched
from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least, check_between
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.intervals import area_row, interval_scalars
from dlcourse.evaluators.latents import examined, with_latents

RESAMPLES = 1_000


@dataclasses.dataclass(frozen=True)
class Novelty(Evaluator):
  """Anomalies by what an autoencoder makes of them, beside principal components of as many dimensions.

  The anomalies are the test examples of classes that were not trained on; see `left_out` of `Images` and `only`
  of `Vectors`.
  """

  draws: int = 16
  """Draws of the latents, over which the ELBO is averaged."""
  false_alarms: float = 0.05
  """Share of the validation examples, none of which is an anomaly, that a threshold is set to report."""

  def __post_init__(self) -> None:
    """Refuses to judge by nothing."""
    check_at_least(1, {"evaluators….draws": self.draws})
    check_between(0, 1, {"evaluators….false_alarms": self.false_alarms})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Area under the ROC, with the bootstrap interval of 95 %, of each of these as the measure of an anomaly.

    reconstruction_auc: squared distance to the reconstruction; elbo_auc: the negative ELBO, where the model has
    one; latent_auc: squared distance of the code to the mean of the training codes, in their deviations;
    pca_auc: squared distance to the projection on principal components. The table also has the anomalies found
    and the false alarms of each by a threshold that is set on the validation split, as shares.

    Raises:
      UserError: the task is no autoencoder, or every class of the test split was trained on, or none.
    """
    latents = with_latents(task, "Novelty", "encode")
    kind = "image" if "image" in data.spec.batch else "point"
    labels = {split: unbatched(data.eval_batches(split), ("label",))["label"] for split in ("train", "test")}
    anomalous = ~np.isin(labels["test"], labels["train"])
    if anomalous.all() or not anomalous.any():
      raise UserError("Novelty needs classes that are not trained on, as by --data.left_out or --data.only")

    @jax.jit
    def looked_at(state, key, batch):
      codes = latents.encode(state, batch)
      x, made = data.spec.prepare(None, batch)[kind], latents.images(state, codes)
      found = {"x": x.reshape(len(x), -1), "code": codes, "reconstruction": _squares(x - made)}
      if latents.log_weight is not None:
        keys = jax.random.split(key, self.draws)
        found["elbo"] = -jax.lax.map(lambda k: latents.log_weight(state, k, batch), keys).mean(axis=0)
      return found

    splits = ("train", "validation", "test")
    seen = {split: examined(looked_at, state, data, split, key) for split in splits}
    if not all(np.isfinite(values).all() for found in seen.values() for values in found.values()):
      raise UserError("the autoencoder says NaN: training has diverged, or the checkpoint is damaged")
    measures = _measures(seen)
    rows, scalars = [], {}
    for name, of_split in measures.items():
      row = area_row(name, anomalous, of_split["test"], RESAMPLES)
      scalars |= interval_scalars(f"{name}_auc", row)
      reported = of_split["test"] > np.quantile(of_split["validation"], 1 - self.false_alarms)
      found, wrong = float(reported[anomalous].mean()), float(reported[~anomalous].mean())
      rows.append({**row, "anomalies found": found, "false alarms": wrong})
    return Report(scalars, {"novelty": rows})


def _squares(x: jax.Array) -> jax.Array:
  return jnp.square(x).reshape(len(x), -1).sum(axis=1)


def _measures(seen: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
  """measure -> split -> [N], larger of what is stranger."""
  from sklearn.decomposition import PCA

  x, codes = seen["train"]["x"], seen["train"]["code"]
  components = PCA(min(codes.shape[1], *x.shape), random_state=0).fit(x)
  mean, deviation = codes.mean(axis=0), np.maximum(codes.std(axis=0), 1e-6)

  def projected(x):
    return np.square(x - components.inverse_transform(components.transform(x))).sum(axis=1)

  measures = {
    name: {s: seen[s][name] for s in seen} for name in ("reconstruction", "elbo") if name in seen["test"]
  }
  measures["latent"] = {s: np.square((seen[s]["code"] - mean) / deviation).sum(axis=1) for s in seen}
  return measures | {"pca": {s: projected(seen[s]["x"]) for s in seen}}
