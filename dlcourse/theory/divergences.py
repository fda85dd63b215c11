"""What the game of a GAN minimises, on densities that can be written down (H4.4.2, H4.5.2).

Densities are arrays of values on one even grid of the line, and integrals are sums over it.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from dlcourse.losses import GAMES


def optimal_discriminator(p: ArrayLike, q: ArrayLike) -> np.ndarray:
  """D* = p / (p + q) (Goodfellow et al., 2014, proposition 1; H4.4.2); 1/2 where neither has density.

  Args:
    p: of the data [N].
    q: of the generator [N].
  """
  p, both = np.asarray(p, np.float64), np.asarray(p, np.float64) + np.asarray(q, np.float64)
  return np.divide(p, both, out=np.full(both.shape, 0.5), where=both > 0)


def value_of_game(p: ArrayLike, q: ArrayLike, d: ArrayLike, width: float) -> float:
  """V(D, G) = E_p log D + E_q log(1 - D), in nats (H4.4.1).

  Args:
    p, q: densities [N] of the data and of the generator.
    d: the discriminator's D(x) [N].
    width: distance of two neighbours of the grid.
  """
  # Where rounding makes D 1, q / p is below 1e-16, and what is left out smaller than that.
  other = np.maximum(1 - np.asarray(d, np.float64), np.finfo(np.float64).tiny)
  return width * (_expected_log(p, d) + _expected_log(q, other))


def jensen_shannon(p: ArrayLike, q: ArrayLike, width: float) -> float:
  """JSD(p || q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats: at most log 2."""
  middle = (np.asarray(p, np.float64) + np.asarray(q, np.float64)) / 2
  return 0.5 * (kullback_leibler(p, middle, width) + kullback_leibler(q, middle, width))


def kullback_leibler(p: ArrayLike, q: ArrayLike, width: float) -> float:
  """KL(p || q) in nats; infinite where p has density and q has none."""
  return width * (_expected_log(p, p) - _expected_log(p, q))


def wasserstein(p: ArrayLike, q: ArrayLike, width: float) -> float:
  """W₁ in the unit of x: the area between the distribution functions (Arjovsky et al., 2017; H4.7.3)."""
  difference = np.asarray(p, np.float64) - np.asarray(q, np.float64)
  return float(width * width * np.abs(np.cumsum(difference)).sum())


def _expected_log(p: ArrayLike, values: ArrayLike) -> float:
  """Σ p log values, where p has density."""
  p, values = np.asarray(p, np.float64), np.asarray(values, np.float64)
  with np.errstate(divide="ignore"):
    return float((p[p > 0] * np.log(values[p > 0])).sum())


def uniform(grid: np.ndarray, start: float) -> np.ndarray:
  """The density of U(start, start + 1) on a grid [N], which integrates to 1 there."""
  inside = ((grid >= start) & (grid < start + 1)).astype(np.float64)
  return inside / (inside.sum() * (grid[1] - grid[0]))


def normal(grid: np.ndarray, mean: float, deviation: float) -> np.ndarray:
  """The density of a Gaussian on a grid [N]."""
  return np.exp(-0.5 * ((grid - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))


def trained_discriminator(
  real: ArrayLike, fake: ArrayLike, at: ArrayLike, steps: int = 2_000, seed: int = 0
) -> np.ndarray:
  """D(x) [N] of a perceptron that has learnt to tell two samples apart (two tanh layers of 32, Adam).

  Args:
    real, fake: samples [M] of the data and of the generator.
    at: x [N].
    steps: updates on all samples.
    seed: of the first weights.
  """
  sizes, key = (1, 32, 32, 1), jax.random.key(seed)
  weights = [
    (jax.random.normal(jax.random.fold_in(key, i), (d, h)) / np.sqrt(d), jnp.zeros(h))
    for i, (d, h) in enumerate(itertools.pairwise(sizes))
  ]

  def logits(weights, x):
    y = jnp.asarray(x, jnp.float32)[:, None]
    for kernel, bias in weights[:-1]:
      y = jnp.tanh(y @ kernel + bias)
    kernel, bias = weights[-1]
    return (y @ kernel + bias)[:, 0]

  game, optimizer = GAMES["non_saturating"], optax.adam(optax.cosine_decay_schedule(1e-2, steps))

  def loss(weights):
    return game.real(logits(weights, real), 1.0).mean() + game.fake(logits(weights, fake)).mean()

  def step(carry, _):
    weights, state = carry
    updates, state = optimizer.update(jax.grad(loss)(weights), state)
    return (optax.apply_updates(weights, updates), state), None

  train = jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps)[0])
  weights, _ = train((weights, optimizer.init(weights)))
  return np.asarray(jax.nn.sigmoid(logits(weights, at)))
