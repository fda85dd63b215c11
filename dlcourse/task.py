"""The contract of a way of learning, and what every task shares."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from dlcourse import metrics
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.parallel import global_sum, replica_key

PyTree = Any


@flax.struct.dataclass
class TrainState:
  """Everything that training changes: arrays only, so that saving and sharding see nothing else.

  Attributes:
    step: [] int32, updates made so far.
    params: what is differentiated.
    opt_state: of the optimizer(s).
    model_state: kept but not differentiated: batch statistics, moving averages, codebooks.
    carry: kept with a leading batch axis and sharded like a batch: hidden states of truncated BPTT.
    rng: [2] uint32, raw data of the run's key. Never consumed: see `step_key`.
  """

  step: jax.Array
  params: PyTree
  opt_state: PyTree
  model_state: PyTree
  carry: PyTree
  rng: jax.Array


class Network(NamedTuple):
  """The network inside a task, for what looks into it or exchanges its weights.

  Attributes:
    model: the Linen module.
    variables: state -> {collection: tree}, what `model.apply` takes.
    with_variables: (state, variables) -> the state with other weights, and nothing else changed.
  """

  model: nn.Module
  variables: Callable
  with_variables: Callable


class Coding(NamedTuple):
  """What a lossless code of images is made of, where pixels are levels and latents are independent.

  Attributes:
    levels: K, how many values a pixel can have.
    symbols: batch -> [N, H, W, C] int32, the level of each pixel as the task sees it.
    posterior: (state, batch) -> (mean [N, Z], standard deviation [N, Z]); the prior is N(0, I).
    masses: (state, z [N, Z]) -> [N, H, W, C, K], the probability of each level of each pixel.
  """

  levels: int
  symbols: Callable
  posterior: Callable
  masses: Callable


class Latents(NamedTuple):
  """Between latents and images, or texts: of a GAN from latents alone, of an autoencoder both ways.

  Where the task is `conditional`, batches have their "label" and `images` takes one [N] as its last argument.

  Attributes:
    dim: Z, of all groups of latents together.
    images: (state, z [N, Z]) -> images [N, H, W, C] in model space.
    features: (state, images) -> [N, F], what a GAN's discriminator sees in each image, whatever the others are.
    encode: (state, batch) -> [N, Z], what an autoencoder makes of the images: of a VAE the posterior means.
    log_weight: (state, key, batch) -> [N] nats, log p(x, z) - log q(z | x) of one draw z; the mean of its
      exponential over keys is p(x).
    rates: (state, key, batch) -> [N, Z] nats, KL(q(z | x) || p(z)) of each dimension.
    coding: of a VAE by which images can be compressed without loss.
    texts: (state, z [N, Z]) -> tokens [N, T], of an autoencoder of text, in place of images.
  """

  dim: int
  images: Callable | None = None
  features: Callable | None = None
  encode: Callable | None = None
  log_weight: Callable | None = None
  rates: Callable | None = None
  coding: Coding | None = None
  texts: Callable | None = None


class Codes(NamedTuple):
  """Between images and the grid of symbols that an autoencoder makes of each.

  Attributes:
    count: K, how many symbols there are.
    read: (state, batch) -> codes [N, s, s] int32.
    images: (state, codes [N, s, s]) -> images [N, H, W, C] in model space.
  """

  count: int
  read: Callable
  images: Callable


class Task(NamedTuple):
  """A way of learning, as pure functions (in the manner of `optax.GradientTransformation`).

  Attributes:
    init: (key, batch) -> TrainState; the batch has the right shapes and nothing but zeros in it.
    train_step: (state, batch) -> (state, metrics).
    eval_step: (state, key, batch) -> metrics.
    predict: (state, key, batch) -> what a person looks at: probabilities, reconstructions.
    generate: (state, key, request) -> samples; their number is the request's leading axis.
    network: where the task trains one network.
    stream: (state, carry, chunk [B, T, ...]) -> (carry, outputs [B, T, ...]), where the network reads a
      sequence once, from its start: what `predict` gives, in parts of any size. The first carry is None.
    precompute: (state, data) -> data in which what training never changes has been computed once.
    conditional: whether `generate` is told the class of each sample, as "label" [N].
    latents: where the task makes images from latents, or finds the latents of images.
    codes: where the code of an image is symbols.
  """

  init: Callable
  train_step: Callable
  eval_step: Callable
  predict: Callable
  generate: Callable | None = None
  network: Network | None = None
  stream: Callable | None = None
  precompute: Callable | None = None
  conditional: bool = False
  latents: Latents | None = None
  codes: Codes | None = None


@dataclasses.dataclass(frozen=True)
class TaskRecipe:
  """A choice of task, model and optimizer; subclasses add their fields and say how to build."""

  def build(self, spec: Spec, steps: int) -> Task:
    """The task for data of this `spec`, trained for `steps` updates."""
    raise NotImplementedError


def complete(model: nn.Module, spec: Spec) -> nn.Module:
  """Fills in what a model leaves to the data: every field that is None and that `spec` knows by that name.

  So are the fields of modules that are fields of it, at any depth.

  Raises:
    UserError: such a field is given and does not fit the data.
  """
  facts = {}
  for name in ("num_classes", "vocab_size", "image_shape"):
    fact, given = getattr(spec, name), getattr(model, name, None)
    if fact is None or not hasattr(model, name):
      continue
    if given not in (None, fact):
      raise UserError(f"the model's {name}={given} does not fit the data's {fact}; leave that field out")
    if given is None:
      facts[name] = fact
  for field in dataclasses.fields(model):
    part = getattr(model, field.name)
    if field.name != "parent" and isinstance(part, nn.Module):
      facts[field.name] = complete(part, spec)
  return model.clone(**facts)


def new_state(
  key: jax.Array,
  params: PyTree,
  opt_state: PyTree,
  model_state: PyTree = None,
  carry: PyTree = None,
) -> TrainState:
  """The state before the first step; `key` becomes the key of all steps."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=opt_state,
    model_state={} if model_state is None else model_state,
    carry={} if carry is None else carry,
    rng=jax.random.key_data(key),
  )


