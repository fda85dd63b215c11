"""Learning to write sentences from one vector by their ELBO (Bowman et al., 2016; H5.2.2, H5.4.3).

Shapes: B sentences, N samples, T tokens of a sentence, Z latents.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlcourse import losses, metrics
from dlcourse.data.recipe import Batch, Spec
from dlcourse.data.tokens import BOS, UNK
from dlcourse.errors import UserError, check_at_least, check_below_one, check_between
from dlcourse.models.text_vae import TextVAE
from dlcourse.optim import Optimizer
from dlcourse.task import (
  Latents,
  Network,
  PyTree,
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
from dlcourse.theory.gaussians import Gaussian, kl, log_prob, standard_normal


@dataclasses.dataclass(frozen=True)
class AutoencodeText(TaskRecipe):
  """A variational autoencoder of sentences; without latents a language model, with the same metrics.

  `predict` gives {"tokens" [B, T], "lengths" [B]}, the likeliest tokens one by one from the posterior means;
  `generate` sentences of latents from the prior, in which given tokens are kept. The "temperature" [N] is that
  of the tokens: 1 draws from the model, 0 takes the likeliest of each latent.
  """

  model: TextVAE
  """The network: encoder and decoder."""
  optimizer: Optimizer
  """How it is trained."""
  word_dropout: float = 0.0
  """Probability that a token before the one to say is hidden from the decoder in training, so that it needs z
  (Bowman et al., 2016, section 3.1)."""
  beta: float = 1.0
  """Weight of the KL term; 1 is the ELBO."""
  warm_up: float = 0.0
  """Share of the steps over which that weight rises from 0 (section 3.1)."""
  free_bits: float = 0.0
  """Nats of each dimension that are not penalised (Kingma et al., 2016, arXiv:1606.04934, eq. 15)."""

  def __post_init__(self) -> None:
    """Refuses numbers out of range."""
    check_below_one({"task.word_dropout": self.word_dropout})
    check_at_least(0, {"task.beta": self.beta, "task.free_bits": self.free_bits})
    check_between(0, 1, {"task.warm_up": self.warm_up})

  def build(self, spec: Spec, steps: int) -> Task:
    """The ELBO of a sentence, in nats, and the bound of the perplexity that it gives; see `SentenceBound`.

    Raises:
      UserError: the data is not sentences by themselves.
    """
    if not {"tokens", "targets", "target_lengths"} <= set(spec.batch) or "inputs" in spec.batch:
      raise UserError("an autoencoder of text needs texts that stand by themselves, such as those of Lines")
    bound = SentenceBound(complete(self.model, spec), self.optimizer.build(steps), self, spec, steps)
    latents = Latents(
      bound.model.latent_dim,
      encode=bound.encode,
      log_weight=bound.log_weight,
      rates=bound.rates,
      texts=bound.texts,
    )
    return Task(
      bound.init,
      bound.train_step,
      bound.eval_step,
      bound.predict,
      bound.generate,
      Network(bound.model, bound.variables, lambda state, new: state.replace(params=new["params"])),
      latents=latents if bound.model.latent_dim else None,
    )


class Terms(NamedTuple):
  """What one draw of the latents says of B sentences, in nats.

  Attributes:
    nats: [B, T], -log p of each token given z and those before it; 0 after the end.
    right: [B, T], 1 where that token is the likeliest; 0 after the end.
    rates: [B, Z], KL(q || p) of each dimension.
    log_ratio: [B], log p(z) - log q(z | x).
  """

  nats: jax.Array
  right: jax.Array
  rates: jax.Array
  log_ratio: jax.Array


class SentenceBound(NamedTuple):
  """The ELBO of sentences and what surrounds it, as pure functions of a `TrainState`.

  Nats are summed over the tokens of a sentence, <eos> included, and averaged over sentences.
  """

  model: TextVAE
  optimizer: optax.GradientTransformation
  recipe: AutoencodeText
  spec: Spec
  steps: int

  def init(self, key: jax.Array, batch: Batch) -> TrainState:
    """Parameters, and nothing else that training keeps."""
    key, init_key, latent_key = jax.random.split(key, 3)
    params = self.model.init(init_key, *_read(batch), batch["tokens"], latent_key)["params"]
    return new_state(key, params, self.optimizer.init(params))

  def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, metrics.Mean]]:
    """One update; the KL weighs what the warm-up says."""
    hide_key, latent_key, dropout_key = jax.random.split(step_key(state), 3)
    tokens = hidden(hide_key, batch["tokens"], self.recipe.word_dropout)
    beta = losses.risen(self.recipe.beta, self.recipe.warm_up, state.step, self.steps)

    def objective(params):
      terms = self._terms({"params": params}, batch, tokens, latent_key, dropout_key)
      measured = self._measured(terms, batch, beta)
      return measured["loss"].total, measured["loss"].weight, measured

    grads, measured = gradient(objective, state.params)
    params, opt_state = descend(self.optimizer, grads, state.opt_state, state.params)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), measured

  def eval_step(self, state: TrainState, key: jax.Array, batch: Batch) -> dict[str, metrics.Mean]:
    """The same with no token hidden and the whole β."""
    return self._measured(self._evaluated(state, key, batch), batch, self.recipe.beta)

  def predict(self, state: TrainState, key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """The likeliest tokens from the posterior means, see `AutoencodeText`."""
    del key
    written = self._written(state, self._posterior(state, batch).mean)
    return {"tokens": written.tokens, "lengths": written.lengths}

  def generate(self, state: TrainState, key: jax.Array, request: Batch) -> dict[str, jax.Array]:
    """Sentences of latents from the prior.

    The request is {"tokens" [N, L], "given" [N, L] (1 = keep this token), "temperature" [N]}.
    """
    latent_key, token_key = jax.random.split(key)
    z = jax.random.normal(latent_key, (len(request["tokens"]), self.model.latent_dim))
    forced = decoding.Forced(request["tokens"], request["given"])
    choose = decoding.sampled(request["temperature"])
    return {"tokens": self._decoded(state, z, forced.tokens.shape[1], choose, token_key, forced).tokens}

  def encode(self, state: TrainState, batch: Batch) -> jax.Array:
    """The posterior means, [B, Z]."""
    return self._posterior(state, batch).mean

  def rates(self, state: TrainState, key: jax.Array, batch: Batch) -> jax.Array:
    """KL(q(z | x) || p(z)) of each dimension, [B, Z] nats."""
    del key
    return _rates(self._posterior(state, batch))

  def log_weight(self, state: TrainState, key: jax.Array, batch: Batch) -> jax.Array:
    """log p(x, z) - log q(z | x) of one draw of z, [B] nats."""
    terms = self._evaluated(state, key, batch)
    return terms.log_ratio - terms.nats.sum(axis=1)

  def texts(self, state: TrainState, z: jax.Array) -> jax.Array:
    """z [N, Z] -> the likeliest tokens, one by one, [N, T] int32."""
    return self._written(state, z).tokens

  def variables(self, state: TrainState) -> PyTree:
    """Of the model."""
    return {"params": state.params}

  def _posterior(self, state, batch) -> Gaussian:
    return self.model.apply(self.variables(state), *_read(batch), method="posterior")

  def _written(self, state, z) -> decoding.Decoded:
    length = self.spec.batch["targets"].shape[1]
    return self._decoded(state, z, length, decoding.greedy, jax.random.key(0))

  def _decoded(self, state, z, length, choose, key, forced=None) -> decoding.Decoded:
    variables = self.variables(state)

    def step(carried, token):
      z, carry = carried
      carry, logits = self.model.apply(variables, z, carry, token[:, None], method="decode")
      return (z, carry), logits[:, 0]

    start = z, self.model.apply(variables, z, method="start")
    return decoding.follow(step, start, jnp.full(len(z), BOS), length, choose, key, forced=forced)

  def _evaluated(self, state, key, batch) -> Terms:
    return self._terms(self.variables(state), batch, batch["tokens"], key)

  def _terms(self, variables, batch, tokens, latent_key, dropout_key=None) -> Terms:
    """One draw; with a key of the dropout as in training."""
    train = dropout_key is not None
    rngs = {"dropout": dropout_key} if train else None
    inference = self.model.apply(variables, *_read(batch), tokens, latent_key, train, rngs=rngs)
    (group,), logits, targets = inference.latents, inference.outputs, batch["targets"]
    counts = jnp.arange(targets.shape[1]) < batch["target_lengths"][:, None]  # [B, T]
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return Terms(
      jnp.where(counts, nats, 0.0),
      (counts & (jnp.argmax(logits, axis=-1) == targets)).astype(nats.dtype),
      _rates(group.posterior),
      log_prob(group.prior, group.z) - log_prob(group.posterior, group.z),
    )

  def _measured(self, terms: Terms, batch, beta) -> dict[str, metrics.Mean]:
    """Means over the sentences that count, and over their tokens."""
    mask = batch["mask"]
    distortion, rate = terms.nats.sum(axis=1), terms.rates.sum(axis=1)
    penalised = losses.floored(terms.rates, mask, self.recipe.free_bits) if self.recipe.free_bits else rate
    of_sentences = {
      "loss": distortion + beta * penalised,
      "elbo": -distortion - rate,
      "distortion": distortion,
      "rate": rate,
    }
    measured = {name: metrics.mean(value, mask) for name, value in of_sentences.items()}
    tokens = (mask * batch["target_lengths"]).sum()
    right = (mask[:, None] * terms.right).sum()
    perplexity = metrics.Perplexity(-measured["elbo"].total, tokens)
    return measured | {"perplexity": perplexity, "accuracy": metrics.Mean(right, tokens)}


def hidden(key: jax.Array, tokens: jax.Array, share: float) -> jax.Array:
  """tokens [B, T] of which some, but never <bos>, are <unk>: each with the probability `share`."""
  drawn = jax.random.bernoulli(key, share, tokens.shape)
  return jnp.where(drawn & (tokens != BOS), UNK, tokens)


def _read(batch: Batch) -> tuple[jax.Array, jax.Array]:
  """What the encoder is shown of a batch."""
  return batch["targets"], batch["target_lengths"]


def _rates(posterior: Gaussian) -> jax.Array:
  """[B, Z]."""
  return kl(posterior, standard_normal(posterior.mean))
