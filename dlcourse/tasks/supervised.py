"""Learning from targets: classification and language modelling (H1.5.1, H3.7).

One builder; the recipes differ in how the model is called and in their `objective`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dlcourse import metrics
from dlcourse.data.recipe import Batch, Spec
from dlcourse.errors import UserError, check_below_one
from dlcourse.optim import Optimizer
from dlcourse.task import (
  Network,
  Task,
  TaskRecipe,
  TrainState,
  complete,
  descend,
  gradient,
  new_state,
  step_key,
)
from dlcourse.tasks import decoding

AUXILIARY_WEIGHT = 0.3  # of auxiliary classifiers (Szegedy et al., 2015, section 5)


def supervised(
  model: nn.Module,
  call: Callable,
  objective: Callable,
  readout: Callable,
  optimizer: optax.GradientTransformation,
  prepare: Callable,
  initial_carry: Callable[[int], Any] = lambda batch_size: {},
  generate: Callable | None = None,
) -> Task:
  """A task from a model and an objective.

  Args:
    model: a Linen module. What it sows into the collection "aux" in training are further outputs, learnt from
      with the weight 0.3 (Szegedy et al., 2015, section 5).
    call: (module, carry, batch, train) -> (carry, outputs).
    objective: (outputs, batch) -> (loss_sum, weight, metrics).
    readout: outputs -> what a person looks at.
    optimizer: an optax chain.
    prepare: `Spec.prepare`.
    initial_carry: batch size -> what is carried from one batch to the next.
    generate: see `Task`.
  """

  def batch_size(batch):
    return batch["mask"].shape[0]

  def init(key, batch):
    key, init_key = jax.random.split(key)
    carry = initial_carry(batch_size(batch))
    variables = dict(model.init(init_key, carry, prepare(None, batch), False, method=call))
    params = variables.pop("params")
    return new_state(key, params, optimizer.init(params), variables, carry)

  def train_step(state: TrainState, batch):
    augment_key, dropout_key = jax.random.split(step_key(state))
    batch = prepare(augment_key, batch)

    def loss(params):
      (carry, outputs), model_state = model.apply(
        {"params": params, **state.model_state},
        state.carry,
        batch,
        True,
        method=call,
        mutable=[*state.model_state, "aux"],
        rngs={"dropout": dropout_key},
      )
      total, weight, measured = objective(outputs, batch)
      for auxiliary in jax.tree.leaves(model_state.pop("aux", {})):
        total += AUXILIARY_WEIGHT * objective(auxiliary, batch)[0]
      return total, weight, (measured, model_state, carry)

    grads, (measured, model_state, carry) = gradient(loss, state.params)
    params, opt_state = descend(optimizer, grads, state.opt_state, state.params)
    state = state.replace(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      model_state=model_state,
      carry=jax.lax.stop_gradient(carry),
    )
    return state, measured

  def outputs_of(state, batch):
    batch = prepare(None, batch)
    carry = initial_carry(batch_size(batch))
    _, outputs = model.apply(variables(state), carry, batch, False, method=call)
    return outputs, batch

  def eval_step(state, key, batch):
    del key
    return objective(*outputs_of(state, batch))[2]

  def predict(state, key, batch):
    del key
    return readout(outputs_of(state, batch)[0])

  def variables(state):
    return {"params": state.params, **state.model_state}

  def stream(state, carry, chunk):
    carry, outputs = model.apply(variables(state), carry, chunk, method="stream")
    return carry, readout(outputs)

  def with_variables(state, variables):
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    return state.replace(params=variables["params"], model_state=rest)

  network = Network(model, variables, with_variables)
  stream = stream if hasattr(model, "stream") else None
  return Task(init, train_step, eval_step, predict, generate, network, stream)


def cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> tuple:
  """Softmax cross-entropy as (loss_sum, weight, {loss, accuracy}).

  Args:
    logits: [..., C].
    labels: [...] int.
    mask: [...], 1 = count it.
  """
  nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  correct = (jnp.argmax(logits, axis=-1) == labels).astype(nats.dtype)
  measured = {"loss": metrics.mean(nats, mask), "accuracy": metrics.mean(correct, mask)}
  return measured["loss"].total, measured["loss"].weight, measured


def smoothed(total: jax.Array, logits: jax.Array, mask: jax.Array, smoothing: float) -> jax.Array:
  """Cross-entropy against targets of which a share is even (Szegedy et al., 2016, section 7).

  (1 - ε) H(label, p) + ε H(1/C, p), summed.

  Args:
    total: [] the sum of H(label, p).
    logits: [..., C].
    mask: [...], 1 = count it.
    smoothing: ε.
  """
  if not smoothing:
    return total
  even = metrics.mean(-jax.nn.log_softmax(logits).mean(axis=-1), mask)
  return (1 - smoothing) * total + smoothing * even.total


def inputs_of(batch: Batch) -> tuple[jax.Array, ...]:
  """What a network takes of a batch: images, or trees or sequences and their lengths."""
  names = ("image",), ("nodes", "children", "lengths"), ("inputs", "lengths")
  return next(tuple(batch[name] for name in each) for each in names if each[0] in batch)


def classification(num_classes: int, label_smoothing: float = 0.0) -> Callable:
  """The objective of one label an example: (logits [B, num_classes], batch) -> see `cross_entropy`.

  Args:
    num_classes: C.
    label_smoothing: see `smoothed`; the metrics are without.

  Raises:
    UserError: (on call) the model gives another number of logits.
  """

  def objective(logits, batch):
    if logits.shape[1:] != (num_classes,):
      raise UserError(
        f"the model gives {logits.shape[1:]} numbers an example, and the data has {num_classes} classes; "
        "num_classes is its width where a model leaves it None"
      )
    total, weight, measured = cross_entropy(logits, batch["label"], batch["mask"])
    return smoothed(total, logits, batch["mask"], label_smoothing), weight, measured

  return objective


@dataclasses.dataclass(frozen=True)
class Classify(TaskRecipe):
  """One label an image or a sequence; `predict` gives probabilities [B, C]."""

  model: nn.Module
  """The network: images [B, H, W, C], or sequences and their lengths, to logits [B, classes]."""
  optimizer: Optimizer
  """How it is trained."""
  label_smoothing: float = 0.0
  """Share of the target that all classes have in common, in training; the metrics are without."""

  def __post_init__(self) -> None:
    """Refuses targets that no longer hold the label."""
    check_below_one({"task.label_smoothing": self.label_smoothing})

  def build(self, spec: Spec, steps: int) -> Task:
    """Cross-entropy on the logits (H1.4.2, softmax)."""

    def call(module, carry, batch, train):
      return carry, module(*inputs_of(batch), train=train)

    return supervised(
      complete(self.model, spec),
      call,
      classification(spec.num_classes, self.label_smoothing),
      jax.nn.softmax,
      self.optimizer.build(steps),
      spec.prepare,
    )


@dataclasses.dataclass(frozen=True)
class ModelLanguage(TaskRecipe):
  """The next symbol from all before it, with truncated back-propagation through time (H3.5.5, H3.11.4).

  The hidden state is carried from batch to batch; `reset` [B] starts a stream anew. `generate` takes
  {"tokens" [N, T], "given" [N, T], "temperature" [N]}: given tokens are kept, the others sampled.
  """

  model: nn.Module
  """The network: (carry, tokens [B, T], reset [B]) to (carry, logits [B, T, V])."""
  optimizer: Optimizer
  """How it is trained."""

  def build(self, spec: Spec, steps: int) -> Task:
    """Cross-entropy per symbol, in nats, and in bits per character of longer ones; padding is masked.

    Raises:
      UserError: the model cannot be continued: it sees what comes later, or keeps nothing of what was before.
    """
    model = complete(self.model, spec)
    jax.eval_shape(lambda: model.initial_carry(1, 2))

    def call(module, carry, batch, train):
      return module(carry, batch["tokens"], batch["reset"], *condition_of(batch), train=train)

    def objective(logits, batch):
      total, weight, measured = cross_entropy(logits, batch["targets"], batch["mask"])
      if "characters" in batch:
        bits, characters = total / jnp.log(2.0), jnp.sum(batch["characters"] * batch["mask"])
        measured |= {"bits_per_character": metrics.Mean(bits, characters)}
      return total, weight, measured | {"perplexity": metrics.Perplexity(total, weight)}

    def generate(state, key, request):
      variables = {"params": state.params, **state.model_state}
      return {"tokens": sample_tokens(model, variables, key, request)}

    return supervised(
      model,
      call,
      objective,
      jax.nn.softmax,
      self.optimizer.build(steps),
      spec.prepare,
      model.initial_carry,
      generate,
    )


def condition_of(batch: Batch) -> tuple[jax.Array, ...]:
  """What a language model is told beside the text, if anything."""
  return (batch["condition"],) if "condition" in batch else ()


def sample_tokens(model: nn.Module, variables: dict, key: jax.Array, request: dict) -> jax.Array:
  """Ancestral sampling, one symbol at a time.

  Args:
    model: as in `ModelLanguage`.
    variables: of the model.
    key: one for the whole request.
    request: tokens [N, T] int32, given [N, T] (1 = keep this token), temperature [N] (0 = greedy), and of a
      conditional model condition [N, 1].

  Returns:
    [N, T] int32; the first token is always kept.
  """
  tokens, given, temperature = request["tokens"], request["given"], request["temperature"]
  chex.assert_rank((tokens, given, temperature), (2, 2, 1))
  if tokens.shape[1] == 1:
    return tokens

  def step(carry, token):
    carry, logits = model.apply(variables, carry, token[:, None], None, *condition_of(request), train=False)
    return carry, logits[:, 0]

  carry, choose = model.initial_carry(*tokens.shape), decoding.sampled(temperature)
  forced, length = decoding.Forced(tokens[:, 1:], given[:, 1:]), tokens.shape[1] - 1
  rest = decoding.follow(step, carry, tokens[:, 0], length, choose, key, eos=None, forced=forced)
  return jnp.concatenate([tokens[:, :1], rest.tokens], axis=1)
