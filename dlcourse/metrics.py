"""Metrics as sums and counts: exact under masks, ragged last batches and any number of devices.

A step returns `dict[str, Mean]`. Leaves add up: over the steps of a log line, the batches of a split, the
replicas of a `pmap`. The division happens once, when a person reads the value.
"""

from collections.abc import Iterable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Mean:
  """A weighted mean that has not been divided yet.

  Attributes:
    total: [] sum of the values times their weights.
    weight: [] sum of the weights.
  """

  total: jax.Array
  weight: jax.Array

  def value(self) -> float:
    """The mean; NaN where nothing was counted."""
    return float(self.total) / float(self.weight) if self.weight else float("nan")


@flax.struct.dataclass
class Perplexity(Mean):
  """exp of a mean of negative log-likelihoods in nats (H3.11.4)."""

  def value(self) -> float:
    """exp(mean), computed after the sums are complete."""
    return float(np.exp(super().value()))


@flax.struct.dataclass
class Root(Mean):
  """The root of a mean: of squared errors, in the unit of what was forecast."""

  def value(self) -> float:
    """sqrt(mean), computed after the sums are complete."""
    return float(np.sqrt(super().value()))


def mean(values: jax.Array, mask: jax.Array | None = None) -> Mean:
  """The masked mean of per-example values.

  Args:
    values: [...] one value an example (or a token).
    mask: [...] of the same shape, 1 = count it; None counts all.
  """
  if mask is None:
    mask = jnp.ones_like(values)
  return Mean(jnp.sum(values * mask), jnp.sum(mask))


def accumulate(parts: Iterable[Mapping[str, Mean]]) -> dict[str, Mean]:
  """Adds up the metrics of several steps or batches on the host, in float64."""
  total: dict[str, Mean] = {}
  for part in jax.device_get(list(parts)):
    part = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), dict(part))
    total = jax.tree.map(np.add, total, part) if total else part
  return total


def read(metrics: Mapping[str, Mean]) -> dict[str, float]:
  """What a person reads: name -> value."""
  return {name: metric.value() for name, metric in metrics.items()}
