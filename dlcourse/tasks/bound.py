"""The evidence lower bound as pure functions (Kingma & Welling, 2014; H5.2); recipe: `variational`."""

from typing import TYPE_CHECKING, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlcourse import losses, metrics
from dlcourse.data.recipe import Batch, Spec
from dlcourse.errors import UserError
from dlcourse.losses import LIKELIHOODS
from dlcourse.models.vae import PENALTIES, Inference, Latent, PixelScale
from dlcourse.task import Coding, PyTree, TrainState, descend, gradient, new_state, step_key
from dlcourse.tasks.pixels import binarised
from dlcourse.theory.gaussians import kl, log_prob

if TYPE_CHECKING:
  from dlcourse.tasks.variational import Autoencode

MODEL, SCALE = "model", "scale"


class Seen(NamedTuple):
  """What the task takes from a batch: pixels [B, H, W, C], what the encoder is shown, mask [B].

  And what both encoder and decoder are told: labels [B], or sources [B, h, w, c].
  """

  pixels: jax.Array
  shown: jax.Array
  told: jax.Array | None
  mask: jax.Array


class Terms(NamedTuple):
  """What one draw of the latents says of B images, in nats.

  Attributes:
    distortion: [B], -log p(x | z), or an error.
    rates: of each group, KL(q || p) of each dimension, [B, ...].
    log_ratio: [B], log p(z) - log q(z | x).
    penalties: name -> [B], further losses.
  """

  distortion: jax.Array
  rates: tuple[jax.Array, ...]
  log_ratio: jax.Array
  penalties: dict[str, jax.Array]


