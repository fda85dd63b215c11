"""SRResNet, the generator of SRGAN (Ledig et al., 2017, arXiv:1609.04802, figure 4; H4.9.1).

Residual blocks at the side of the source, then sub-pixel convolutions (Shi et al., 2016, arXiv:1609.05158) that
double it. Added here: the network learns what the bicubic enlargement lacks, and starts from there.
Shapes: B batch, S side of the image, C its channels, s side of the source, D its channels, F maps.
"""

import functools

import flax.linen as nn
import jax

from dlcourse.errors import UserError, check_at_least
from dlcourse.models.batch_norm import BatchNorm
from dlcourse.models.convolution import Conv

_prelu = functools.partial(nn.PReLU, negative_slope_init=0.25)


def sub_pixel_shuffle(x: jax.Array, times: int = 2) -> jax.Array:
  """Spreads channels over neighbouring pixels (Shi et al., 2016, equation 4).

  Args:
    x: [B, H, W, times² C].
    times: by how much the sides grow.

  Returns:
    [B, times H, times W, C]: pixel (i, j) of a square is C channels of its place, from (i times + j) C on.
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height, width, times, times, channels // times**2)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, times * height, times * width, -1)


class SRResNet(nn.Module):
  """Small images to images in [-1, 1], each side as often doubled as the data asks for: twice in the paper.

  With 3 channels it has 1,547,350 parameters, the 1.5 million of published comparisons. Biases before batch
  norm, which some implementations have and this one has not, would be 2,112 more.
  """

  width: int = 64
  """Maps of every layer."""
  blocks: int = 16
  """Residual blocks."""
  image_shape: tuple[int, int, int] | None = None
  """(S, S, C); None: that of the data."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.generator.width": self.width, "task.generator.blocks": self.blocks})
    super().__post_init__()

  @nn.compact
  def __call__(self, source: jax.Array, label: jax.Array | None = None, train: bool = False) -> jax.Array:
    """source [B, s, s, C] -> images [B, S, S, C], clipped where not in training; the label is not looked at.

    Raises:
      UserError: the image is not the source with its side doubled, or has other channels.
    """
    del label
    doublings = _doublings(source.shape[1:], self.image_shape)
    norm, conv = functools.partial(BatchNorm, train), functools.partial(Conv, padding="SAME")
    small = functools.partial(conv, self.width, (3, 3), use_bias=False)
    x = first = _prelu()(conv(self.width, (9, 9), name="input")(source))
    for i in range(self.blocks):
      y = _prelu(name=f"block_{i}_prelu")(norm(name=f"block_{i}_norm_0")(small(name=f"block_{i}_conv_0")(x)))
      x = x + norm(name=f"block_{i}_norm_1")(small(name=f"block_{i}_conv_1")(y))
    x = first + norm(name="middle_norm")(small(name="middle")(x))
    for i in range(doublings):
      x = conv(4 * self.width, (3, 3), name=f"up_{i}")(x)
      x = _prelu(name=f"up_{i}_prelu")(sub_pixel_shuffle(x))  # [B, 2s, 2s, F]
    x = conv(self.image_shape[-1], (9, 9), kernel_init=nn.initializers.zeros, name="output")(x)
    x = x + jax.image.resize(source, x.shape, "cubic")
    return x if train else x.clip(-1, 1)


def _doublings(source: tuple[int, int, int], image: tuple[int, int, int]) -> int:
  factor = image[0] // source[0]
  if factor < 2 or factor.bit_count() > 1 or image != (factor * source[0], factor * source[1], source[2]):
    raise UserError(
      f"SRResNet doubles the side of its source and keeps its channels; images of {image} cannot be made from "
      f"sources of {source}: set --data.kind=downscaled"
    )
  return factor.bit_length() - 1
