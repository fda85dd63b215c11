"""Learning a latent-variable model by its evidence lower bound (Kingma & Welling, 2014; H5.2)."""

import dataclasses
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlcourse import losses, metrics
from dlcourse.data.augment import Augmentation
from dlcourse.data.recipe import Batch, Spec
from dlcourse.errors import UserError, check_at_least, check_between
from dlcourse.losses import LIKELIHOODS, LikelihoodName
from dlcourse.models.vae import PENALTIES, Inference, Latent, PixelScale
from dlcourse.optim import Optimizer
from dlcourse.parallel import global_sum
from dlcourse.task import (
  Codes,
  Coding,
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
from dlcourse.theory.gaussians import kl, log_prob

MODEL, SCALE = "model", "scale"
Binarise = Literal["none", "threshold", "sample"]


class Seen(NamedTuple):
  """What the task takes from a batch: pixels [B, H, W, C], what the encoder is shown, labels [B], mask [B]."""

  pixels: jax.Array
  shown: jax.Array
  label: jax.Array | None
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
    variables = dict(self.model.init(init_key, seen.shown, latent_key, seen.label, train=True))
    variables.pop(PENALTIES, None)
    params = {MODEL: variables.pop("params")}
    if self._likelihood.scaled:
      params[SCALE] = PixelScale().init(init_key)["params"]
    return new_state(key, params, self.optimizer.init(params), variables)

  def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, metrics.Mean]]:
    """One update; the KL weighs what the warm-up says."""
    augment_key, latent_key = jax.random.split(step_key(state))
    seen = self._prepared(augment_key, jax.random.fold_in(augment_key, 1), batch)
    beta = self.recipe.beta
    if self.recipe.warm_up:
      beta *= jnp.minimum(1.0, state.step / (self.recipe.warm_up * self.steps))

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
    """{"image"}, or {"point"}, of the posterior means; and {"shown"} where that is not what the batch has."""
    seen = self._prepared(None, jax.random.fold_in(key, 1), batch)
    code = self._apply(state, seen.shown, seen.label, method="encode")
    made = {self._kind: self.spec.unscale(self.images(state, code, seen.label))}
    changes = self.recipe.corrupt or self.recipe.binarise != "none"
    return made | ({"shown": seen.shown} if changes else {})

  def generate(self, state: TrainState, key: jax.Array, request: Batch) -> dict[str, jax.Array]:
    """Mean pixels of draws from the prior.

    The request is {"index" [N], "temperature" [N]} and, if conditional, "label" [N]; the temperature is a
    factor of the prior's deviation.
    """
    label = request["label"] if self._conditional else None
    outputs = self._apply(state, key, request["temperature"], label, method="draw")
    return {self._kind: self.spec.unscale(self._likelihood.pixels(outputs))}

  def images(self, state: TrainState, z: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """z [N, Z] -> means of the pixels [N, H, W, C]."""
    return self._likelihood.pixels(self._apply(state, z, label, method="decode"))

  def encode(self, state: TrainState, batch: Batch) -> jax.Array:
    """The posterior means of all groups, or the codes, of images that are not corrupted, [N, Z]."""
    seen = self._prepared(None, None, batch)
    return self._apply(state, seen.shown, seen.label, method="encode")

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
    variables = {"params": state.params[MODEL], **state.model_state}
    (group,) = self.model.apply(variables, seen.shown, jax.random.key(0), seen.label).latents
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
    if self._conditional or not flat or not self._counts_bits:
      return None
    return Coding(self._likelihood.levels, self.symbols, self.posterior, self.masses)

  def shapes(self) -> Inference:
    """What the model makes of a batch, as shapes."""

    def inferred(key, batch):
      seen = self._prepared(None, None, batch)
      return self.model.init_with_output(key, seen.shown, key, seen.label, train=True)[0]

    return jax.eval_shape(inferred, jax.random.key(0), dict(self.spec.batch))

  @property
  def _likelihood(self) -> losses.Likelihood:
    return LIKELIHOODS[self.recipe.likelihood]

  @property
  def _kind(self) -> str:
    """What the batch calls that which is encoded."""
    return "image" if self.spec.image_shape else "point"

  @property
  def _conditional(self) -> bool:
    return getattr(self.model, "conditional", False)

  def _prepared(self, augment_key, corrupt_key, batch) -> Seen:
    """Pixels that are sampled have at evaluation the same draw each time, so that x stays the same.

    Without a key nothing is corrupted.
    """
    batch = self.spec.prepare(augment_key, batch)
    pixels, label = batch[self._kind], batch.get("label") if self._conditional else None
    if self.recipe.binarise == "threshold":
      pixels = (pixels > 0.5).astype(pixels.dtype)
    elif self.recipe.binarise == "sample":
      key = jax.random.key(0) if augment_key is None else jax.random.fold_in(augment_key, 2)
      pixels = jax.random.bernoulli(key, pixels).astype(pixels.dtype)
    shown = pixels
    if corrupt_key is not None:
      for index, change in enumerate(self.recipe.corrupt):
        shown = change(jax.random.fold_in(corrupt_key, index), shown)
    return Seen(pixels, shown, label, batch["mask"])

  def _apply(self, state, *args, method):
    return self.model.apply(self.variables(state), *args, method=method)

  def _log_scale(self, params) -> jax.Array | None:
    return PixelScale().apply({"params": params[SCALE]}) if self._likelihood.scaled else None

  def _evaluated(self, state, key, batch) -> Terms:
    seen = self._prepared(None, None, batch)
    return self._terms(state.params, state.model_state, key, seen, train=False)[0]

  def _terms(self, params, stats, key, seen: Seen, train) -> tuple[Terms, PyTree]:
    """One draw, and the collections after it."""
    variables = {"params": params[MODEL], **stats}
    kept = [PENALTIES, *(stats if train else ())]
    inference, kept = self.model.apply(variables, seen.shown, key, seen.label, train=train, mutable=kept)
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
    """[B] nats; with free bits the same number for each image, as what is floored is a mean over the batch."""
    if not self.recipe.free_bits:
      return rate
    count, floored = global_sum(mask.sum()), 0.0
    for each in rates:
      of_maps = each.reshape(len(each), -1, each.shape[-1]).sum(axis=1)  # [B, C]
      mean = global_sum((mask[:, None] * of_maps).sum(axis=0)) / count
      floored += jnp.maximum(mean, self.recipe.free_bits).sum()
    return floored * jnp.ones_like(mask)


def _by_name(sown: PyTree) -> dict[str, jax.Array]:
  """What all modules sowed under each name, added up."""
  total: dict[str, jax.Array] = {}
  for path, value in jax.tree_util.tree_leaves_with_path(sown):
    name = next(entry.key for entry in reversed(path) if isinstance(entry, jax.tree_util.DictKey))
    total[name] = total.get(name, 0.0) + value
  return total


@dataclasses.dataclass(frozen=True)
class Autoencode(TaskRecipe):
  """An autoencoder, variational where its model has latents; losses and regularisers are fields.

  `dlcourse.models.vae` says what a model offers. `predict` gives reconstructions from the posterior means,
  `generate` images from the prior.
  """

  model: nn.Module
  """The network: encoder and decoder."""
  optimizer: Optimizer
  """How it is trained."""
  likelihood: LikelihoodName = "bernoulli"
  """Of the pixels: bernoulli; gaussian, with one scale that is learnt; logistic, of 256 levels, likewise
  (Salimans et al., 2017); squared: the squared error of a deterministic autoencoder."""
  binarise: Binarise = "none"
  """Make pixels 0 or 1: threshold: by 0.5; sample: at random at each step, grey being the probability of white
  (Salakhutdinov & Murray, 2008), and for evaluation once."""
  beta: float = 1.0
  """Weight of the KL term; 1 is the ELBO, more is the β-VAE of Higgins et al. (2017; H5.3.3)."""
  warm_up: float = 0.0
  """Share of the steps over which that weight rises from 0 (Bowman et al., 2016; Sønderby et al., 2016)."""
  free_bits: float = 0.0
  """Nats of each dimension, or map, that are not penalised (Kingma et al., 2016, arXiv:1606.04934, eq. 15)."""
  importance_samples: int = 1
  """Draws K of the importance-weighted bound (Burda et al., 2016, arXiv:1509.00519); 1 is the ELBO."""
  corrupt: tuple[Augmentation, ...] = ()
  """Damage of what the encoder is shown, and not of what it is to reconstruct (Vincent et al., 2010)."""
  sparsity: float = 0.0
  """Weight of the sum of the code's absolute values, of a deterministic autoencoder."""

  def __post_init__(self) -> None:
    """Refuses numbers out of range, and what does not go together."""
    names = ("beta", "free_bits", "sparsity")
    check_at_least(0, {f"task.{name}": getattr(self, name) for name in names})
    check_between(0, 1, {"task.warm_up": self.warm_up})
    check_at_least(1, {"task.importance_samples": self.importance_samples})
    if self.importance_samples > 1 and (self.beta != 1 or self.warm_up or self.free_bits):
      raise UserError(
        f"--task.importance_samples={self.importance_samples} bounds log p(x) without a KL term; leave out "
        "beta, warm_up and free_bits"
      )
    if self.binarise != "none" and self.likelihood != "bernoulli":
      raise UserError(f"--task.binarise={self.binarise} makes pixels 0 or 1, for --task.likelihood=bernoulli")

  def build(self, spec: Spec, steps: int) -> Task:
    """The ELBO in nats; see `Bound`."""
    model = complete(self.model, spec)
    if spec.image_shape:
      if not np.allclose(spec.unscale(np.array([[0.0], [1.0]])), [[0.0], [1.0]]):
        raise UserError("an autoencoder's pixels are numbers in [0, 1]; set --data.scale=unit")
    elif "point" not in spec.batch:
      raise UserError("an autoencoder needs images, or points such as those of Vectors, and this data has none")
    elif self.likelihood not in ("gaussian", "squared"):
      raise UserError(f"--task.likelihood={self.likelihood} is of pixels; points can have gaussian or squared")
    else:
      model = model.clone(image_shape=tuple(spec.batch["point"].shape[1:]))
    bound = Bound(model, self.optimizer.build(steps), self, spec, steps)
    shapes = bound.shapes()
    self._check(bool(shapes.latents))
    latents = Latents(
      shapes.code.shape[1],
      bound.images,
      encode=bound.encode,
      log_weight=bound.log_weight if shapes.latents else None,
      rates=bound.rates if shapes.latents else None,
      coding=bound.coding(shapes.latents),
    )
    symbols = hasattr(model, "codes")
    return Task(
      bound.init,
      bound.train_step,
      bound.eval_step,
      bound.predict,
      bound.generate if shapes.latents else None,
      # What a prior of the symbols begins with.
      Network(model, bound.variables, bound.with_variables) if symbols else None,
      conditional=getattr(model, "conditional", False),
      latents=latents,
      codes=Codes(model.num_codes, bound.codes, bound.images_of_codes) if symbols else None,
    )

  def _check(self, variational: bool) -> None:
    """Refuses what goes with latents where the model has none, and the other way around."""
    if variational and not LIKELIHOODS[self.likelihood].proper:
      raise UserError(
        f"--task.likelihood={self.likelihood} is no likelihood, which a model with latents needs; gaussian is"
      )
    if variational and self.sparsity:
      raise UserError("--task.sparsity is of a deterministic code; set --task.model.posterior=rectified")
    weighs = self.beta != 1 or self.warm_up or self.free_bits or self.importance_samples > 1
    if not variational and weighs:
      raise UserError("beta, warm_up, free_bits and importance_samples go with a model that has latents")