class Bound(NamedTuple):
  """The ELBO and what surrounds it, as pure functions of a `TrainState`.

  Nats are summed over pixels and averaged over images. Parameters are those of the model and, where the
  likelihood has a scale, its logarithm.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  recipe: "Autoencode"
  spec: Spec
  steps: int

  def init(self, key: jax.Array, batch: Batch) -> TrainState:
    """The model, the scale of the likelihood, and the collections that training keeps."""
    key, init_key, latent_key = jax.random.split(key, 3)
    seen = self._prepared(None, None, batch)
    variables = dict(self.model.init(init_key, seen.shown, latent_key, seen.told, train=True))
    variables.pop(PENALTIES, None)
    params = {MODEL: variables.pop("params")}
    if self._likelihood.scaled:
      params[SCALE] = PixelScale().init(init_key)["params"]
    return new_state(key, params, self.optimizer.init(params), variables)

  def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, metrics.Mean]]:
    """One update; the KL weighs what the warm-up says."""
    augment_key, latent_key = jax.random.split(step_key(state))
    seen = self._prepared(augment_key, jax.random.fold_in(augment_key, 1), batch)
    beta = losses.risen(self.recipe.beta, self.recipe.warm_up, state.step, self.steps)

    def objective(params):
      loss, measured, stats = self._objective(params, state.model_state, latent_key, seen, beta, train=True)
      return loss.total, loss.weight, (measured, stats)

    grads, (measured, stats) = gradient(objective, state.params)
    params, opt_state = descend(self.optimizer, grads, state.opt_state, state.params)
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, model_state=stats)
    return state, measured

  def eval_step(self, state: TrainState, key: jax.Array, batch: Batch) -> dict[str, metrics.Mean]:
    """The same of images as they are, with the whole β."""
    seen = self._prepared(None, jax.random.fold_in(key, 1), batch)
    args = state.params, state.model_state, key, seen, self.recipe.beta
    return self._objective(*args, train=False)[1]

  def predict(self, state: TrainState, key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """{"image"}, or {"point"}, of the posterior means; and {"shown"} where that is not what the batch has.

    Of a model that is told a source nothing else is looked at: {"image"} of the prior means, and {"drawn"} of
    a draw from the prior.
    """
    if self.told == "source":
      source = self.spec.prepare(None, batch)["source"]
      code = self._apply(state, source, method="expect")
      drawn = self._drawn(state, key, jnp.ones(len(source)), source)
      return {"image": self.spec.unscale(self.images(state, code, source)), "drawn": drawn}
    seen = self._prepared(None, jax.random.fold_in(key, 1), batch)
    code = self._apply(state, seen.shown, seen.told, method="encode")
    made = {self._kind: self.spec.unscale(self.images(state, code, seen.told))}
    changes = self.recipe.corrupt or self.recipe.binarise != "none"
    return made | ({"shown": seen.shown} if changes else {})

  def generate(self, state: TrainState, key: jax.Array, request: Batch) -> dict[str, jax.Array]:
    """Mean pixels of draws from the prior.

    The request is {"index" [N], "temperature" [N]} and what the model is told, "label" [N] or, in model space,
    "source" [N, h, w, c]; the temperature is a factor of the prior's deviation.
    """
    told = request[self.told] if self.told else None
    return {self._kind: self._drawn(state, key, request["temperature"], told)}

  def images(self, state: TrainState, z: jax.Array, told: jax.Array | None = None) -> jax.Array:
    """z [N, Z] -> means of the pixels [N, H, W, C].

    Raises:
      UserError: the model is told a source, and there is none.
    """
    if self.told == "source" and told is None:
      raise UserError("these images come from a source as well as from latents; Plausible draws them")
    return self._likelihood.pixels(self._apply(state, z, told, method="decode"))

  def encode(self, state: TrainState, batch: Batch) -> jax.Array:
    """The posterior means of all groups, or the codes, of images that are not corrupted, [N, Z]."""
    seen = self._prepared(None, None, batch)
    return self._apply(state, seen.shown, seen.told, method="encode")

  def codes(self, state: TrainState, batch: Batch) -> jax.Array:
    """The symbols of images that are not corrupted, [N, s, s] int32, of a model whose code they are."""
    return self._apply(state, self._prepared(None, None, batch).shown, method="codes")

  def images_of_codes(self, state: TrainState, codes: jax.Array) -> jax.Array:
    """codes [N, s, s] -> means of the pixels [N, H, W, C]."""
    return self._likelihood.pixels(self._apply(state, codes, method="decode_codes"))

  def variables(self, state: TrainState) -> PyTree:
    """Of the model, without the scale of the likelihood."""
    return {"params": state.params[MODEL], **state.model_state}

  def with_variables(self, state: TrainState, variables: PyTree) -> TrainState:
    """The state with other variables of the model."""
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    return state.replace(params={**state.params, MODEL: variables["params"]}, model_state=rest)

  def log_weight(self, state: TrainState, key: jax.Array, batch: Batch) -> jax.Array:
    """log p(x, z) - log q(z | x) of one draw of z, [N] nats, of images that are not corrupted."""
    terms = self._evaluated(state, key, batch)
    return terms.log_ratio - terms.distortion

  def rates(self, state: TrainState, key: jax.Array, batch: Batch) -> jax.Array:
    """KL(q(z | x) || p(z)) of each dimension of all groups, [N, Z] nats, of images that are not corrupted."""
    terms = self._evaluated(state, key, batch)
    return jnp.concatenate([rate.reshape(len(rate), -1) for rate in terms.rates], axis=1)

  def symbols(self, batch: Batch) -> jax.Array:
    """The level of each pixel, [N, H, W, C] int32, of images that are not corrupted."""
    pixels = self._prepared(None, None, batch).pixels
    return jnp.rint(pixels * (self._likelihood.levels - 1)).astype(jnp.int32)

  def posterior(self, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Means and standard deviations of the one group of latents, [N, Z] each."""
    seen = self._prepared(None, None, batch)
    (group,) = self.model.apply(self.variables(state), seen.shown, jax.random.key(0), seen.told).latents
    return group.posterior.mean, jnp.exp(0.5 * group.posterior.log_var)

  def masses(self, state: TrainState, z: jax.Array) -> jax.Array:
    """z [N, Z] -> the probability of each of K levels of each pixel, [N, H, W, C, K]."""
    outputs, log_scale = self._apply(state, z, None, method="decode"), self._log_scale(state.params)
    pixels, levels = outputs.reshape(-1, 1), self._likelihood.levels

    def nats(level):  # of every pixel as if it had this level
      return self._likelihood.distortion(pixels, log_scale, jnp.full_like(pixels, level))

    every = jax.vmap(nats, out_axes=-1)(jnp.arange(levels) / (levels - 1))
    return jnp.exp(-every).reshape(*outputs.shape, levels)

  def coding(self, latents: tuple[Latent, ...]) -> Coding | None:
    """The parts of a lossless code, where the pixels are levels and latents one group of independent ones."""
    flat = len(latents) == 1 and latents[0].posterior.lower is None and latents[0].z.ndim == 2
    if self.told or not flat or not self._counts_bits:
      return None
    return Coding(self._likelihood.levels, self.symbols, self.posterior, self.masses)

  def shapes(self) -> Inference:
    """What the model makes of a batch, as shapes."""

    def inferred(key, batch):
      seen = self._prepared(None, None, batch)
      return self.model.init_with_output(key, seen.shown, key, seen.told, train=True)[0]

    return jax.eval_shape(inferred, jax.random.key(0), dict(self.spec.batch))

  @property
  def _likelihood(self) -> losses.Likelihood:
    return LIKELIHOODS[self.recipe.likelihood]

  @property
  def _kind(self) -> str:
    """What the batch calls that which is encoded."""
    return "image" if self.spec.image_shape else "point"

  @property
  def told(self) -> str | None:
    """What entry of a batch the model is told, "label" or "source"; None: it is told nothing."""
    return getattr(self.model, "told", None)

  def _prepared(self, augment_key, corrupt_key, batch) -> Seen:
    """Pixels that are sampled have at evaluation the same draw each time, so that x stays the same.

    Without a key nothing is corrupted.
    """
    batch = self.spec.prepare(augment_key, batch)
    pixels, told = batch[self._kind], batch.get(self.told)
    pixels = binarised(pixels, self.recipe.binarise, augment_key)
    shown = pixels
    if corrupt_key is not None:
      for index, change in enumerate(self.recipe.corrupt):
        shown = change(jax.random.fold_in(corrupt_key, index), shown)
    return Seen(pixels, shown, told, batch["mask"])

  def _apply(self, state, *args, method):
    return self.model.apply(self.variables(state), *args, method=method)

  def _drawn(self, state, key, temperature, told) -> jax.Array:
    """Means of the pixels of latents from the prior, in [0, 1]."""
    outputs = self._apply(state, key, temperature, told, method="draw")
    return self.spec.unscale(self._likelihood.pixels(outputs))

  def _log_scale(self, params) -> jax.Array | None:
    return PixelScale().apply({"params": params[SCALE]}) if self._likelihood.scaled else None

  def _evaluated(self, state, key, batch) -> Terms:
    seen = self._prepared(None, None, batch)
    return self._terms(state.params, state.model_state, key, seen, train=False)[0]

  def _terms(self, params, stats, key, seen: Seen, train) -> tuple[Terms, PyTree]:
    """One draw, and the collections after it."""
    variables = {"params": params[MODEL], **stats}
    kept = [PENALTIES, *(stats if train else ())]
    inference, kept = self.model.apply(variables, seen.shown, key, seen.told, train=train, mutable=kept)
    penalties = _by_name(kept.pop(PENALTIES, {}))
    if weight := self.recipe.sparsity:
      penalties["sparsity"] = weight * jnp.abs(inference.code).sum(axis=-1)
    terms = Terms(
      self._likelihood.distortion(inference.outputs, self._log_scale(params), seen.pixels),
      tuple(kl(group.posterior, group.prior) for group in inference.latents),
      sum(log_prob(group.prior, group.z) - log_prob(group.posterior, group.z) for group in inference.latents),
      penalties,
    )
    return terms, kept if train else stats

  def _objective(self, params, stats, key, seen: Seen, beta, train):
    """(loss, all metrics, the new collections)."""
    draws = self.recipe.importance_samples
    if draws == 1:
      terms, stats = self._terms(params, stats, key, seen, train)
    else:  # what does not depend on the key, as the encoder, is computed once
      keys = jax.random.split(key, draws)
      every, stats = jax.vmap(lambda key: self._terms(params, stats, key, seen, train))(keys)
      terms, stats = jax.tree.map(lambda x: x.mean(axis=0), every), jax.tree.map(lambda x: x[0], stats)
    rate = sum(rate.reshape(len(rate), -1).sum(axis=1) for rate in terms.rates)
    measured = {"distortion": terms.distortion, **terms.penalties}
    if terms.rates:
      measured |= {"rate": rate, "elbo": -terms.distortion - rate}
    loss = terms.distortion + (beta * self._penalised(terms.rates, rate, seen.mask) if terms.rates else 0.0)
    nats = terms.distortion + rate
    if draws > 1:
      loss = nats = -losses.importance_bound(every.log_ratio - every.distortion)
      measured["bound"] = -nats
    if terms.rates and self._counts_bits:
      measured["bits_per_dim"] = nats / (np.log(2) * seen.pixels[0].size)
    measured["loss"] = loss + sum(terms.penalties.values())
    measured = {name: metrics.mean(value, seen.mask) for name, value in measured.items()}
    return measured["loss"], measured, stats

  @property
  def _counts_bits(self) -> bool:
    """Whether the likelihood is of the pixels as they are, each one of its levels."""
    levels = self._likelihood.levels
    return levels > 2 or (levels == 2 and self.recipe.binarise != "none")

  def _penalised(self, rates, rate, mask):
    """[B] nats."""
    free = self.recipe.free_bits
    return sum(losses.floored(each, mask, free) for each in rates) if free else rate


def _by_name(sown: PyTree) -> dict[str, jax.Array]:
  """What all modules sowed under each name, added up."""
  total: dict[str, jax.Array] = {}
  for path, value in jax.tree_util.tree_leaves_with_path(sown):
    name = next(entry.key for entry in reversed(path) if isinstance(entry, jax.tree_util.DictKey))
    total[name] = total.get(name, 0.0) + value
  return total
