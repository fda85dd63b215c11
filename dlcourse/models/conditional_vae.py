"""Conditional VAEs that are told an image (Sohn et al., 2015; H5.4.2, H5.4.4).

Of an image x and its source s they learn p(x | s), the mean of p(x | z, s) over latents z from p(z | s). That
prior is learnt as a function of the source, and the posterior q(z | x, s) says how it differs from it.
So draws from the prior are images that the source leaves possible.
Shapes: B batch, Z latent, S side of the image, C its channels, D channels of the source, F filters.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least
from dlcourse.models.convolution import Conv, ConvTranspose
from dlcourse.models.dcgan import start_and_doublings
from dlcourse.models.dense import Dense
from dlcourse.models.ladder_vae import Level
from dlcourse.models.vae import Inference, Latent
from dlcourse.theory.gaussians import sample


class SourceVAE(nn.Module):
  """What VAEs that are told a source share: one flat group of latents, its prior and its posterior.

  A subclass builds its layers in `setup`, and gives `look(source)`, the maps by which it knows a source, the
  last of which the prior is read from, `features(x, source) -> [B, H]` and `paint(z, looked) -> outputs`.
  """

  latent_dim: int = 32
  """Z, dimensions of the latent."""
  width: int = 16
  """Filters of the largest maps; they double as the side halves."""
  image_shape: tuple[int, int, int] | None = None
  """(S, S, C); None: that of the data."""

  told = "source"

  def __post_init__(self) -> None:
    """Refuses layers without a unit, and a latent without a dimension."""
    check_at_least(1, {"task.model.latent_dim": self.latent_dim, "task.model.width": self.width})
    super().__post_init__()

  def setup(self) -> None:
    """The heads of prior and posterior."""
    self.level = Level(self.latent_dim)

  def look(self, source: jax.Array) -> list[jax.Array]:
    """source [B, S, S, D] -> maps [B, ...]."""
    raise NotImplementedError

  def features(self, x: jax.Array, source: jax.Array) -> jax.Array:
    """x [B, S, S, C], source [B, S, S, D] -> what the posterior is read from, [B, H]."""
    raise NotImplementedError

  def paint(self, z: jax.Array, looked: list[jax.Array]) -> jax.Array:
    """z [B, Z] and what is known of the source -> logits or means of the pixels [B, S, S, C]."""
    raise NotImplementedError

  def __call__(self, x: jax.Array, key: jax.Array, source: jax.Array, train: bool = False) -> Inference:
    """x [B, S, S, C], source [B, S, S, D] -> outputs of a draw from q(z | x, s), whether it trains or not."""
    looked = self.look(source)
    prior = self._prior(looked)
    posterior = self.level.posterior(prior, self.features(x, source))
    z = sample(posterior, key)
    return Inference(self.paint(z, looked), (Latent(z, posterior, prior),), z)

  def encode(self, x: jax.Array, source: jax.Array) -> jax.Array:
    """x [B, S, S, C], source [B, S, S, D] -> the posterior's mean, [B, Z]."""
    return self.level.posterior(self._prior(self.look(source)), self.features(x, source)).mean

  def expect(self, source: jax.Array) -> jax.Array:
    """source [B, S, S, D] -> the prior's mean, [B, Z]."""
    return self._prior(self.look(source)).mean

  def decode(self, z: jax.Array, source: jax.Array) -> jax.Array:
    """z [B, Z], source [B, S, S, D] -> logits or means of the pixels [B, S, S, C]."""
    return self.paint(z, self.look(source))

  def draw(self, key: jax.Array, temperature: jax.Array, source: jax.Array) -> jax.Array:
    """Logits or means [B, S, S, C] of latents from p(z | s), their deviations times the temperature [B]."""
    looked = self.look(source)
    prior = self._prior(looked)
    z = prior.mean + temperature[:, None] * (sample(prior, key) - prior.mean)
    return self.paint(z, looked)

  def _prior(self, looked):
    return self.level.prior(flat(looked[-1]))


class ConditionalVAE(SourceVAE):
  """Images from sources of their side: a U-Net (Ronneberger et al., 2015) whose innermost maps get the latents.

  As the probabilistic U-Net (Kohl et al., 2018, arXiv:1806.05034), which adds them after its outermost. 4x4
  kernels with stride 2 down to maps of side 4 or 7 and up again, swish after every layer but the last.
  """

  def setup(self) -> None:
    """Layers are shared by `encode`, `decode`, `expect`, `draw` and `__call__`."""
    super().setup()
    side, _, channels = self.image_shape
    self.start, doublings = start_and_doublings(side)
    filters = [self.width * 2**i for i in range(doublings)]
    down = functools.partial(Conv, kernel_size=(4, 4), strides=(2, 2), padding="SAME")
    self.of_source = [down(f) for f in filters]
    self.of_both = [down(f) for f in filters]
    self.first_maps = Dense(self.start**2 * filters[-1])
    self.up = [ConvTranspose(f, (4, 4), (2, 2)) for f in reversed([self.width, *filters[:-1]])]
    self.pixels = Conv(channels, (3, 3), padding="SAME")

  def look(self, source: jax.Array) -> list[jax.Array]:
    """source [B, S, S, D] -> itself, and its maps at every halved side.

    Raises:
      UserError: the source has another side than the image.
    """
    if source.shape[1:3] != self.image_shape[:2]:
      raise UserError(
        f"a conditional VAE keeps the side of its source, {source.shape[1]}, and the image's is "
        f"{self.image_shape[0]}; set --data.kind=undersampled, edges, cluttered or grey"
      )
    looked = [source]
    for layer in self.of_source:
      looked.append(nn.swish(layer(looked[-1])))  # [B, S/2, S/2, F]
    return looked

  def features(self, x: jax.Array, source: jax.Array) -> jax.Array:
    """x [B, S, S, C], source [B, S, S, D] -> the last maps of both together, flat, [B, s * s * F]."""
    x = jnp.concatenate([x, source], axis=-1)
    for layer in self.of_both:
      x = nn.swish(layer(x))
    return flat(x)

  def paint(self, z: jax.Array, looked: list[jax.Array]) -> jax.Array:
    """z [B, Z] and the maps of the source -> logits or means of the pixels [B, S, S, C]."""
    x = nn.swish(self.first_maps(z)).reshape(looked[-1].shape)  # [B, s, s, F]
    for layer, seen in zip(self.up, reversed(looked[1:]), strict=True):
      x = nn.swish(layer(jnp.concatenate([x, seen], axis=-1)))  # [B, 2s, 2s, F/2]
    return self.pixels(jnp.concatenate([x, looked[0]], axis=-1))


def flat(x: jax.Array) -> jax.Array:
  """[B, ...] -> [B, H]."""
  return x.reshape(len(x), -1)
