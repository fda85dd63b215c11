"""The networks of pix2pix, a U-Net and a judge of patches (Isola et al., 2017, arXiv:1611.07004; H4.9.2).

As in appendix 6.1 of the paper, where it leaves room as in the authors' PyTorch code, whose parameter counts
these are: 4x4 kernels with stride 2, in the U-Net no bias but the output's, weights from N(0, 0.02²).
Shapes: B batch, S side of the image, C its channels, D channels of the source, F maps of a layer.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least
from dlcourse.models.batch_norm import BatchNorm
from dlcourse.models.convolution import Conv, ConvTranspose
from dlcourse.models.dcgan import normalised
from dlcourse.models.spectral_norm import SpectralConv

WIDEST = 8  # times the width: 512 maps of the published 64
DROPPED = 3  # layers of the published 8, after the innermost, that drop half of their maps
_weights = nn.initializers.normal(0.02)


class UNet(nn.Module):
  """Images to images in [-1, 1]: an encoder, and a decoder that sees the maps of the encoder at each side.

  Random numbers are drawn by dropout alone (section 2.2), as here in training only.
  """

  width: int = 64
  """Maps of the first layer; they double until there are 8 times as many."""
  depth: int | None = None
  """How often the side is halved; None: down to a single pixel."""
  dropout: float = 0.5
  """Share of the maps' pixels that is dropped in the three layers after the innermost."""
  image_shape: tuple[int, int, int] | None = None
  """(S, S, C); None: that of the data."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.generator.width": self.width})
    if self.depth is not None:
      check_at_least(2, {"task.generator.depth": self.depth})
    if not 0 <= self.dropout < 1:
      raise UserError(f"--task.generator.dropout={self.dropout} is a share below 1; the paper's is 0.5")
    super().__post_init__()

  @nn.compact
  def __call__(self, source: jax.Array, label: jax.Array | None = None, train: bool = False) -> jax.Array:
    """source [B, S, S, D] -> images [B, S, S, C]; the label is not looked at.

    Raises:
      UserError: the source has another side than the image, or the side cannot be halved so often.
    """
    del label
    side, _, channels = self.image_shape
    if source.shape[1] != side:
      raise UserError(
        f"a U-Net keeps the side of its source, {source.shape[1]}, and the image's is {side}; SRResNet enlarges"
      )
    depth = halvings(side, self.depth)
    widths = [self.width * min(2**i, WIDEST) for i in range(depth)]
    norm = functools.partial(BatchNorm, train)
    options = {"kernel_size": (4, 4), "strides": (2, 2), "use_bias": False, "kernel_init": _weights}
    seen, x = [], source
    for i, features in enumerate(widths):
      x = Conv(features, padding="SAME", name=f"down_{i}", **options)(x)  # [B, S / 2, S / 2, F]
      if 0 < i < depth - 1:
        x = norm(name=f"down_norm_{i}")(x)
      seen.append(x)
      x = nn.leaky_relu(x, 0.2)
    x = seen.pop()
    for i in reversed(range(depth - 1)):
      x = norm(name=f"up_norm_{i}")(ConvTranspose(widths[i], name=f"up_{i}", **options)(nn.relu(x)))
      if depth - 2 - DROPPED <= i < depth - 2:
        x = nn.Dropout(self.dropout, deterministic=not train, rng_collection="noise")(x)
      x = jnp.concatenate([seen.pop(), x], axis=-1)  # [B, 2s, 2s, 2F]
    return nn.tanh(ConvTranspose(channels, name="output", **options | {"use_bias": True})(nn.relu(x)))


def halvings(side: int, depth: int | None) -> int:
  """How often a U-Net halves a side.

  Raises:
    UserError: the side cannot be halved so often, or down to a single pixel where no depth is given.
  """
  if depth is None and side >= 16 and side.bit_count() == 1:
    return side.bit_length() - 1
  if depth is None:
    raise UserError(
      f"a U-Net down to a single pixel needs images of side 16, 32, 64 …, not {side}; set --data.size, or "
      "--task.generator.depth"
    )
  if side % 2**depth:
    raise UserError(f"--task.generator.depth={depth} needs images whose side {2**depth} divides, not {side}")
  return depth


class PatchDiscriminator(nn.Module):
  """Images to one logit, large for real: the mean of those of overlapping patches (section 2.2.2).

  Every patch has 9 · 2^depth - 2 pixels a side: 70 of the published depth. The source comes with the image, as
  further channels.
  """

  width: int = 64
  """Maps of the first layer; they double until there are 8 times as many."""
  depth: int = 3
  """Layers with stride 2; two with stride 1 follow."""
  norm: Literal["batch", "none", "layer", "spectral"] = "batch"
  """batch: of all layers but the first and last; layer: of the same, over each image; spectral: of the kernels
  of all layers."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.discriminator.width": self.width, "task.discriminator.depth": self.depth})
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    label: jax.Array | None = None,
    train: bool = False,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """x [B, S, S, C + D] -> logits [B]; batch norm leaves out the images whose mask [B] is 0.

    The maps before the last layer are sown as "features" [B, s, s, F]; the label is not looked at.

    Raises:
      UserError: no patch fits into the image.
    """
    del label
    if x.shape[1] // 2**self.depth < 3:
      raise UserError(
        f"--task.discriminator.depth={self.depth} needs images of side {3 * 2**self.depth} or more, "
        f"not {x.shape[1]}"
      )
    conv = functools.partial(SpectralConv, train=train) if self.norm == "spectral" else Conv
    conv = functools.partial(conv, kernel_size=(4, 4), padding=((1, 1), (1, 1)), kernel_init=_weights)
    for i in range(self.depth + 1):
      stride, bias = 2 if i < self.depth else 1, i == 0 or self.norm != "batch"
      x = conv(self.width * min(2**i, WIDEST), strides=(stride, stride), use_bias=bias, name=f"conv_{i}")(x)
      x = nn.leaky_relu(normalised(x, self.norm, train, mask, f"norm_{i}") if i else x, 0.2)
    self.sow("intermediates", "features", x)
    return conv(1, name="output")(x).mean((1, 2, 3))
