"""A convolutional variational autoencoder for small images (H5.2.1), of the layers of DCGAN without its norm.

Shapes: B batch, Z latent, S side of the image, C its channels, s side of the smallest maps, F filters.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import check_at_least
from dlcourse.models.convolution import Conv, ConvTranspose
from dlcourse.models.dcgan import class_vectors, start_and_doublings
from dlcourse.models.layers import Activation, activate
from dlcourse.models.vae import FlatAutoencoder


class ConvVAE(FlatAutoencoder):
  """4x4 kernels with stride 2 down to maps of side 4 or 7 and up again; filters double as the side halves."""

  width: int = 32
  """Filters of the first layer."""
  activation: Activation = "relu"
  """After every layer but the last of encoder and decoder."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.model.width": self.width})
    super().__post_init__()

  def setup(self) -> None:
    """Layers are shared by `encode`, `decode` and `__call__`."""
    super().setup()
    side, _, channels = self.image_shape
    self.start, doublings = start_and_doublings(side)
    conv = functools.partial(Conv, kernel_size=(4, 4), strides=(2, 2), padding="SAME")
    up = functools.partial(ConvTranspose, kernel_size=(4, 4), strides=(2, 2))
    self.down = [conv(self.width * 2**i) for i in range(doublings)]
    self.first_maps = nn.Dense(self.start**2 * self.width * 2 ** (doublings - 1))
    self.up = [up(self.width * 2**i) for i in reversed(range(doublings - 1))]
    self.pixels = up(channels)

  def features(self, x: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """x [B, S, S, C] -> the last maps, flat, [B, s * s * F]; the class is K further maps of x."""
    if self.conditional:
      maps = class_vectors(label, self.num_classes)[:, None, None]
      x = jnp.concatenate([x, jnp.broadcast_to(maps, (*x.shape[:3], maps.shape[-1]))], axis=-1)
    for layer in self.down:
      x = activate(self.activation, layer(x))  # [B, S/2, S/2, F]
    return x.reshape(len(x), -1)

  def decode(self, z: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """z [B, Z] -> logits or means of the pixels [B, S, S, C]."""
    x = activate(self.activation, self.first_maps(self.beside_class(z, label)))
    x = x.reshape(len(z), self.start, self.start, -1)  # [B, s, s, F]
    for layer in self.up:
      x = activate(self.activation, layer(x))  # [B, 2s, 2s, F/2]
    return self.pixels(x)
