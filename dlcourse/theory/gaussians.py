"""Gaussians as the posteriors and priors of latents (Kingma & Welling, 2014, appendices B and C; H5.2).

Shapes: B examples, ... axes of a group of latents, Z dimensions of a flat one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LOG_2_PI = 1.8378770664093453


class Gaussian(NamedTuple):
  """N(mean, L L'), of which L is the diagonal exp(log_var / 2) plus what lies below it.

  Attributes:
    mean: [B, ...].
    log_var: [B, ...], nats; where there is a `lower`, of each dimension given those before it.
    lower: [B, Z, Z], 0 on and above the diagonal, for a flat group; None: independent dimensions.
  """

  mean: jax.Array
  log_var: jax.Array
  lower: jax.Array | None = None


def standard_normal(like: jax.Array) -> Gaussian:
  """N(0, I) in the shape of an array."""
  return Gaussian(jnp.zeros_like(like), jnp.zeros_like(like))


def sample(gaussian: Gaussian, key: jax.Array) -> jax.Array:
  """A draw mean + L ε, which is differentiable in both (H5.2.3).

  Args:
    gaussian: of B examples.
    key: of ε.

  Returns:
    [B, ...].
  """
  mean, log_var, lower = gaussian
  epsilon = jax.random.normal(key, mean.shape, mean.dtype)
  z = mean + jnp.exp(0.5 * log_var) * epsilon
  return z if lower is None else z + jnp.einsum("bij,bj->bi", lower, epsilon)


def log_prob(gaussian: Gaussian, z: jax.Array) -> jax.Array:
  """log N(z; mean, L L') in nats, summed over the dimensions.

  Args:
    gaussian: of B examples.
    z: [B, ...].

  Returns:
    [B].
  """
  mean, log_var, lower = gaussian
  if lower is None:
    epsilon = (z - mean) * jnp.exp(-0.5 * log_var)
  else:
    scale = lower + jax.vmap(jnp.diag)(jnp.exp(0.5 * log_var))
    epsilon = jax.vmap(lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True))(scale, z - mean)
  return -0.5 * (jnp.square(epsilon) + log_var + LOG_2_PI).reshape(len(z), -1).sum(axis=1)


def kl(posterior: Gaussian, prior: Gaussian) -> jax.Array:
  """KL(posterior || prior) in nats, of each dimension; that of the whole is their sum.

  Where the posterior's dimensions hang together each has its term of the chain rule, the mean of
  KL(q(z_i | z_1 … z_(i-1)) || p(z_i)), which is not negative either.

  Args:
    posterior: of B examples.
    prior: of the same shape, of independent dimensions.

  Returns:
    [B, ...].

  Raises:
    ValueError: the prior's dimensions are not independent.
  """
  if prior.lower is not None:
    raise ValueError("the dimensions of a prior are independent")
  squares = jnp.square(posterior.mean - prior.mean)
  if posterior.lower is not None:
    squares += jnp.square(posterior.lower).sum(axis=-1)  # what the earlier dimensions move the mean by
  log_ratio = posterior.log_var - prior.log_var
  return 0.5 * (squares * jnp.exp(-prior.log_var) + jnp.exp(log_ratio) - 1.0 - log_ratio)
