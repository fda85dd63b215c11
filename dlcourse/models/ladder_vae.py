"""A hierarchical VAE for small images: levels of latents, each with a prior that those above decide (H5.3.3).

The way up from the image is deterministic, and inference and generation share the way down (ladder VAE:
Sønderby et al., 2016, arXiv:1602.02282), which is made of residual cells, and on which each posterior says how
it differs from its prior (NVAE: Vahdat & Kautz, 2020, arXiv:2007.03898, section 3). With z_1 at the top,

    p(z) = p(z_1) Π p(z_l | z_1 … z_(l-1)),   q(z | x) = q(z_1 | x) Π q(z_l | z_1 … z_(l-1), x)

Shapes: B batch, S side of the image, C its channels, s side of the maps of a level, F their filters, L levels,
Z_l channels of the latents of level l, Z all latents of an image.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.errors import UserError, check_at_least
from dlcourse.models.convolution import Conv, ConvTranspose
from dlcourse.models.dcgan import start_and_doublings
from dlcourse.models.dense import Dense
from dlcourse.models.vae import Inference, Latent
from dlcourse.theory.gaussians import Gaussian, sample, standard_normal

_REACH = 5.0  # of means and logarithms of variances, beyond which exponentials would take a training apart
_conv = functools.partial(Conv, kernel_size=(3, 3), padding="SAME")

Choice = Callable[[int, Gaussian, Gaussian | None], jax.Array]  # (level, prior, posterior) -> z


def _bounded(x: jax.Array) -> jax.Array:
  """x near 0, and never beyond ±5."""
  return _REACH * jnp.tanh(x / _REACH)


class Cell(nn.Module):
  """x plus two 3x3 convolutions of x, each after a swish; it begins as the identity."""

  filters: int
  """F."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, s, s, F] -> [B, s, s, F]."""
    y = _conv(self.filters)(nn.swish(x))
    return x + _conv(self.filters, kernel_init=nn.initializers.zeros)(nn.swish(y))


class Level(nn.Module):
  """Prior N(μ, σ²) and posterior N(μ + Δμ, (σ Δσ)²) of one group of latents (NVAE, section 3.2).

  So they agree where the image says nothing, and before training. The prior begins as N(0, I).
  """

  latent_dim: int
  """Z_l."""

  def setup(self) -> None:
    """One product each at every place of the maps."""
    self.prior_head = Dense(2 * self.latent_dim, kernel_init=nn.initializers.zeros)
    self.difference = Dense(2 * self.latent_dim, kernel_init=nn.initializers.zeros)

  def prior(self, down: jax.Array) -> Gaussian:
    """What came down from the levels above, [B, s, s, F] -> p(z_l | z_1 … z_(l-1))."""
    return Gaussian(*jnp.split(_bounded(self.prior_head(nn.swish(down))), 2, axis=-1))

  def posterior(self, prior: Gaussian, seen: jax.Array) -> Gaussian:
    """The prior and maps [B, s, s, ...] of both ways -> q(z_l | z_1 … z_(l-1), x)."""
    mean, log_var = jnp.split(_bounded(self.difference(nn.swish(seen))), 2, axis=-1)
    return Gaussian(prior.mean + mean, prior.log_var + log_var)


