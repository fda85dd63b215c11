"""Learning from sequences what is known at every step, or what comes next (H3.6.2, H3.7.4)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse import metrics
from dlcourse.data.recipe import Spec
from dlcourse.optim import Optimizer
from dlcourse.task import Task, TaskRecipe, complete
from dlcourse.tasks.supervised import cross_entropy, inputs_of, supervised


@dataclasses.dataclass(frozen=True)
class Tag(TaskRecipe):
  """One label a step, synchronised many-to-many; `predict` gives probabilities [B, T, C]."""

  model: nn.Module
  """The network: sequences and their lengths to (logits [B, T, classes], lengths)."""
  optimizer: Optimizer
  """How it is trained."""

  def build(self, spec: Spec, steps: int) -> Task:
    """Cross-entropy at every step that counts."""

    def call(module, carry, batch, train):
      return carry, module(*inputs_of(batch), train=train)[0]

    def objective(logits, batch):
      return cross_entropy(logits, batch["tags"], batch["mask"])

    model, optimizer = complete(self.model, spec), self.optimizer.build(steps)
    return supervised(model, call, objective, jax.nn.softmax, optimizer, spec.prepare)


@dataclasses.dataclass(frozen=True)
class Forecast(TaskRecipe):
  """The numbers that come after a sequence; `predict` gives forecasts [B, K] in the unit of the targets."""

  model: nn.Module
  """The network: sequences and their lengths to [B, K], its `num_classes`."""
  optimizer: Optimizer
  """How it is trained."""
  change: bool = False
  """The network says by how much the first channel, which is forecast, differs from its last value."""

  def build(self, spec: Spec, steps: int) -> Task:
    """Mean squared error in the network's scale; `rmse` and `mae` (absolute) in the targets' unit."""

    def call(module, carry, batch, train):
      inputs, lengths = inputs_of(batch)
      said = module(inputs, lengths, train=train)
      if not self.change:
        return carry, said
      last = jnp.take_along_axis(inputs[..., :1], jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)
      return carry, said + last[:, 0]  # [B, K] + [B, 1]

    def objective(outputs, batch):
      scaled, error = outputs - spec.scale(batch["targets"]), spec.unscale(outputs) - batch["targets"]
      loss, squared, absolute = (
        metrics.mean(jnp.mean(values, axis=-1), batch["mask"])
        for values in (jnp.square(scaled), jnp.square(error), jnp.abs(error))
      )
      rmse = metrics.Root(squared.total, squared.weight)
      return loss.total, loss.weight, {"loss": loss, "rmse": rmse, "mae": absolute}

    model = complete(self.model, spec).clone(num_classes=spec.batch["targets"].shape[-1])
    task = supervised(model, call, objective, spec.unscale, self.optimizer.build(steps), spec.prepare)
    if not self.change:
      return task

    def stream(state, carry, chunk):
      carry, said = task.stream(state, carry, chunk)
      return carry, said + spec.unscale(chunk[..., :1]) - spec.unscale(jnp.zeros(()))

    return task._replace(stream=stream)
