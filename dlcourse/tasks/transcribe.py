"""Sequences to shorter label strings whose places are not known, by CTC (Graves et al., 2006; H3.11.2)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse import metrics
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError, check_at_least
from dlcourse.optim import Optimizer
from dlcourse.task import Task, TaskRecipe, complete
from dlcourse.tasks.ctc import best_path, ctc_nll, prefix_beam_search
from dlcourse.tasks.supervised import inputs_of, supervised


@dataclasses.dataclass(frozen=True)
class Transcribe(TaskRecipe):
  """A label string for every sequence; class 0 is the blank.

  `predict` gives {"labels" [B, T], "lengths" [B], "scores" [B]}, see `dlcourse.tasks.ctc.Labelled`.
  """

  model: nn.Module
  """The network: sequences and their lengths to (logits [B, T, classes], lengths), class 0 the blank."""
  optimizer: Optimizer
  """How it is trained."""
  beams: int = 1
  """Label strings kept in view by prefix beam search; 1 reads off the likeliest path."""

  def __post_init__(self) -> None:
    """Refuses to look at nothing."""
    check_at_least(1, {"task.beams": self.beams})

  def build(self, spec: Spec, steps: int) -> Task:
    """-log p(labels) per sequence, in nats; `exact` is the share of best paths without an error.

    Raises:
      UserError: the network leaves fewer steps than there are labels.
    """
    model = complete(self.model, spec)
    _check_steps(model, spec)

    def call(module, carry, batch, train):
      return carry, module(*inputs_of(batch), train=train)

    def readout(outputs):
      logits, lengths = outputs
      found = best_path(logits, lengths) if self.beams == 1 else prefix_beam_search(logits, lengths, self.beams)
      return found._asdict()

    task = supervised(model, call, objective, readout, self.optimizer.build(steps), spec.prepare)
    return task._replace(stream=None)  # a label that goes on in the next part would be read twice


def _check_steps(model: nn.Module, spec: Spec) -> None:
  """Every label takes a step: without one, no path has any probability, and the loss says nothing."""
  inputs, lengths, labels = (spec.batch[name] for name in ("inputs", "lengths", "labels"))
  (logits, _), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), inputs, lengths)
  if logits.shape[1] < labels.shape[1]:
    raise UserError(
      f"the network leaves {logits.shape[1]} of {inputs.shape[1]} steps, and there are up to {labels.shape[1]} "
      "labels; lower --task.model.front.pool"
    )


def objective(outputs: tuple[jax.Array, jax.Array], batch) -> tuple:
  """CTC as (loss_sum, weight, {loss, exact}).

  Args:
    outputs: logits [B, T, C] and lengths [B].
    batch: labels [B, L], label_lengths [B] and mask [B].
  """
  logits, lengths = outputs
  loss = metrics.mean(ctc_nll(logits, lengths, batch["labels"], batch["label_lengths"]), batch["mask"])
  found, size = best_path(logits, lengths), batch["labels"].shape[1]
  short = jnp.pad(found.labels, [(0, 0), (0, max(0, size - found.labels.shape[1]))])[:, :size]
  counts = jnp.arange(size) < batch["label_lengths"][:, None]
  right = (found.lengths == batch["label_lengths"]) & jnp.all((short == batch["labels"]) | ~counts, axis=1)
  exact = metrics.mean(right.astype(logits.dtype), batch["mask"])
  return loss.total, loss.weight, {"loss": loss, "exact": exact}
