"""Losses that optax does not have, each per example: reduction and masking belong to the task."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from dlcourse.parallel import global_sum
from dlcourse.theory.gaussians import LOG_2_PI


def _softplus(x: jax.Array) -> jax.Array:
  """log(1 + exp(x)) with one exponential and no overflow, where optax's cross-entropy takes two."""
  return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _summed(nats: jax.Array) -> jax.Array:
  """[B, ...] -> [B], as a product with ones: a sum would make XLA's CPU backend take each logarithm by itself.

  That is 30 times slower.
  """
  ones = jnp.ones(nats[0].size, nats.dtype)
  return jnp.dot(nats.reshape(nats.shape[0], -1), ones, precision=jax.lax.Precision.HIGHEST)


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
  return _summed(_softplus(logits) - logits * targets)


def gaussian_nll(mean: jax.Array, log_scale: jax.Array, targets: jax.Array) -> jax.Array:
  """-log p(x | z) of independent Gaussian pixels, in nats, summed over the pixels (appendix C.2; H5.2.2).

  Args:
    mean: [B, ...] of the decoder.
    log_scale: log standard deviation, of a shape that broadcasts to that of the mean.
    targets: [B, ...].

  Returns:
    [B] nats; a density, which can be above 1.
  """
  chex.assert_equal_shape((mean, targets))
  errors = (targets - mean) * jnp.exp(-log_scale)
  return _summed(0.5 * jnp.square(errors) + log_scale + 0.5 * LOG_2_PI)


def logistic_nats(mean: jax.Array, log_scale: jax.Array, targets: jax.Array) -> jax.Array:
  """-log of the logistic's mass around each of 256 levels.

  Salimans et al. (2017), arXiv:1701.05517, section 2.1. With σ the logistic function and a > b the ends of a
  level, σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)), whose logarithm needs no case for what is far away.

  Args:
    mean: where black is 0 and white 1.
    log_scale: of the logistic.
    targets: multiples of 1/255 in [0, 1]; 0 has all the mass below it too, and 1 all above. The three shapes
      broadcast.

  Returns:
    nats, of each target.
  """
  sharpness = jnp.exp(-log_scale)
  upper = sharpness * (targets - mean + 0.5 / 255)
  lower = sharpness * (targets - mean - 0.5 / 255)
  within = jnp.log(-jnp.expm1(-sharpness / 255))
  below, above = targets < 0.5 / 255, targets > 1 - 0.5 / 255
  nats = jnp.where(above, 0.0, _softplus(-upper)) + jnp.where(below, 0.0, _softplus(lower))
  return nats - jnp.where(below | above, 0.0, within)


def logistic_nll(mean: jax.Array, log_scale: jax.Array, targets: jax.Array) -> jax.Array:
  """-log p(x | z) of pixels of 256 levels, each with the mass of `logistic_nats`, summed over the pixels.

  Args:
    mean: [B, ...] of the decoder, where black is 0 and white 1.
    log_scale: of the logistic, of a shape that broadcasts to that of the mean.
    targets: [B, ...], multiples of 1/255 in [0, 1].

  Returns:
    [B] nats.
  """
  chex.assert_equal_shape((mean, targets))
  return _summed(logistic_nats(mean, log_scale, targets))


def squared_error(made: jax.Array, true: jax.Array) -> jax.Array:
  """||made - true||² of each example, summed over the pixels.

  Args:
    made, true: [B, ...].

  Returns:
    [B].
  """
  chex.assert_equal_shape((made, true))
  return _summed(jnp.square(made - true))


def risen(weight: float, warm_up: float, step: jax.Array, steps: int) -> jax.Array | float:
  """The weight of a KL term that rises from 0 (Bowman et al., 2016; Sønderby et al., 2016).

  Args:
    weight: at the end.
    warm_up: share of the steps over which it rises; 0: none.
    step: [] now.
    steps: of the training.
  """
  return weight * jnp.minimum(1.0, step / (warm_up * steps)) if warm_up else weight


def floored(rates: jax.Array, mask: jax.Array, free: float) -> jax.Array:
  """A KL term with free bits: of each dimension its mean over the global batch, or `free` if more.

  Args:
    rates: [B, ..., Z] nats; what is between is summed.
    mask: [B], 1 = counts.
    free: λ in nats (Kingma et al., 2016, arXiv:1606.04934, equation 15).

  Returns:
    [B] nats, the same of each example.
  """
  of_maps = rates.sum(axis=tuple(range(1, rates.ndim - 1)))  # [B, Z]
  mean = global_sum((mask[:, None] * of_maps).sum(axis=0)) / global_sum(mask.sum())
  return jnp.maximum(mean, free).sum() * jnp.ones_like(mask)


class Likelihood(NamedTuple):
  """What a decoder's outputs say of the pixels.

  Attributes:
    distortion: (outputs [B, ...], log_scale [], pixels [B, ...]) -> [B], -log p(pixels | outputs) in nats.
    pixels: outputs -> the mean of each pixel.
    scaled: whether `log_scale` is heeded, so that it is learnt.
    proper: whether it is a likelihood, and not only an error.
    levels: how many values a pixel can have; 0: any number.
  """

  distortion: Callable
  pixels: Callable
  scaled: bool = False
  proper: bool = True
  levels: int = 0


