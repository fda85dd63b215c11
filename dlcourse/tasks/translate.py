"""Sequence to sequence: an answer of any length to an input (Sutskever et al., 2014; H3.6.2, H3.11.1)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse import metrics
from dlcourse.data.recipe import Spec
from dlcourse.data.tokens import BOS
from dlcourse.errors import check_at_least, check_below_one
from dlcourse.optim import Optimizer
from dlcourse.task import Task, TaskRecipe, complete
from dlcourse.tasks import decoding
from dlcourse.tasks.supervised import cross_entropy, inputs_of, smoothed, supervised


@dataclasses.dataclass(frozen=True)
class Translate(TaskRecipe):
  """An answer, token by token, to a sequence or an image; training is given the right tokens before each.

  `predict` gives {"tokens" [B, L], "lengths" [B], "scores" [B], "attention" [B, L, S]}, see
  `dlcourse.tasks.decoding.Decoded`. `generate`, where the source is text, takes {"inputs" [N, S],
  "lengths" [N], "temperature" [N] (0 = the likeliest token)} and gives tokens and lengths.
  """

  model: nn.Module
  """The network, with `encode`, `start`, `decode` and `step` like an EncoderDecoder."""
  optimizer: Optimizer
  """How it is trained."""
  label_smoothing: float = 0.0
  """Share of the target that all tokens have in common, in training; the metrics are without."""
  longest: int = 64
  """Tokens of an answer at most, the end included."""
  beams: int = 1
  """Answers kept in view by beam search; 1 takes the likeliest token each time."""
  alpha: float = 0.6
  """Of the length penalty of beam search; 0 compares log-probabilities, which favours short answers."""

  def __post_init__(self) -> None:
    """Refuses targets that no longer hold the token, answers of nothing and a penalty that rewards."""
    check_below_one({"task.label_smoothing": self.label_smoothing})
    check_at_least(1, {"task.longest": self.longest, "task.beams": self.beams})
    check_at_least(0, {"task.alpha": self.alpha})

  def build(self, spec: Spec, steps: int) -> Task:
    """Cross-entropy per token, in nats; padding is masked."""
    model = complete(self.model, spec)

    def call(module, carry, batch, train):
      logits, _ = module(batch["tokens"], *inputs_of(batch), train=train)
      return carry, logits

    task = supervised(model, call, self._objective, jax.nn.softmax, self.optimizer.build(steps), spec.prepare)

    def predict(state, key, batch):
      del key
      variables = task.network.variables(state)
      source = model.apply(variables, *inputs_of(spec.prepare(None, batch)), method="encode")
      answer = self._answer(model, variables, source)
      return answer._asdict() | {"attention": _attention(model, variables, source, answer.tokens)}

    def generate(state, key, request):
      variables = task.network.variables(state)
      source = model.apply(variables, *inputs_of(spec.prepare(None, request)), method="encode")
      start, first = model.apply(variables, source, self.longest, method="start"), _begin(source)
      choose = decoding.sampled(request["temperature"])
      answer = decoding.follow(_step(model, variables, source), start, first, self.longest, choose, key)
      return {"tokens": answer.tokens, "lengths": answer.lengths}

    answers_text = "inputs" in spec.batch  # an image cannot be asked about by a line of text
    return task._replace(predict=predict, generate=generate if answers_text else None)

  def _objective(self, logits, batch):
    total, weight, measured = cross_entropy(logits, batch["targets"], batch["mask"])
    measured["perplexity"] = metrics.Perplexity(total, weight)
    return smoothed(total, logits, batch["mask"], self.label_smoothing), weight, measured

  def _answer(self, model: nn.Module, variables: dict, source) -> decoding.Decoded:
    first, source = _begin(source), decoding.repeated(source, self.beams)
    start = model.apply(variables, source, self.longest, method="start")
    step = _step(model, variables, source)
    if self.beams == 1:
      return decoding.follow(step, start, first, self.longest, decoding.greedy, jax.random.key(0))
    return decoding.beam_search(step, start, first, self.longest, self.beams, self.alpha)


def _begin(source) -> jax.Array:
  """<bos> for every row, [N]."""
  return jnp.full(jax.tree.leaves(source)[0].shape[0], BOS, jnp.int32)


def _step(model: nn.Module, variables: dict, source) -> decoding.Step:
  """The model as decoding wants it."""

  def step(state, token):
    state, logits, _ = model.apply(variables, source, state, token, method="step")
    return state, logits

  return step


def _attention(model: nn.Module, variables: dict, source, answer: jax.Array) -> jax.Array:
  """[B, L, S] where the model looks for each token of its answer [B, L], when it is given that answer."""
  start = model.apply(variables, source, answer.shape[1], method="start")
  given = jnp.concatenate([_begin(source)[:, None], answer[:, :-1]], axis=1)
  return model.apply(variables, source, start, given, method="decode")[1]