def step_key(state: TrainState) -> jax.Array:
  """The key of this step: a function of (run, step, replica), so that no key needs to be saved."""
  return replica_key(jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step))


def local_gradient(objective: Callable, at: PyTree) -> tuple[PyTree, Any]:
  """This replica's part of the gradient of a loss that is a mean over the *global* batch.

  Every objective returns a sum and a weight, and only this function divides: a mean taken inside each
  replica would weigh tokens by where the padding fell.

  Args:
    objective: at -> (loss_sum [], weight [], aux), over the part of the batch this program sees.
    at: where to differentiate.

  Returns:
    (gradient, aux); `global_sum` of the gradient is the whole one.
  """

  def loss(at):
    total, weight, aux = objective(at)
    return total / jax.lax.stop_gradient(global_sum(weight)), aux

  return jax.grad(loss, has_aux=True)(at)


def gradient(objective: Callable, params: PyTree) -> tuple[PyTree, Any]:
  """The gradient of a loss that is a mean over the global batch; see `local_gradient`."""
  grads, aux = local_gradient(objective, params)
  return global_sum(grads), aux


def skipping(train_step: Callable) -> Callable:
  """A training step that changes nothing but its number where anything in it is not finite.

  Its metrics are those of the steps that were made, and "skipped", the share of those that were not.
  """

  def step(state: TrainState, batch):
    after, measured = train_step(state, batch)
    numbers = [x for x in jax.tree.leaves((after, measured)) if jnp.issubdtype(x.dtype, jnp.inexact)]
    wrong = global_sum(sum(jnp.sum(~jnp.isfinite(x)) for x in numbers)) > 0
    kept = jax.tree.map(lambda new, old: jnp.where(wrong, old, new), after, state)
    measured = jax.tree.map(lambda x: jnp.where(wrong, 0, x), measured)
    return kept.replace(step=after.step), measured | {"skipped": metrics.mean(jnp.float32(wrong))}

  return step


def descend(
  optimizer: optax.GradientTransformation, grads: PyTree, opt_state: PyTree, params: PyTree
) -> tuple[PyTree, PyTree]:
  """One update of the optimizer: (params, opt_state)."""
  updates, opt_state = optimizer.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state
