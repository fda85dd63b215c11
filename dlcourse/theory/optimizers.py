"""The update rules of H1.4.4, written out; those of a training are optax's, chosen in `optim.py`."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

State = dict[str, np.ndarray]
Step = Callable[[np.ndarray, np.ndarray, State, int], tuple[np.ndarray, State]]


class Rule(NamedTuple):
  """An update: (θ, gradient, state, number of the update from 1) -> (θ, state)."""

  start: State
  step: Step


def sgd(rate: float) -> Rule:
  """θ <- θ - η ∇L."""
  return Rule({}, lambda theta, gradient, state, t: (theta - rate * gradient, state))


def momentum(rate: float, beta: float = 0.9, nesterov: bool = False) -> Rule:
  """v <- β v - η ∇L, then θ <- θ + v, which the handbook leaves out (Polyak, 1964).

  With `nesterov` θ <- θ + β v - η ∇L: a step ahead, in the form of Sutskever et al. (2013, equation 7).
  """

  def step(theta, gradient, state, t):
    v = beta * state["v"] - rate * gradient
    return theta + (beta * v - rate * gradient if nesterov else v), {"v": v}

  return Rule({"v": np.zeros(())}, step)


def rmsprop(rate: float, decay: float = 0.9, eps: float = 1e-8) -> Rule:
  """v <- ρ v + (1 - ρ) ∇L², then θ <- θ - η ∇L / √(v + ε) (Tieleman & Hinton, 2012)."""

  def step(theta, gradient, state, t):
    v = decay * state["v"] + (1 - decay) * gradient**2
    return theta - rate * gradient / np.sqrt(v + eps), {"v": v}

  return Rule({"v": np.zeros(())}, step)


def adagrad(rate: float, initial: float = 0.1, eps: float = 1e-7) -> Rule:
  """s <- s + ∇L², then θ <- θ - η ∇L / √(s + ε) (Duchi et al., 2011)."""

  def step(theta, gradient, state, t):
    s = state["s"] + gradient**2
    return theta - rate * gradient / np.sqrt(s + eps), {"s": s}

  return Rule({"s": np.full((), initial)}, step)


def adam(
  rate: float,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  corrected: bool = True,
  decay: float = 0.0,
) -> Rule:
  """m, v: running means of ∇L and ∇L²; θ <- θ - η (m̂ / (√v̂ + ε) + λ θ) (Kingma & Ba, 2015, algorithm 1).

  Args:
    rate: η.
    b1: β₁.
    b2: β₂.
    eps: ε.
    corrected: m̂ = m / (1 - β₁ᵗ) and v̂ = v / (1 - β₂ᵗ), as means that start at 0 need; the handbook prints the
      rule without, whose first step is (1 - β₁) / √(1 - β₂) = 3.16 times as long.
    decay: λ of AdamW (Loshchilov & Hutter, 2019), decoupled from the gradient.
  """

  def step(theta, gradient, state, t):
    m = b1 * state["m"] + (1 - b1) * gradient
    v = b2 * state["v"] + (1 - b2) * gradient**2
    m_hat, v_hat = (m / (1 - b1**t), v / (1 - b2**t)) if corrected else (m, v)
    return theta - rate * (m_hat / (np.sqrt(v_hat) + eps) + decay * theta), {"m": m, "v": v}

  return Rule({"m": np.zeros(()), "v": np.zeros(())}, step)


def trajectory(
  rule: Rule, gradient: Callable[[np.ndarray, int], np.ndarray], start: np.ndarray, steps: int
) -> np.ndarray:
  """The points that a rule visits.

  Args:
    rule: one of this module's.
    gradient: (θ [D], number of the update from 1) -> ∇L [D].
    start: θ to begin with, [D].
    steps: updates.

  Returns:
    [steps + 1, D].
  """
  theta, state = np.asarray(start, np.float64), rule.start
  points = [theta]
  for t in range(1, steps + 1):
    theta, state = rule.step(theta, gradient(theta, t), state, t)
    points.append(theta)
  return np.stack(points)


def rosenbrock_slope(theta: np.ndarray) -> np.ndarray:
  """The gradient of (1 - x)² + 100 (y - x²)², a bent valley whose bottom is at (1, 1) (Rosenbrock, 1960)."""
  x, y = theta
  return np.array([2 * (x - 1) - 400 * x * (y - x**2), 200 * (y - x**2)])
