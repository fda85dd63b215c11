"""Optimizer recipes: what a person chooses, turned into an optax chain that ends where training ends.

The update rules are those of H1.4.4. A recipe is a frozen dataclass, so each of its fields is a flag.
"""

import dataclasses
from typing import Any, Literal

import jax
import optax

from dlcourse.errors import UserError, check_at_least, check_below_one, check_between

PyTree = Any


def _flags(recipe: "Optimizer", *names: str) -> dict[str, float]:
  """Path of the flag -> value; `…`, as a task names its optimizers as it likes."""
  return {f"task….{name}": getattr(recipe, name) for name in names}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """What every optimizer shares: learning rate, schedule and clipping."""

  learning_rate: float = 1e-3
  """Peak learning rate."""
  schedule: Literal["constant", "cosine", "linear", "steps"] = "constant"
  """How the rate falls from its peak: to 0 at the last step, or by a factor at regular steps."""
  decay_every: int | None = None
  """With the schedule `steps`: after every so many steps the rate is multiplied by `decay_factor`."""
  decay_factor: float = 0.1
  """With the schedule `steps`: what is left of the rate."""
  warmup_steps: int = 0
  """Steps over which the rate rises linearly from 0 to its peak."""
  clip_norm: float | None = None
  """Largest global norm of the gradient (H3.5.7); None does not clip."""
  accumulate: int = 1
  """Steps whose gradients make one update together, as their mean: a larger batch in the memory of one. Warm-up
  and `decay_every` then count updates."""

  def __post_init__(self) -> None:
    """Refuses a rate, a warm-up or a norm that cannot be."""
    check_between(0, 1e38, _flags(self, "learning_rate"))  # what float32 holds
    check_at_least(0, _flags(self, "warmup_steps"))
    check_at_least(1, _flags(self, "accumulate"))
    if not 0 < self.decay_factor <= 1:
      raise UserError(f"--task….decay_factor={self.decay_factor} has to be above 0 and at most 1")
    if self.decay_every is not None:
      check_at_least(1, _flags(self, "decay_every"))
    elif self.schedule == "steps":
      raise UserError("--task….schedule=steps needs --task….decay_every, like 30000")
    if self.clip_norm is not None and not self.clip_norm > 0:
      raise UserError(f"--task….clip_norm={self.clip_norm} has to be above 0; None does not clip")

  def rule(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """The update rule itself; each optimizer gives its own."""
    raise NotImplementedError

  def build(self, steps: int) -> optax.GradientTransformation:
    """The optax chain for a training of `steps` steps.

    Raises:
      UserError: the warm-up is as long as the training, or longer.
    """
    rule = self.rule(learning_rate_schedule(self, max(steps // self.accumulate, 1)))
    if self.clip_norm is not None:
      rule = optax.chain(optax.clip_by_global_norm(self.clip_norm), rule)
    if self.accumulate == 1:
      return rule
    return optax.MultiSteps(rule, self.accumulate).gradient_transformation()


def learning_rate_schedule(recipe: Optimizer, steps: int) -> optax.Schedule:
  """step -> learning rate: linear warm-up, then the recipe's decay, which `cosine` and `linear` end at `steps`.

  Raises:
    UserError: the warm-up is as long as the training, or longer.
  """
  decay_steps = steps - recipe.warmup_steps
  if decay_steps < 1:
    raise UserError(
      f"--task….warmup_steps={recipe.warmup_steps} leaves none of the {steps} steps for the peak rate; "
      "lower it or raise --steps"
    )
  match recipe.schedule:
    case "constant":
      decay = optax.constant_schedule(recipe.learning_rate)
    case "cosine":
      decay = optax.cosine_decay_schedule(recipe.learning_rate, decay_steps)
    case "linear":
      decay = optax.linear_schedule(recipe.learning_rate, 0.0, decay_steps)
    case "steps":
      every, factor = recipe.decay_every, recipe.decay_factor
      decay = optax.exponential_decay(recipe.learning_rate, every, factor, staircase=True)
  if not recipe.warmup_steps:
    return decay
  warmup = optax.linear_schedule(0.0, recipe.learning_rate, recipe.warmup_steps)
  return optax.join_schedules([warmup, decay], [recipe.warmup_steps])


def decay_mask(params: PyTree) -> PyTree:
  """True for the leaves that weight decay applies to: kernels and embeddings, never biases or norms.

  Raises:
    ValueError: no parameter is a kernel or an embedding.
  """
  mask = jax.tree_util.tree_map_with_path(
    lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) in ("kernel", "embedding"), params
  )
  if not any(jax.tree.leaves(mask)):
    raise ValueError("weight decay matches no parameter: none is named `kernel` or `embedding`")
  return mask


def _with_decay(rate: float, rule: optax.GradientTransformation) -> optax.GradientTransformation:
  """Adds L2 decay to the gradient before `rule` sees it (H1.4.5: the gradient of rate/2 * w^2)."""
  if not rate:
    return rule
  return optax.chain(optax.add_decayed_weights(rate, mask=decay_mask), rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd(Optimizer):
  """Stochastic gradient descent, with (Nesterov) momentum (Polyak, 1964; Nesterov, 1983; H1.4.4)."""

  learning_rate: float = 0.1
  momentum: float = 0.0
  """β of H1.4.4; 0 is plain SGD."""
  nesterov: bool = False
  """Evaluate the gradient ahead of the momentum step."""
  weight_decay: float = 0.0
  """L2 regularisation of kernels, added to the gradient."""

  def __post_init__(self) -> None:
    """Refuses a momentum that does not fade, and negative decay."""
    super().__post_init__()
    check_below_one(_flags(self, "momentum"))
    check_at_least(0, _flags(self, "weight_decay"))

  def rule(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """optax.sgd."""
    momentum = self.momentum or None  # None keeps no buffer
    return _with_decay(self.weight_decay, optax.sgd(learning_rate, momentum, self.nesterov))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
  """Adam (Kingma & Ba, 2015; H1.4.4), with the bias correction of the paper."""

  b1: float = 0.9
  """Decay of the first moment, β₁."""
  b2: float = 0.999
  """Decay of the second moment, β₂."""
  eps: float = 1e-8
  """Added to the root of the second moment."""

  def __post_init__(self) -> None:
    """Refuses moments that do not fade, and a negative eps."""
    super().__post_init__()
    check_below_one(_flags(self, "b1", "b2"))
    check_at_least(0, _flags(self, "eps"))

  def rule(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """optax.adam."""
    return optax.adam(learning_rate, self.b1, self.b2, self.eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
  """Adam with decoupled weight decay on kernels and embeddings (Loshchilov & Hutter, 2019; H1.4.4)."""

  weight_decay: float = 1e-2
  """λ, times the learning rate."""

  def __post_init__(self) -> None:
    """Refuses negative decay too."""
    super().__post_init__()
    check_at_least(0, _flags(self, "weight_decay"))

  def rule(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """optax.adamw."""
    return optax.adamw(
      learning_rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=decay_mask
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RmsProp(Optimizer):
  """RMSprop (Tieleman & Hinton, 2012; H1.4.4)."""

  decay: float = 0.9
  """ρ, decay of the second moment."""
  momentum: float = 0.0
  """Momentum on the scaled gradient; 0 keeps no buffer."""
  eps: float = 1e-8
  """Added to the second moment under the root."""
  initial: float = 0.0
  """Where the second moment starts; 1 in TensorFlow, whose first updates are smaller."""
  weight_decay: float = 0.0
  """L2 regularisation of kernels, added to the gradient."""

  def __post_init__(self) -> None:
    """Refuses moments that do not fade, and what must not be negative."""
    super().__post_init__()
    check_below_one(_flags(self, "decay", "momentum"))
    check_at_least(0, _flags(self, "eps", "initial", "weight_decay"))

  def rule(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """optax.rmsprop."""
    momentum = self.momentum or None  # None keeps no buffer
    rule = optax.rmsprop(learning_rate, self.decay, self.eps, self.initial, momentum=momentum)
    return _with_decay(self.weight_decay, rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaGrad(Optimizer):
  """AdaGrad (Duchi et al., 2011; H1.4.4); the sum of squares starts at 0.1, as in optax."""

  learning_rate: float = 1e-2

  def rule(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """optax.adagrad."""
    return optax.adagrad(learning_rate)
