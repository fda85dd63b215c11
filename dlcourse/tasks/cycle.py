"""Translation between two kinds of images of which no pair is known (CycleGAN: Zhu et al., 2017; H4.9.2)."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dlcourse import losses, metrics
from dlcourse.data.recipe import Batch, Spec
from dlcourse.errors import UserError, check_at_least, check_below_one
from dlcourse.losses import GAMES, GameName
from dlcourse.optim import Optimizer
from dlcourse.task import PyTree, Task, TaskRecipe, TrainState, complete, descend, gradient, new_state, step_key
from dlcourse.tasks.game import DISCRIMINATOR, EMA, GENERATOR, begun, judged, verdicts

_OTHER = {"image": "source", "source": "image"}  # what a kind is made from


@dataclasses.dataclass(frozen=True)
class Cycle(TaskRecipe):
  """A CycleGAN: there and back gives what one started from (Zhu et al., 2017, arXiv:1703.10593, section 3).

  For data with a `source` [B, H, W, 1 or C] beside each image [B, H, W, C], whether or not the two belong
  together: training does not ask. `generator(source, None, train)` gives images in [-1, 1], and
  `discriminator(images, None, train, mask [B])` gives [B] numbers, large for real. Of each there are two, with
  weights of their own. The paper's history of 50 fakes is left out: discriminators see the fakes of the step.
  """

  generator: nn.Module
  """Sources to images; another like it makes sources of images."""
  discriminator: nn.Module
  """Images to one number, which is large for real ones; another like it judges sources."""
  generator_optimizer: Optimizer
  """How both generators are trained, together."""
  discriminator_optimizer: Optimizer
  """How both discriminators are trained."""
  ema_decay: float = 0.999
  """Decay of the moving average of the weights of the generator of images, which is what translates."""
  loss: GameName = "least_squares"
  """What the players minimise: non_saturating, minimax, least_squares (the paper's, halved), hinge,
  wasserstein."""
  cycle: float = 10.0
  """Weight λ of mean |there and back - start| (equation 2)."""
  identity: float = 0.0
  """Weight of mean |G(image) - image|, the change of what is of the wanted kind already: half of `cycle` in the
  paper where colours are to stay (section 5.2); 0 leaves it out, as for its other data."""

  def __post_init__(self) -> None:
    """Refuses numbers out of range, and a critic without bounds."""
    check_below_one({"task.ema_decay": self.ema_decay})
    check_at_least(0, {"task.cycle": self.cycle, "task.identity": self.identity})
    if self.loss == "wasserstein" and getattr(self.discriminator, "norm", None) != "spectral":
      raise UserError(
        "--task.loss=wasserstein needs a critic whose slope is bounded: set --task.discriminator.norm=spectral"
      )

  def build(self, spec: Spec, steps: int) -> Task:
    """The two games on data of this kind; see `Rules`."""
    if "source" not in spec.batch or not spec.image_shape:
      raise UserError("Cycle translates images; use data that has a source for each, like ImagePairs")
    shape, source_shape = spec.image_shape, tuple(spec.batch["source"].shape[1:])
    if source_shape[:2] != shape[:2] or source_shape[2] not in (1, shape[2]):
      raise UserError(
        f"Cycle translates both ways at one size, and images are {shape} and their sources {source_shape}; set "
        "--data.kind=edges or grey"
      )
    rules = Rules(
      complete(self.generator, spec),
      complete(self.discriminator, spec),
      self.generator_optimizer.build(steps),
      self.discriminator_optimizer.build(steps),
      self,
      spec,
    )
    return Task(rules.init, rules.train_step, rules.eval_step, rules.predict)


class Rules(NamedTuple):
  """The two games as pure functions of a `TrainState`; weights are named for the kind they make or judge.

  All four networks learn from the weights before the step: generators against these discriminators, and
  discriminators on the fakes of these generators, so that a step makes them once. Running averages of
  generators are those of true inputs, which is what they are used for, and not of fakes on their way back.
  """

  g: nn.Module
  d: nn.Module
  g_optimizer: optax.GradientTransformation
  d_optimizer: optax.GradientTransformation
  recipe: Cycle
  spec: Spec

  def init(self, key: jax.Array, batch: Batch) -> TrainState:
    """All networks, and the average, which starts at the first weights of the generator of images."""
    batch = self._prepared(None, batch)
    params, stats = {GENERATOR: {}, DISCRIMINATOR: {}}, {GENERATOR: {}, DISCRIMINATOR: {}}
    for kind, other in _OTHER.items():
      for player, network, seen in ((GENERATOR, self.g, other), (DISCRIMINATOR, self.d, kind)):
        key, params_key, noise_key = jax.random.split(key, 3)
        rngs = {"params": params_key, "noise": noise_key}
        params[player][kind], stats[player][kind] = begun(network, rngs, batch[seen], None)
    opt_state = {
      GENERATOR: self.g_optimizer.init(params[GENERATOR]),
      DISCRIMINATOR: self.d_optimizer.init(params[DISCRIMINATOR]),
    }
    return new_state(key, params, opt_state, stats | {EMA: params[GENERATOR]["image"]})

  def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, metrics.Mean]]:
    """Updates the generators and the discriminators; metrics are means over both directions."""
    prepare_key, g_key, d_key = jax.random.split(step_key(state), 3)
    batch = self._prepared(prepare_key, batch)
    grads, (fakes, g_stats, g_measured) = gradient(
      lambda params: self._generator_loss(params, state, batch, g_key), state.params[GENERATOR]
    )
    g_params, g_opt = descend(self.g_optimizer, grads, state.opt_state[GENERATOR], state.params[GENERATOR])
    grads, (d_stats, d_measured) = gradient(
      lambda params: self._discriminator_loss(params, state, batch, fakes, d_key), state.params[DISCRIMINATOR]
    )
    d_params, d_opt = descend(
      self.d_optimizer, grads, state.opt_state[DISCRIMINATOR], state.params[DISCRIMINATOR]
    )
    ema = optax.incremental_update(g_params["image"], state.model_state[EMA], 1.0 - self.recipe.ema_decay)
    state = state.replace(
      step=state.step + 1,
      params={GENERATOR: g_params, DISCRIMINATOR: d_params},
      opt_state={GENERATOR: g_opt, DISCRIMINATOR: d_opt},
      model_state={GENERATOR: g_stats, DISCRIMINATOR: d_stats, EMA: ema},
    )
    return state, d_measured | g_measured

  def eval_step(self, state: TrainState, key: jax.Array, batch: Batch) -> dict[str, metrics.Mean]:
    """How far images made of sources are from the true ones, and what the discriminator of images says."""
    batch, mask, game = self._prepared(None, batch), batch["mask"], GAMES[self.recipe.loss]
    made = self._translated(state, key, batch["source"])
    params, stats = (tree[DISCRIMINATOR]["image"] for tree in (state.params, state.model_state))
    on_real, on_fake = (
      judged(self.d, params, stats, images, None, key, mask).outputs for images in (batch["image"], made)
    )
    _, measured = verdicts(game, on_real, on_fake, mask)
    return measured | {
      "g_loss": metrics.mean(game.generator(on_fake), mask),
      "error": metrics.mean(losses.mean_absolute(made, batch["image"]), mask),
    }

  def predict(self, state: TrainState, key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """{"image" [B, H, W, C]} in [0, 1], what the sources become."""
    source = self._prepared(None, batch)["source"]
    return {"image": self.spec.unscale(self._translated(state, key, source))}

  def _prepared(self, key, batch: Batch) -> Batch:
    """Sources of one channel get as many as images have, so that every network takes either kind."""
    batch = self.spec.prepare(key, batch)
    return {**batch, "source": jnp.broadcast_to(batch["source"], batch["image"].shape)}

  def _translated(self, state, key, source):
    """What the averaged generator makes of sources."""
    variables = {"params": state.model_state[EMA], **state.model_state[GENERATOR]["image"]}
    return self.g.apply(variables, source, None, train=False, rngs={"noise": key})

  def _made(self, params, state, kind, seen, key) -> tuple[jax.Array, PyTree]:
    """Fakes of a kind in training mode: (images, the generator's new collections)."""
    stats = state.model_state[GENERATOR][kind]
    variables = {"params": params[kind], **stats}
    return self.g.apply(variables, seen, None, train=True, rngs={"noise": key}, mutable=list(stats))

  def _generator_loss(self, params, state, batch: Batch, key):
    """Of both generators; also the fakes and the new collections of each."""
    recipe, mask, fakes, stats, measured = self.recipe, batch["mask"], {}, {}, []
    keys = jax.random.split(key, (len(_OTHER), 4))
    for (kind, other), (there, *_) in zip(_OTHER.items(), keys, strict=True):
      fakes[kind], stats[kind] = self._made(params, state, kind, batch[other], there)
    d_params, d_stats = (tree[DISCRIMINATOR] for tree in (state.params, state.model_state))
    each = jnp.zeros_like(mask)
    for (kind, other), (_, back, same, judge) in zip(_OTHER.items(), keys, strict=True):
      scores = judged(self.d, d_params[kind], d_stats[kind], fakes[kind], None, judge).outputs
      again, _ = self._made(params, state, kind, fakes[other], back)
      found = {
        "g_loss": GAMES[recipe.loss].generator(scores),
        "cycle": losses.mean_absolute(again, batch[kind]),
      }
      each += found["g_loss"] + recipe.cycle * found["cycle"]
      if recipe.identity:
        kept, _ = self._made(params, state, kind, batch[kind], same)
        found["identity"] = losses.mean_absolute(kept, batch[kind])
        each += recipe.identity * found["identity"]
      measured.append({name: metrics.mean(values, mask) for name, values in found.items()})
    total = metrics.mean(each, mask)
    return total.total, total.weight, (fakes, stats, jax.tree.map(jnp.add, *measured))

  def _discriminator_loss(self, params, state, batch: Batch, fakes, key):
    """Of both discriminators; also the new collections of each."""
    each, stats, measured = jnp.zeros_like(batch["mask"]), {}, []
    for kind, of_kind in zip(_OTHER, jax.random.split(key, (len(_OTHER), 2)), strict=True):
      first = state.model_state[DISCRIMINATOR][kind]
      on_real = judged(self.d, params[kind], first, batch[kind], None, of_kind[0])
      on_fake = judged(self.d, params[kind], on_real.stats, fakes[kind], None, of_kind[1])
      stats[kind] = on_fake.stats
      loss, found = verdicts(GAMES[self.recipe.loss], on_real.outputs, on_fake.outputs, batch["mask"])
      each += loss
      measured.append(found)
    total = metrics.mean(each, batch["mask"])
    return total.total, total.weight, (stats, jax.tree.map(jnp.add, *measured))