LikelihoodName = Literal["bernoulli", "gaussian", "logistic", "squared"]
LIKELIHOODS: dict[LikelihoodName, Likelihood] = {
  "bernoulli": Likelihood(lambda x, _, true: bernoulli_nll(x, true), jax.nn.sigmoid, levels=2),
  "gaussian": Likelihood(gaussian_nll, lambda x: x, scaled=True),
  "logistic": Likelihood(logistic_nll, lambda x: jnp.clip(x, 0, 1), scaled=True, levels=256),
  "squared": Likelihood(lambda x, _, true: squared_error(x, true), lambda x: x, proper=False),
}


def importance_bound(log_weights: jax.Array) -> jax.Array:
  """log of the mean of K importance weights, a bound of log p(x) (Burda et al., 2016, arXiv:1509.00519, eq. 8).

  Args:
    log_weights: log p(x, z) - log q(z | x) of K draws of each example, [K, B] nats.

  Returns:
    [B] nats.
  """
  return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(len(log_weights))


def real_fake_nll(logits: jax.Array, real: float) -> jax.Array:
  """Binary cross-entropy of a discriminator against one label for all (Goodfellow et al., 2014; H4.4.1).

  Args:
    logits: [B], large = real.
    real: the label, 1 for real, 0 for fake, 0.9 for one-sided smoothing (H4.6.2).

  Returns:
    [B] nats.
  """
  return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, real))


class Game(NamedTuple):
  """What the two players of a GAN minimise, each a function of [B] outputs of the discriminator.

  Attributes:
    real: (outputs of real images, label) -> [B], of the discriminator.
    fake: outputs of fakes -> [B], of the discriminator.
    generator: outputs of fakes -> [B], of the generator.
    score: outputs -> what a person reads: the probability of being real, or the output itself.
    labelled: whether `real` heeds its label, so that it can be smoothed.
  """

  real: Callable
  fake: Callable
  generator: Callable
  score: Callable
  labelled: bool = False


def _likelihood(generator: Callable) -> Game:
  return Game(real_fake_nll, lambda x: real_fake_nll(x, 0.0), generator, jax.nn.sigmoid, labelled=True)


def _squares(outputs: jax.Array, label: float) -> jax.Array:
  return 0.5 * jnp.square(outputs - label)


GameName = Literal["non_saturating", "minimax", "least_squares", "hinge", "wasserstein"]
GAMES: dict[GameName, Game] = {
  # Goodfellow et al. (2014), section 3: the generator maximises log D(G(z)) ...
  "non_saturating": _likelihood(lambda x: real_fake_nll(x, 1.0)),
  # ... where the value function itself, log(1 - D(G(z))), has no slope if D is sure (H4.4.1, H4.5.2).
  "minimax": _likelihood(lambda x: -jax.nn.softplus(x)),
  # Mao et al. (2017), arXiv:1611.04076, equation 9.
  "least_squares": Game(
    _squares, lambda x: _squares(x, 0.0), lambda x: _squares(x, 1.0), lambda x: x, labelled=True
  ),
  # Miyato et al. (2018), arXiv:1802.05957, equations 16 and 17.
  "hinge": Game(lambda x, _: jax.nn.relu(1 - x), lambda x: jax.nn.relu(1 + x), jnp.negative, lambda x: x),
  # Arjovsky et al. (2017), arXiv:1701.07875 (H4.7.3).
  "wasserstein": Game(lambda x, _: -x, lambda x: x, jnp.negative, lambda x: x),
}


def squared_slopes(critic: Callable, at: jax.Array) -> jax.Array:
  """||slope||² of a critic at each of its inputs; half of it is R1 (Mescheder et al., 2018, equation 9).

  Args:
    critic: [B, ...] -> [B], each output a function of its own input alone.
    at: [B, ...].

  Returns:
    [B].
  """
  slopes = jax.grad(lambda x: critic(x).sum())(at)
  return jnp.square(slopes.reshape(slopes.shape[0], -1)).sum(axis=1)


def one_lipschitz_penalty(critic: Callable, real: jax.Array, fake: jax.Array, share: jax.Array) -> jax.Array:
  """(||slope|| - 1)² between real and fake images (Gulrajani et al., 2017, arXiv:1704.00028; H4.6.5).

  Args:
    critic: see `squared_slopes`.
    real, fake: [B, ...].
    share: [B] in [0, 1], where on the way from fake to real.

  Returns:
    [B]; where the critic is flat it is 1, and has no gradient.
  """
  share = share.reshape(-1, *[1] * (real.ndim - 1))
  squares = squared_slopes(critic, share * real + (1 - share) * fake)
  norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
  return jnp.square(norms - 1)


def mean_absolute(made: jax.Array, true: jax.Array) -> jax.Array:
  """Mean |made - true| of each example.

  Args:
    made, true: [B, ...].

  Returns:
    [B].
  """
  chex.assert_equal_shape((made, true))
  return jnp.abs(made - true).reshape(made.shape[0], -1).mean(axis=1)


def mean_distance(real: jax.Array, fake: jax.Array, mask: jax.Array) -> jax.Array:
  """||mean real - mean fake||² over the global batch (Salimans et al., 2016, arXiv:1606.03498; H4.6.1).

  Args:
    real, fake: features [B, ...].
    mask: [B], 1 = counts.

  Returns:
    [].
  """
  weight = mask.reshape(-1, *[1] * (real.ndim - 1))
  difference = global_sum((weight * (real - fake)).sum(axis=0)) / global_sum(mask.sum())
  return jnp.square(difference).sum()
