"""The game of a generator against a discriminator, as pure functions (Goodfellow et al., 2014; H4.4)."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dlcourse import losses, metrics
from dlcourse.data.recipe import Batch, Spec
from dlcourse.errors import UserError
from dlcourse.losses import GAMES
from dlcourse.parallel import global_sum
from dlcourse.task import PyTree, TrainState, descend, gradient, local_gradient, new_state, step_key

if TYPE_CHECKING:
  from dlcourse.tasks.adversarial import Compete

GENERATOR, DISCRIMINATOR, EMA = "generator", "discriminator", "ema"
_SOWN = "intermediates"
_SHOWS = f'needs a discriminator that shows its features by self.sow("{_SOWN}", "features", x)'


class Part(NamedTuple):
  """What the game takes from a batch: images or points, what they are made from, labels [B], mask [B]."""

  real: jax.Array
  source: jax.Array | None
  label: jax.Array | None
  mask: jax.Array


class Judged(NamedTuple):
  """What a discriminator makes of B images: outputs [B], features [B, F] if it shows them, new collections."""

  outputs: jax.Array
  features: jax.Array | None
  stats: PyTree


class Player(NamedTuple):
  """What training changes of one network: its parameters, their optimizer and what is not differentiated."""

  params: PyTree
  opt_state: PyTree
  stats: PyTree


def begun(
  network: nn.Module, rngs: Mapping[str, jax.Array], *inputs: jax.Array | None
) -> tuple[PyTree, PyTree]:
  """A network's first parameters, and its other collections that training keeps."""
  variables = dict(network.init(rngs, *inputs, train=True))
  variables.pop(_SOWN, None)
  return variables.pop("params"), variables


def judged(d: nn.Module, params: PyTree, stats: PyTree, images, label, key, mask=None) -> Judged:
  """What a discriminator makes of images [B, ...] in training mode; batch norm leaves out what `mask` does."""
  variables, kept = {"params": params, **stats}, [*stats, _SOWN]
  outputs, kept = d.apply(variables, images, label, train=True, mask=mask, rngs={"noise": key}, mutable=kept)
  (features,) = kept.pop(_SOWN, {}).get("features", (None,))
  return Judged(outputs, features, kept)


def verdicts(
  game: losses.Game, on_real: jax.Array, on_fake: jax.Array, mask: jax.Array, label: float = 1.0
) -> tuple[jax.Array, dict[str, metrics.Mean]]:
  """A discriminator's loss [B] by its outputs [B], that of real images against `label`, and what to read."""
  each = game.real(on_real, label) + game.fake(on_fake)
  return each, {
    "d_loss": metrics.mean(each, mask),
    "d_real": metrics.mean(game.score(on_real), mask),
    "d_fake": metrics.mean(game.score(on_fake), mask),
  }


