"""DCGAN (Radford, Metz & Chintala, 2015, section 3 and figure 1; H4.7.1) and the networks derived from it.

No pooling, no hidden dense layer; 4x4 kernels with stride 2; batch norm everywhere but at the generator's
output and the discriminator's input; ReLU in the generator, leaky ReLU 0.2 in the discriminator; weights
from N(0, 0.02²). With another norm the discriminator is a critic of WGAN-GP (Gulrajani et al., 2017, section 4:
layer norm or none) or of SNGAN (Miyato et al., 2018); with labels the pair is a conditional GAN (H4.7.2).
Shapes: B batch, Z latent, S side of the image, C its channels, K classes.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least
from dlcourse.models.batch_norm import BatchNorm
from dlcourse.models.convolution import Conv, ConvTranspose
from dlcourse.models.dense import Dense
from dlcourse.models.spectral_norm import SpectralConv, SpectralDense

_weights = nn.initializers.normal(0.02)


def start_and_doublings(side: int) -> tuple[int, int]:
  """The smallest map's side, 4 or 7, and how often it doubles to the image's.

  Raises:
    UserError: there is no such map.
  """
  for start in (4, 7):
    factor = side // start
    if side % start == 0 and factor > 1 and factor.bit_count() == 1:
      return start, factor.bit_length() - 1
  raise UserError(
    f"this network makes images of side 8, 16, 32, 64 … and 14, 28, 56 …, not {side}; set --data.size"
  )


def class_vectors(label: jax.Array | None, num_classes: int | None) -> jax.Array:
  """label [B] -> one-hot [B, K], what a conditional network sees of it.

  Raises:
    UserError: the data has no classes.
    ValueError: no label is given.
  """
  if num_classes is None:
    raise UserError("a conditional network needs data with classes, and this data has none")
  if label is None:
    raise ValueError("a conditional network needs the label [B] of each image")
  return jax.nn.one_hot(label, num_classes)


class Generator(nn.Module):
  """Latents to images in [-1, 1]; the number of filters halves while the side doubles."""

  latent_dim: int = 100
  """Z, dimensions of the Gaussian latent."""
  width: int = 64
  """Filters of the last hidden layer."""
  conditional: bool = False
  """Append the class, one-hot, to the latent (Mirza & Osindero, 2014)."""
  num_classes: int | None = None
  """K; None: as many as the data has."""
  image_shape: tuple[int, int, int] | None = None
  """(S, S, C); None: that of the data."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.generator.latent_dim": self.latent_dim, "task.generator.width": self.width})
    super().__post_init__()

  @nn.compact
  def __call__(self, z: jax.Array, label: jax.Array | None = None, train: bool = False) -> jax.Array:
    """z [B, Z], label [B] -> images [B, S, S, C]."""
    side, _, channels = self.image_shape
    norm = functools.partial(BatchNorm, train)
    up = functools.partial(ConvTranspose, kernel_size=(4, 4), use_bias=False, kernel_init=_weights)
    start, doublings = start_and_doublings(side)
    if self.conditional:
      z = jnp.concatenate([z, class_vectors(label, self.num_classes)], axis=-1)  # [B, Z + K]
    x = z[:, None, None, :]  # [B, 1, 1, Z]
    x = up(self.width * 2 ** (doublings - 1), kernel_size=(start, start), padding="VALID")(x)
    x = nn.relu(norm()(x))  # [B, s, s, F]
    for i in reversed(range(doublings - 1)):
      x = nn.relu(norm()(up(self.width * 2**i, strides=(2, 2))(x)))  # [B, 2s, 2s, F/2]
    return nn.tanh(up(channels, strides=(2, 2), use_bias=True)(x))  # [B, S, S, C]


def normalised(
  x: jax.Array, norm: str, train: bool, mask: jax.Array | None, name: str | None = None
) -> jax.Array:
  """Maps x [B, H, W, F] after the norm of maps of a discriminator, batch or layer; others leave them alone.

  Args:
    x: maps of a layer of the module that calls.
    norm: a discriminator's field.
    train: of `BatchNorm`.
    mask: [B] of the images that count, likewise.
    name: of the layer that is made.
  """
  if norm == "batch":
    return BatchNorm(train, name=name)(x, mask=mask)
  if norm == "layer":
    return nn.LayerNorm(epsilon=1e-5, reduction_axes=(1, 2, 3), name=name)(x)
  return x


class Discriminator(nn.Module):
  """Images to one logit: large for real; the mirror image of the generator."""

  width: int = 64
  """Filters of the first layer."""
  norm: Literal["batch", "none", "layer", "spectral"] = "batch"
  """batch: of all layers but the first and last (DCGAN, WGAN); layer: of the same, over each image (WGAN-GP);
  spectral: of the kernels of all layers (SNGAN)."""
  condition: Literal["none", "input", "projection"] = "none"
  """input: K further maps of the image, 1 in that of its class (Mirza & Osindero, 2014); projection: the logit
  plus the product of features and a vector of the class (Miyato & Koyama, 2018, arXiv:1802.05637, eq. 3)."""
  num_classes: int | None = None
  """K; None: as many as the data has."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.discriminator.width": self.width})
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    label: jax.Array | None = None,
    train: bool = False,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """x [B, S, S, C], label [B] -> logits [B]; batch norm leaves out the images whose mask [B] is 0.

    The maps before the last layer are sown as "features" [B, s, s, F].
    """
    start, doublings = start_and_doublings(x.shape[1])
    conv, dense = Conv, Dense
    if self.norm == "spectral":
      conv, dense = (functools.partial(layer, train=train) for layer in (SpectralConv, SpectralDense))
    classes = None if self.condition == "none" else class_vectors(label, self.num_classes)  # [B, K]
    if self.condition == "input":
      maps = jnp.broadcast_to(classes[:, None, None], (*x.shape[:3], self.num_classes))
      x = jnp.concatenate([x, maps], axis=-1)  # [B, S, S, C + K]
    down = functools.partial(conv, kernel_size=(4, 4), strides=(2, 2), padding="SAME", kernel_init=_weights)
    for i in range(doublings):
      x = down(self.width * 2**i, use_bias=i == 0 or self.norm != "batch")(x)  # [B, S/2, S/2, F]
      x = nn.leaky_relu(normalised(x, self.norm, train, mask) if i else x, 0.2)
    self.sow("intermediates", "features", x)
    logit = conv(1, (start, start), padding="VALID", kernel_init=_weights, name="output")(x)[:, 0, 0, 0]
    if self.condition == "projection":
      vectors = dense(x.shape[-1], use_bias=False, kernel_init=_weights, name="projection")(classes)  # [B, F]
      logit += (vectors * x.sum((1, 2))).sum(-1)
    return logit
