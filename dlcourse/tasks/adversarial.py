"""Two networks that learn against each other (Goodfellow et al., 2014; H4.4)."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import optax

from dlcourse import losses, metrics
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError, check_between
from dlcourse.optim import Optimizer
from dlcourse.parallel import global_sum
from dlcourse.task import (
  Task,
  TaskRecipe,
  TrainState,
  complete,
  descend,
  gradient,
  local_gradient,
  new_state,
  step_key,
)

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


def _apply(network: nn.Module, params, stats, inputs):
  """Runs a network in training mode: (outputs, its new batch statistics)."""
  variables = {"params": params, **stats}
  return network.apply(variables, inputs, train=True, mutable=list(stats))


def adversarial(
  networks: dict[str, nn.Module],
  optimizers: dict[str, optax.GradientTransformation],
  ema_decay: float,
  real_label: float,
  spec: Spec,
) -> Task:
  """The non-saturating game (H4.4.1; Goodfellow et al., 2014, section 3) as a task.

  One step draws one batch of fakes, updates the discriminator on it, then the generator against the *new*
  discriminator through the same fakes: each network runs forward no more often than it has to.
  `eval_step` scores real images (as 1, whatever `real_label`) and samples of the averaged generator (as 0),
  with the discriminator's batch norm over each batch; `predict` gives D(x) in [0, 1]; `generate` samples the
  averaged generator, its request is {"index" [N]}.

  Args:
    networks: "generator": latents [B, Z] -> images; "discriminator": images (and `mask` [B],
      the images that count) -> logits [B].
    optimizers: one for each.
    ema_decay: of the generator's moving average, which is what `generate` uses.
    real_label: target of the discriminator for real images; 0.9 is one-sided smoothing (H4.6.2).
    spec: of the data.
  """
  if not np.allclose(spec.unscale(np.array([[-1.0], [1.0]])), [[0.0], [1.0]]):
    raise UserError("the generator makes pixels in [-1, 1]; set --data.scale=symmetric")
  g, d = networks[GENERATOR], networks[DISCRIMINATOR]

  def latents(key, count):
    return jax.random.normal(key, (count, g.latent_dim))

  def init(key, batch):
    key, g_key, d_key, z_key = jax.random.split(key, 4)
    images = spec.prepare(None, batch)["image"]
    inputs = {GENERATOR: latents(z_key, images.shape[0]), DISCRIMINATOR: images}
    keys = {GENERATOR: g_key, DISCRIMINATOR: d_key}
    variables = {
      name: dict(network.init(keys[name], inputs[name], train=True)) for name, network in networks.items()
    }
    params = {name: v.pop("params") for name, v in variables.items()}
    opt_state = {name: optimizers[name].init(params[name]) for name in networks}
    return new_state(key, params, opt_state, variables | {"ema": params[GENERATOR]})

  def discriminator_loss(params, stats, images, fakes, mask):
    real, stats = _apply(d, params, stats, images)
    fake, stats = _apply(d, params, stats, fakes)
    nats = losses.real_fake_nll(real, real_label) + losses.real_fake_nll(fake, 0.0)
    measured = {
      "d_loss": metrics.mean(nats, mask),
      "d_real": metrics.mean(jax.nn.sigmoid(real), mask),
      "d_fake": metrics.mean(jax.nn.sigmoid(fake), mask),
    }
    return measured["d_loss"].total, measured["d_loss"].weight, (measured, stats)

  def generator_loss(fakes, d_params, d_stats, mask):
    fake, _ = _apply(d, d_params, d_stats, fakes)
    measured = {"g_loss": metrics.mean(losses.real_fake_nll(fake, 1.0), mask)}
    return measured["g_loss"].total, measured["g_loss"].weight, measured

  def update(name, grads, state):
    return descend(optimizers[name], grads, state.opt_state[name], state.params[name])

  def train_step(state: TrainState, batch):
    augment_key, latent_key = jax.random.split(step_key(state))
    batch = spec.prepare(augment_key, batch)
    images, mask = batch["image"], batch["mask"]
    z, stats = latents(latent_key, mask.shape[0]), state.model_state

    fakes, through_generator, g_stats = jax.vjp(
      lambda p: _apply(g, p, stats[GENERATOR], z), state.params[GENERATOR], has_aux=True
    )
    grads, (d_measured, d_stats) = gradient(
      lambda p: discriminator_loss(p, stats[DISCRIMINATOR], images, fakes, mask),
      state.params[DISCRIMINATOR],
    )
    d_params, d_opt = update(DISCRIMINATOR, grads, state)

    on_fakes, g_measured = local_gradient(lambda fakes: generator_loss(fakes, d_params, d_stats, mask), fakes)
    (grads,) = through_generator(on_fakes)
    g_params, g_opt = update(GENERATOR, global_sum(grads), state)

    ema = optax.incremental_update(g_params, stats["ema"], 1.0 - ema_decay)
    state = state.replace(
      step=state.step + 1,
      params={GENERATOR: g_params, DISCRIMINATOR: d_params},
      opt_state={GENERATOR: g_opt, DISCRIMINATOR: d_opt},
      model_state={GENERATOR: g_stats, DISCRIMINATOR: d_stats, "ema": ema},
    )
    return state, d_measured | g_measured

  def sample(state, z):
    return g.apply({"params": state.model_state["ema"], **state.model_state[GENERATOR]}, z, train=False)

  def score(state, images, mask):
    variables = {"params": state.params[DISCRIMINATOR], **state.model_state[DISCRIMINATOR]}
    # By the statistics of the batch, as in training: running averages mix real images with fakes.
    return d.apply(variables, images, train=True, mask=mask, mutable=["batch_stats"])[0]

  def eval_step(state, key, batch):
    mask = batch["mask"]
    real = score(state, spec.prepare(None, batch)["image"], mask)
    fake = score(state, sample(state, latents(key, mask.shape[0])), mask)
    nats = losses.real_fake_nll(real, 1.0) + losses.real_fake_nll(fake, 0.0)
    return {
      "d_loss": metrics.mean(nats, mask),
      "d_real": metrics.mean(jax.nn.sigmoid(real), mask),
      "d_fake": metrics.mean(jax.nn.sigmoid(fake), mask),
      "g_loss": metrics.mean(losses.real_fake_nll(fake, 1.0), mask),
    }

  def predict(state, key, batch):
    del key
    return jax.nn.sigmoid(score(state, spec.prepare(None, batch)["image"], batch["mask"]))

  def generate(state, key, request):
    return {"image": spec.unscale(sample(state, latents(key, request["index"].shape[0])))}

  return Task(init, train_step, eval_step, predict, generate)


@dataclasses.dataclass(frozen=True)
class Compete(TaskRecipe):
  """A generative adversarial network; see `adversarial`."""

  generator: nn.Module
  """Latents to images."""
  discriminator: nn.Module
  """Images to one logit."""
  generator_optimizer: Optimizer
  """How the generator is trained."""
  discriminator_optimizer: Optimizer
  """How the discriminator is trained."""
  ema_decay: float = 0.999
  """Decay of the moving average of the generator's weights, which is what samples are drawn from."""
  real_label: float = 1.0
  """Label of real images for the discriminator; 0.9 smooths it (H4.6.2)."""

  def __post_init__(self) -> None:
    """Refuses a decay that is no weight, and a label that is no probability."""
    check_between(0, 1, {"task.ema_decay": self.ema_decay, "task.real_label": self.real_label})

  def build(self, spec: Spec, steps: int) -> Task:
    """The non-saturating game."""
    networks = {GENERATOR: self.generator, DISCRIMINATOR: self.discriminator}
    optimizers = {
      GENERATOR: self.generator_optimizer.build(steps),
      DISCRIMINATOR: self.discriminator_optimizer.build(steps),
    }
    networks = {name: complete(network, spec) for name, network in networks.items()}
    return adversarial(networks, optimizers, self.ema_decay, self.real_label, spec)