class Rules(NamedTuple):
  """The game as pure functions of a `TrainState` whose fields have an entry for each player.

  A step shares the batch among `critic_steps` updates of the discriminator, each on fakes of its own; the
  generator then learns through the last of those fakes against the *new* discriminator, so that no network
  runs forward more often than it has to. Samples are drawn from the average of the generator.
  """

  g: nn.Module
  d: nn.Module
  g_optimizer: optax.GradientTransformation
  d_optimizer: optax.GradientTransformation
  recipe: "Compete"
  spec: Spec

  def init(self, key: jax.Array, batch: Batch) -> TrainState:
    """Both networks, and the average, which starts at the generator's first weights."""
    key, g_key, d_key, z_key = jax.random.split(key, 4)
    part = self._prepared(None, batch)
    inputs = self._inputs(z_key, part)
    seen = self._beside(part.source, part.real)
    g_params, g_stats = begun(self.g, {"params": g_key, "noise": z_key}, inputs, part.label)
    d_params, d_stats = begun(self.d, {"params": d_key, "noise": z_key}, seen, part.label)
    params = {GENERATOR: g_params, DISCRIMINATOR: d_params}
    opt_state = {
      GENERATOR: self.g_optimizer.init(params[GENERATOR]),
      DISCRIMINATOR: self.d_optimizer.init(params[DISCRIMINATOR]),
    }
    stats = {GENERATOR: g_stats, DISCRIMINATOR: d_stats, EMA: g_params}
    return new_state(key, params, opt_state, stats)

  def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, metrics.Mean]]:
    """Updates the discriminator, `critic_steps` times, then the generator."""
    augment_key, draw_key = jax.random.split(step_key(state))
    parts = self._parts(self._prepared(augment_key, batch))
    keys = jax.random.split(draw_key, self.recipe.critic_steps)
    critic = Player(*(tree[DISCRIMINATOR] for tree in (state.params, state.opt_state, state.model_state)))
    due = state.step % self.recipe.penalty_every == 0
    params, stats = state.params[GENERATOR], state.model_state[GENERATOR]

    def earlier(critic, part_and_key):
      part, key = part_and_key
      fakes, _ = self._made(params, stats, part, key)
      return self._train_critic(critic, part, fakes, key, due)

    earlier_parts, last = jax.tree.map(lambda x: x[:-1], parts), jax.tree.map(lambda x: x[-1], parts)
    measured = {}
    if self.recipe.critic_steps > 1:
      critic, measured = jax.lax.scan(earlier, critic, (earlier_parts, keys[:-1]))
      measured = jax.tree.map(lambda x: x.sum(axis=0), measured)
    fakes, through_generator, g_stats = jax.vjp(
      lambda p: self._made(p, stats, last, keys[-1]), params, has_aux=True
    )
    critic, d_measured = self._train_critic(critic, last, fakes, keys[-1], due)
    measured = jax.tree.map(jnp.add, measured, d_measured) if measured else d_measured

    on_fakes, g_measured = local_gradient(lambda x: self._generator_loss(x, critic, last, keys[-1]), fakes)
    (grads,) = through_generator(on_fakes)
    params, g_opt = descend(self.g_optimizer, global_sum(grads), state.opt_state[GENERATOR], params)
    ema = optax.incremental_update(params, state.model_state[EMA], 1.0 - self.recipe.ema_decay)
    state = state.replace(
      step=state.step + 1,
      params={GENERATOR: params, DISCRIMINATOR: critic.params},
      opt_state={GENERATOR: g_opt, DISCRIMINATOR: critic.opt_state},
      model_state={GENERATOR: g_stats, DISCRIMINATOR: critic.stats, EMA: ema},
    )
    return state, measured | g_measured

  def eval_step(self, state: TrainState, key: jax.Array, batch: Batch) -> dict[str, metrics.Mean]:
    """Scores real images (as 1, whatever `real_label`) and as many samples of the averaged generator.

    Batch norm of the discriminator goes by each batch, as in training: running averages mix real images with
    fakes.
    """
    part, game = self._prepared(None, batch), self._game
    made = self._sampled(state, key, part)
    on_real, on_fake = self._score(state, part.real, part), self._score(state, made, part)
    _, measured = verdicts(game, on_real, on_fake, part.mask)
    measured |= {"g_loss": metrics.mean(game.generator(on_fake), part.mask)}
    if part.source is None:
      return measured
    return measured | {"error": metrics.mean(losses.mean_absolute(made, part.real), part.mask)}

  def predict(self, state: TrainState, key: jax.Array, batch: Batch) -> jax.Array | dict[str, jax.Array]:
    """D(x) of real images [B], as a probability or as a critic says; of sources {"image"}, what they become."""
    part = self._prepared(None, batch)
    if part.source is not None:
      return {"image": self.spec.unscale(self._sampled(state, key, part))}
    return self._game.score(self._score(state, part.real, part))

  def generate(self, state: TrainState, key: jax.Array, request: Batch) -> dict[str, jax.Array]:
    """Samples of the averaged generator.

    The request is {"index" [N], "temperature" [N]} and, if conditional, "label" [N]. Below 1 the temperature
    draws samples towards the middle, less varied and more typical: it is ψ of a generator that truncates styles
    (Karras et al., 2019, appendix B), and a factor of the latents of any other.
    """
    # Of what is not drawn only the length counts.
    asked = Part(request["index"], None, request.get("label"), request["index"])
    z_key, noise_key = jax.random.split(key)
    z, share = self._inputs(z_key, asked), request["temperature"][:, None]
    if getattr(self.g, "truncates", False):
      images = self._by_average(state, z, asked.label, noise_key, {"truncation": share})
    else:
      images = self._by_average(state, share * z, asked.label, noise_key)
    return {self._kind: self.spec.unscale(images)}

  def images(self, state: TrainState, z: jax.Array) -> jax.Array:
    """z [N, Z] -> images of the averaged generator, in model space; its noise is the same each time."""
    return self._by_average(state, z, None, jax.random.key(0))

  def features(self, state: TrainState, images: jax.Array) -> jax.Array:
    """What the discriminator sows of images in model space, [N, F]; its batch norm by the running averages."""
    variables = {"params": state.params[DISCRIMINATOR], **state.model_state[DISCRIMINATOR]}
    rngs = {"noise": jax.random.key(0)}
    _, kept = self.d.apply(variables, images, None, train=False, rngs=rngs, mutable=[_SOWN])
    if "features" not in kept.get(_SOWN, {}):
      raise UserError(f"a search for latents {_SHOWS}")
    (features,) = kept[_SOWN]["features"]
    return features.reshape(len(images), -1)

  @property
  def _game(self) -> losses.Game:
    return GAMES[self.recipe.loss]

  @property
  def _kind(self) -> str:
    """What the batch calls that which is to be made."""
    return "image" if self.spec.image_shape else "point"

  def _prepared(self, key, batch) -> Part:
    batch = self.spec.prepare(key, batch)
    return Part(batch[self._kind], batch.get("source"), batch.get("label"), batch["mask"])

  def _parts(self, batch: Part) -> Part:
    """[B, ...] -> [critic_steps, B / critic_steps, ...]; every device keeps its own rows."""
    count = self.recipe.critic_steps
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)

  def _inputs(self, key, part: Part) -> jax.Array:
    """What the generator makes images from: as many latents [B, Z], or the sources."""
    if part.source is not None:
      return part.source
    return jax.random.normal(key, (len(part.real), self.g.latent_dim))

  def _made(self, params, stats, part: Part, key):
    """Fakes in training mode: (images, the generator's new collections)."""
    z_key, noise_key = jax.random.split(key)
    variables, inputs = {"params": params, **stats}, self._inputs(z_key, part)
    rngs = {"noise": noise_key}
    return self.g.apply(variables, inputs, part.label, train=True, rngs=rngs, mutable=list(stats))

  def _sampled(self, state, key, part: Part):
    z_key, noise_key = jax.random.split(key)
    return self._by_average(state, self._inputs(z_key, part), part.label, noise_key)

  def _by_average(self, state, inputs, label, noise_key, only_some: Mapping[str, jax.Array] = {}):
    """What the averaged generator makes of latents or sources; `only_some` is what not every one takes."""
    variables = {"params": state.model_state[EMA], **state.model_state[GENERATOR]}
    return self.g.apply(variables, inputs, label, train=False, rngs={"noise": noise_key}, **only_some)

  def _beside(self, source, images):
    """Images with their sources as further channels, where the discriminator is to see them."""
    if not self.recipe.see_source:
      return images
    for axis in (1, 2):
      source = source.repeat(images.shape[axis] // source.shape[axis], axis)
    return jnp.concatenate([images, source], axis=-1)

  def _score(self, state, images, part: Part):
    params, stats = state.params[DISCRIMINATOR], state.model_state[DISCRIMINATOR]
    seen = self._beside(part.source, images)
    return judged(self.d, params, stats, seen, part.label, jax.random.key(0), part.mask).outputs

  def _seen(self, key, images, part: Part):
    """What the discriminator sees of images in model space."""
    images = self._beside(part.source, images)
    for index, change in enumerate(self.recipe.augment):
      images = self.spec.scale(change(jax.random.fold_in(key, index), self.spec.unscale(images)))
    return images

  def _train_critic(self, critic: Player, part: Part, fakes, key, due) -> tuple[Player, dict]:
    """One update of the discriminator."""
    key = jax.random.fold_in(key, 1)
    grads, (measured, stats) = gradient(
      lambda params: self._critic_loss(params, critic.stats, part, fakes, key, due), critic.params
    )
    params, opt_state = descend(self.d_optimizer, grads, critic.opt_state, critic.params)
    if limit := self.recipe.clip:
      params = jax.tree.map(lambda x: jnp.clip(x, -limit, limit), params)
    return Player(params, opt_state, stats), measured

  def _critic_loss(self, params, stats, part: Part, fakes, key, due):
    (_, _, label, mask), game = part, self._game
    keys = jax.random.split(key, 5)
    real, fakes = self._seen(keys[0], part.real, part), self._seen(keys[1], fakes, part)
    on_real, _, stats = judged(self.d, params, stats, real, label, keys[2])
    on_fake, _, stats = judged(self.d, params, stats, fakes, label, keys[3])
    each, measured = verdicts(game, on_real, on_fake, mask, self.recipe.real_label)
    if self.recipe.gradient_penalty or self.recipe.r1:

      def critic(images):
        return judged(self.d, params, stats, images, label, keys[2]).outputs

      penalty = self._penalty(critic, real, fakes, keys[4], due)
      each, measured = each + penalty, measured | {"penalty": metrics.mean(penalty, mask)}
    total = metrics.mean(each, mask)
    return total.total, total.weight, (measured, stats)

  def _penalty(self, critic, real, fakes, key, due):
    """[B], of the steps that are due."""
    recipe = self.recipe

    def weighed():
      penalty = jnp.zeros(len(real))
      if recipe.gradient_penalty:
        share = jax.random.uniform(key, (len(real),))
        penalty += recipe.gradient_penalty * losses.one_lipschitz_penalty(critic, real, fakes, share)
      if recipe.r1:
        penalty += 0.5 * recipe.r1 * losses.squared_slopes(critic, real)
      return recipe.penalty_every * penalty

    if recipe.penalty_every == 1:
      return weighed()
    return jax.lax.cond(due, weighed, lambda: jnp.zeros(len(real)))

  def _generator_loss(self, fakes, critic: Player, part: Part, key):
    _, _, label, mask = part
    keys = jax.random.split(jax.random.fold_in(key, 2), 4)
    judge = functools.partial(judged, self.d, critic.params, critic.stats)
    of_fakes = judge(self._seen(keys[0], fakes, part), label, keys[1])
    loss = metrics.mean(self._game.generator(of_fakes.outputs), mask)
    measured = {"g_loss": loss}
    if weight := self.recipe.feature_matching:
      of_real = judge(self._seen(keys[2], part.real, part), label, keys[3])
      if of_real.features is None:
        raise UserError(f"--task.feature_matching {_SHOWS}")
      distance = losses.mean_distance(of_real.features, of_fakes.features, mask)
      # The same number for every example, so that dividing by the global weight leaves it what it is.
      loss = metrics.mean(weight * distance * jnp.ones_like(mask), mask)
      measured["matching"] = loss
    total = self.recipe.adversary * loss.total
    if weight := self.recipe.reconstruction:
      measured["error"] = metrics.mean(losses.mean_absolute(fakes, part.real), mask)
      total += weight * measured["error"].total
    return total, loss.weight, measured
