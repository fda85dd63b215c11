"""Losses that optax does not have, each per example: reduction and masking belong to the task."""

import chex
import jax
import jax.numpy as jnp
import optax


def bernoulli_nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """-log p(x | z) of independent Bernoulli pixels, in nats, summed over the pixels.

  Written on logits, so that ±100 stays finite (Kingma & Welling, 2014, appendix C.1; H5.2.2).

  Args:
    logits: [B, ...] of the decoder.
    targets: [B, ...] in [0, 1].

  Returns:
    [B] nats.
  """
  chex.assert_equal_shape((logits, targets))
  # max(x, 0) - x t + log(1 + exp(-|x|)): one exponential a pixel, where optax's form takes two.
  nats = jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))
  # A product with ones: a sum would make XLA's CPU backend take each logarithm by itself, 30 times slower.
  ones = jnp.ones(nats[0].size, nats.dtype)
  return jnp.dot(nats.reshape(nats.shape[0], -1), ones, precision=jax.lax.Precision.HIGHEST)


def gaussian_kl(mean: jax.Array, log_var: jax.Array) -> jax.Array:
  """KL(N(mean, exp(log_var)) || N(0, 1)) in nats, summed over the latent dimensions.

  Kingma & Welling (2014), appendix B; H5.2.2.

  Args:
    mean, log_var: [B, Z].

  Returns:
    [B] nats, never negative.
  """
  chex.assert_equal_shape((mean, log_var))
  return 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_var) - 1.0 - log_var, axis=-1)


def real_fake_nll(logits: jax.Array, real: float) -> jax.Array:
  """Binary cross-entropy of a discriminator against one label for all (Goodfellow et al., 2014; H4.4.1).

  Args:
    logits: [B], large = real.
    real: the label, 1 for real, 0 for fake, 0.9 for one-sided smoothing (H4.6.2).

  Returns:
    [B] nats.
  """
  return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, real))
