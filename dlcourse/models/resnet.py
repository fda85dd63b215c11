"""Residual networks (He, Zhang, Ren & Sun, 2016, arXiv:1512.03385; H2.9.4).

Shapes: B batch, S image side, F filters. Layers have the names of the paper's table 1: `conv1`, then block b of
stage s is `conv{s}_{b}`.
"""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import check_at_least
from dlcourse.models.convolution import Conv
from dlcourse.models.layers import Activation, Norm, Stem, activate, normalisation
from dlcourse.models.pooling import max_pool

_weights = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")  # He et al., 2015


class Basic(nn.Module):
  """Two 3x3 convolutions and a shortcut (figure 5, left)."""

  filters: int
  stride: int
  conv: Callable
  norm: Callable
  act: Callable
  residual: bool
  stride_in: str = "3x3"  # the only place there is

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F'] -> [B, S/stride, S/stride, F]."""
    stride = (self.stride, self.stride)
    y = self.conv(self.filters, (3, 3), stride, name="conv1")(x)
    y = self.act(self.norm(name="norm1")(y))
    y = self.norm(name="norm2")(self.conv(self.filters, (3, 3), name="conv2")(y))
    return self.act(y + _shortcut(self, x, y.shape, stride) if self.residual else y)


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions, the last four times as wide, and a shortcut (figure 5, right)."""

  filters: int
  stride: int
  conv: Callable
  norm: Callable
  act: Callable
  residual: bool
  stride_in: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F'] -> [B, S/stride, S/stride, 4F]."""
    stride, one = (self.stride, self.stride), (1, 1)
    first, second = (stride, one) if self.stride_in == "1x1" else (one, stride)
    y = self.act(self.norm(name="norm1")(self.conv(self.filters, (1, 1), first, name="conv1")(x)))
    y = self.act(self.norm(name="norm2")(self.conv(self.filters, (3, 3), second, name="conv2")(y)))
    y = self.norm(name="norm3")(self.conv(4 * self.filters, (1, 1), name="conv3")(y))
    return self.act(y + _shortcut(self, x, y.shape, stride) if self.residual else y)


def _shortcut(block: Basic | Bottleneck, x: jax.Array, shape: tuple[int, ...], stride: tuple) -> jax.Array:
  """x itself, or projected where the shape changes (option B of the paper)."""
  if x.shape == shape:
    return x
  return block.norm(name="norm_project")(block.conv(shape[-1], (1, 1), stride, name="project")(x))


class ResNet(nn.Module):
  """Stages of residual blocks; the number of filters doubles while the side halves."""

  depths: tuple[int, ...] = (3, 4, 6, 3)
  """Blocks of each stage."""
  block: Literal["basic", "bottleneck"] = "bottleneck"
  """Two or three convolutions a block."""
  width: int = 64
  """Filters of the stem and of the first stage."""
  stem: Stem = "large"
  """large: 7x7 at stride 2 and max pooling; small: 3x3 at stride 1, for images of 32 pixels (section 4.2)."""
  residual: bool = True
  """False leaves the shortcuts out: the plain network of section 4.1."""
  stride_in: Literal["1x1", "3x3"] = "3x3"
  """Which convolution of a bottleneck halves the side: the first (paper, Keras), the second (torchvision)."""
  conv_bias: bool = False
  """Biases before the norms, which cancel them; Keras has them."""
  activation: Activation = "relu"
  """After every norm but that of a shortcut."""
  norm: Norm = "batch"
  """After every convolution."""
  epsilon: float = 1e-5
  """Added to the variance by every norm; 1.001e-5 in Keras."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses a network without stages, and stages without blocks."""
    check_at_least(1, {"task.model.depths": min(self.depths, default=0), "task.model.width": self.width})
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array | dict:
    """x [B, S, S, C] -> logits [B, num_classes], or with `features` the maps by stage: conv1 … conv5, pool."""
    act = functools.partial(activate, self.activation)
    norm = normalisation(self.norm, train, self.epsilon)
    conv = functools.partial(Conv, padding="AROUND", use_bias=self.conv_bias, kernel_init=_weights)
    kind = {"basic": Basic, "bottleneck": Bottleneck}[self.block]
    block = functools.partial(
      kind, conv=conv, norm=norm, act=act, residual=self.residual, stride_in=self.stride_in
    )
    maps = {}
    size, strides = ((7, 7), (2, 2)) if self.stem == "large" else ((3, 3), (1, 1))
    x = maps["conv1"] = act(norm(name="norm1")(conv(self.width, size, strides, name="conv1")(x)))
    if self.stem == "large":
      x = max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for stage, depth in enumerate(self.depths, 2):  # [B, S', S', F]
      filters = self.width * 2 ** (stage - 2)
      for i in range(depth):
        stride = 2 if stage > 2 and i == 0 else 1
        x = block(filters, stride, name=f"conv{stage}_{i + 1}")(x)
      maps[f"conv{stage}"] = x
    x = maps["pool"] = jnp.mean(x, axis=(1, 2))  # [B, F]
    return maps if features else nn.Dense(self.num_classes, name="output")(x)


# Table 1; trainable parameters at 1,000 classes.
RESNET = {
  18: ResNet((2, 2, 2, 2), "basic"),  # 11,689,512
  34: ResNet((3, 4, 6, 3), "basic"),  # 21,797,672
  50: ResNet((3, 4, 6, 3)),  # 25,557,032
  101: ResNet((3, 4, 23, 3)),  # 44,549,160
  152: ResNet((3, 8, 36, 3)),  # 60,192,808
}
# As in keras.applications: 25,636,712 numbers, running statistics included.
KERAS_RESNET50 = ResNet(stride_in="1x1", conv_bias=True, epsilon=1.001e-5)
