"""Learning a latent-variable model by its evidence lower bound (Kingma & Welling, 2014; H5.2)."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import optax

from dlcourse import losses, metrics
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError, check_at_least
from dlcourse.optim import Optimizer
from dlcourse.task import (
  Task,
  TaskRecipe,
  TrainState,
  complete,
  descend,
  gradient,
  new_state,
  step_key,
)


def variational(model: nn.Module, beta: float, optimizer: optax.GradientTransformation, spec: Spec) -> Task:
  """The ELBO of a VAE with Bernoulli pixels, as a task.

  Nats are summed over pixels and averaged over images. `predict` gives reconstructions from the posterior
  mean, `generate` images from the prior; its request is {"index" [N]}.

  Args:
    model: a Linen module with `__call__(image, key) -> (logits, mean, log_var)`, `encode`, `decode` and
      `latent_dim`.
    beta: weight of the KL term; 1 is the ELBO, more is the β-VAE of Higgins et al. (2017; H5.3.3).
    optimizer: an optax chain.
    spec: of the data.
  """

  if not np.allclose(spec.unscale(np.array([[0.0], [1.0]])), [[0.0], [1.0]]):
    raise UserError("a Bernoulli pixel is a number in [0, 1]; set --data.scale=unit")

  def init(key, batch):
    key, init_key, latent_key = jax.random.split(key, 3)
    params = model.init(init_key, spec.prepare(None, batch)["image"], latent_key)["params"]
    return new_state(key, params, optimizer.init(params))

  def objective(params, key, batch):
    logits, mean, log_var = model.apply({"params": params}, batch["image"], key)
    distortion = losses.bernoulli_nll(logits, batch["image"])
    rate = losses.gaussian_kl(mean, log_var)
    loss = metrics.mean(distortion + beta * rate, batch["mask"])
    measured = {
      "loss": loss,
      "elbo": metrics.mean(-distortion - rate, batch["mask"]),
      "distortion": metrics.mean(distortion, batch["mask"]),
      "rate": metrics.mean(rate, batch["mask"]),
    }
    return loss.total, loss.weight, measured

  def train_step(state: TrainState, batch):
    augment_key, latent_key = jax.random.split(step_key(state))
    batch = spec.prepare(augment_key, batch)
    grads, measured = gradient(lambda p: objective(p, latent_key, batch), state.params)
    params, opt_state = descend(optimizer, grads, state.opt_state, state.params)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), measured

  def eval_step(state, key, batch):
    return objective(state.params, key, spec.prepare(None, batch))[2]

  def predict(state, key, batch):
    del key
    variables = {"params": state.params}
    mean, _ = model.apply(variables, spec.prepare(None, batch)["image"], method="encode")
    return {"image": jax.nn.sigmoid(model.apply(variables, mean, method="decode"))}

  def generate(state, key, request):
    z = jax.random.normal(key, (request["index"].shape[0], model.latent_dim))
    return {"image": jax.nn.sigmoid(model.apply({"params": state.params}, z, method="decode"))}

  return Task(init, train_step, eval_step, predict, generate)


@dataclasses.dataclass(frozen=True)
class Autoencode(TaskRecipe):
  """A variational autoencoder; see `variational`."""

  model: nn.Module
  """The network: encoder and decoder."""
  optimizer: Optimizer
  """How it is trained."""
  beta: float = 1.0
  """Weight of the KL term; 1 is the ELBO."""

  def __post_init__(self) -> None:
    """Refuses a reward for distance from the prior."""
    check_at_least(0, {"task.beta": self.beta})

  def build(self, spec: Spec, steps: int) -> Task:
    """The ELBO in nats."""
    return variational(complete(self.model, spec), self.beta, self.optimizer.build(steps), spec)