class LadderVAE(nn.Module):
  """L levels: a vector at the top, then maps of side 4 or 7, which doubles from level to level."""

  latent_dims: tuple[int, ...] = (16, 4, 1)
  """Z_l of each level, the top one first; as many as there are sides, at most."""
  width: int = 16
  """Filters of the largest maps; they double as the side halves."""
  image_shape: tuple[int, int, int] | None = None
  """(height, width, channels); None: that of the data."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit and levels without a latent, and no hierarchy."""
    check_at_least(
      1, {"task.model.width": self.width, "task.model.latent_dims": min(self.latent_dims, default=0)}
    )
    if len(self.latent_dims) < 2:
      raise UserError(
        "--task.model.latent_dims: one number for each level, and at least two of them, like 16 4 1"
      )
    super().__post_init__()

  def setup(self) -> None:
    """Layers on the way down are shared by `encode`, `decode`, `draw` and `__call__`."""
    side, _, channels = self.image_shape
    self.start, doublings = start_and_doublings(side)
    if len(self.latent_dims) > doublings + 1:
      raise UserError(
        f"--task.model.latent_dims: images of side {side} have room for {doublings + 1} levels, not "
        f"{len(self.latent_dims)}"
      )
    filters = [self.width * 2**i for i in reversed(range(doublings))]  # of the smallest maps first
    conv = functools.partial(Conv, kernel_size=(4, 4), strides=(2, 2), padding="SAME")
    self.down = [conv(f) for f in reversed(filters)]
    self.levels = [Level(dim) for dim in self.latent_dims]
    self.first_maps = Dense(self.start**2 * filters[0])
    self.enter = [Dense(f) for f, _ in zip(filters, self.latent_dims[1:], strict=False)]
    self.cells = [Cell(f) for f in filters]
    self.up = [ConvTranspose(f, (4, 4), (2, 2)) for f in (*filters[1:], channels)]

  def __call__(
    self, x: jax.Array, key: jax.Array, label: jax.Array | None = None, train: bool = False
  ) -> Inference:
    """x [B, S, S, C] -> outputs of a draw from the posterior, level by level; there is nothing to be told."""
    del label, train
    latents = []

    def drawn(level, prior, posterior):
      latents.append(Latent(sample(posterior, jax.random.fold_in(key, level)), posterior, prior))
      return latents[-1].z

    outputs = self._descend(drawn, len(x), self._climb(x))
    return Inference(outputs, tuple(latents), _flat([latent.z for latent in latents]))

  def encode(self, x: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """x [B, S, S, C] -> the posterior means, each given those above, level after level, [B, Z]."""
    del label
    means = []

    def mean(level, prior, posterior):
      means.append(posterior.mean)
      return posterior.mean

    self._descend(mean, len(x), self._climb(x))
    return _flat(means)

  def decode(self, z: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """z [B, Z] -> logits or means of the pixels [B, S, S, C]."""
    del label
    shapes = [(side, side, dim) for side, dim in zip(self._sides(), self.latent_dims, strict=True)]
    parts = jnp.split(z, np.cumsum([np.prod(shape) for shape in shapes])[:-1], axis=1)
    return self._descend(lambda level, *_: parts[level].reshape(len(z), *shapes[level]), len(z))

  def draw(self, key: jax.Array, temperature: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """Logits or means [B, S, S, C] of latents from the prior, their deviations times the temperature [B]."""
    del label
    share = temperature[:, None, None, None]

    def drawn(level, prior, _):
      return prior.mean + share * (sample(prior, jax.random.fold_in(key, level)) - prior.mean)

    return self._descend(drawn, len(temperature))

  def _sides(self) -> list[int]:
    """Of the maps of each level."""
    return [1, *(self.start * 2**i for i in range(len(self.latent_dims) - 1))]

  def _climb(self, x: jax.Array) -> list[jax.Array]:
    """What each level sees of the image, the top one first: all smallest maps, then the maps of its side."""
    maps = []
    for layer in self.down:
      x = layer(nn.swish(x) if maps else x)  # [B, S/2, S/2, F]
      maps.insert(0, x)
    return [x.reshape(len(x), 1, 1, -1), *maps]

  def _descend(self, choose: Choice, count: int, seen: list[jax.Array] | None = None) -> jax.Array:
    """The way down, on which `choose` gives the latents; without what is seen there are no posteriors."""
    prior = standard_normal(jnp.zeros((count, 1, 1, self.latent_dims[0])))
    posterior = seen and self.levels[0].posterior(prior, seen[0])
    x = self.first_maps(choose(0, prior, posterior)).reshape(count, self.start, self.start, -1)
    for level, (cell, up) in enumerate(zip(self.cells, self.up, strict=True), start=1):
      if level < len(self.levels):
        prior = self.levels[level].prior(x)
        posterior = seen and self.levels[level].posterior(prior, jnp.concatenate([x, seen[level]], axis=-1))
        x += self.enter[level - 1](choose(level, prior, posterior))
      x = up(nn.swish(cell(x)))  # [B, 2s, 2s, F/2]
    return x


def _flat(groups: list[jax.Array]) -> jax.Array:
  """[B, s, s, Z_l] of each level -> [B, Z]."""
  return jnp.concatenate([group.reshape(len(group), -1) for group in groups], axis=1)
