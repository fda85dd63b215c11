"""DCGAN (Radford, Metz & Chintala, 2015, section 3 and figure 1; H4.7.1).

No pooling, no hidden dense layer; 4x4 kernels with stride 2; batch norm everywhere but at the generator's
output and the discriminator's input; ReLU in the generator, leaky ReLU 0.2 in the discriminator; weights
from N(0, 0.02²). Shapes: B batch, Z latent, S side of the image, C its channels.
"""

import functools

import flax.linen as nn
import jax
import numpy as np

from dlcourse.errors import UserError, check_at_least
from dlcourse.models.batch_norm import BatchNorm
from dlcourse.models.convolution import Conv, ConvTranspose

_weights = nn.initializers.normal(0.02)


def _doublings(side: int) -> int:
  """How often 4 doubles to the image's side; the architecture exists for such sides only."""
  count = int(np.log2(side / 4)) if side >= 8 else 0
  if 4 * 2**count != side or not count:
    raise UserError(f"DCGAN makes images of side 8, 16, 32, 64 …, not {side}; set --data.size")
  return count


class Generator(nn.Module):
  """Latents to images in [-1, 1]; the number of filters halves while the side doubles."""

  latent_dim: int = 100
  """Z, dimensions of the Gaussian latent."""
  width: int = 64
  """Filters of the last hidden layer."""
  image_shape: tuple[int, int, int] | None = None
  """(S, S, C); None: that of the data."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.generator.latent_dim": self.latent_dim, "task.generator.width": self.width})
    super().__post_init__()

  @nn.compact
  def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
    """z [B, Z] -> images [B, S, S, C]."""
    side, _, channels = self.image_shape
    norm = functools.partial(BatchNorm, train)
    up = functools.partial(ConvTranspose, kernel_size=(4, 4), use_bias=False, kernel_init=_weights)
    doublings = _doublings(side)
    x = z[:, None, None, :]  # [B, 1, 1, Z]
    x = nn.relu(norm()(up(self.width * 2 ** (doublings - 1), padding="VALID")(x)))  # [B, 4, 4, F]
    for i in reversed(range(doublings - 1)):
      x = nn.relu(norm()(up(self.width * 2**i, strides=(2, 2))(x)))  # [B, 2s, 2s, F/2]
    return nn.tanh(up(channels, strides=(2, 2), use_bias=True)(x))  # [B, S, S, C]


class Discriminator(nn.Module):
  """Images to one logit: large for real; the mirror image of the generator."""

  width: int = 64
  """Filters of the first layer."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.discriminator.width": self.width})
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
    """x [B, S, S, C] -> logits [B]; batch norm leaves out the images whose mask [B] is 0."""
    norm = functools.partial(BatchNorm, train)
    down = functools.partial(
      Conv, kernel_size=(4, 4), strides=(2, 2), padding="SAME", use_bias=False, kernel_init=_weights
    )
    for i in range(_doublings(x.shape[1])):
      x = down(self.width * 2**i, use_bias=i == 0)(x)  # [B, s/2, s/2, F]
      x = nn.leaky_relu(norm()(x, mask=mask) if i else x, 0.2)
    x = Conv(1, (4, 4), padding="VALID", kernel_init=_weights, name="output")(x)  # [B, 1, 1, 1]
    return x[:, 0, 0, 0]
