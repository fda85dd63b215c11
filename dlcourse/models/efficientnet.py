"""EfficientNet (Tan & Le, 2019, arXiv:1905.11946; H2.9.3): one network, scaled in depth, width and resolution.

Shapes: B batch, S image side, F filters. Block b of stage s is `stage{s}_{b}`; stages are counted from 1
after the stem, as in the code of the authors: row s + 1 of the paper's table 1.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_below_one
from dlcourse.models.convolution import Conv
from dlcourse.models.layers import Activation, Norm, Stem, activate, divisible_by_8, normalisation

_weights = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")  # He et al., 2015
_depthwise_weights = nn.initializers.he_normal()  # a channel has as many inputs as outputs: those of its kernel
_output_weights = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class MBConv(nn.Module):
  """The inverted residual of MobileNetV2 with squeeze-and-excite, dropped at random in training."""

  filters: int
  kernel: int
  stride: int
  expansion: int
  squeeze: float
  drop: float
  conv: Callable
  norm: Callable
  act: Callable

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """x [B, S, S, F'] -> [B, S/stride, S/stride, F]."""
    y, wide = x, self.expansion * x.shape[-1]
    if self.expansion > 1:
      y = self.act(self.norm(name="norm_expand")(self.conv(wide, (1, 1), name="expand")(y)))
    depthwise = functools.partial(self.conv, feature_group_count=wide, kernel_init=_depthwise_weights)
    y = depthwise(wide, (self.kernel, self.kernel), (self.stride, self.stride), name="depthwise")(y)
    y = self.act(self.norm(name="norm_depthwise")(y))
    if self.squeeze:  # Hu et al., 2018: each channel is weighed by what all channels hold on average
      one_by_one = functools.partial(self.conv, kernel_size=(1, 1), use_bias=True)
      weight = jnp.mean(y, axis=(1, 2), keepdims=True)  # [B, 1, 1, expansion F']
      weight = self.act(one_by_one(max(1, int(self.squeeze * x.shape[-1])), name="squeeze")(weight))
      y = y * nn.sigmoid(one_by_one(wide, name="excite")(weight))
    y = self.norm(name="norm_project")(self.conv(self.filters, (1, 1), name="project")(y))
    if x.shape != y.shape:
      return y
    # Stochastic depth (Huang et al., 2016): one draw an image, for the whole branch.
    return x + nn.Dropout(self.drop, broadcast_dims=(1, 2, 3), deterministic=not train)(y)


class EfficientNet(nn.Module):
  """Stages of mobile inverted bottlenecks between a 3x3 and a 1x1 convolution."""

  width: float = 1.0
  """Multiplier of all filters, rounded to multiples of 8."""
  depth: float = 1.0
  """Multiplier of the blocks of each stage, rounded up."""
  dropout: float = 0.2
  """Probability that an input of the classifier is dropped in training."""
  drop_connect: float = 0.2
  """Probability that a block is dropped in training: 0 for the first, rising linearly towards this."""
  squeeze: float = 0.25
  """Width of squeeze-and-excite as a share of the filters that enter the block; 0 leaves it out."""
  fixed_ends: bool = False
  """Neither widens stem and head nor deepens the first and the last stage (Lite)."""
  filters: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
  """Filters of each stage (table 1)."""
  depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
  """Blocks of each stage."""
  kernels: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
  """Side of the depthwise kernels of each stage."""
  strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
  """Stride of the first block of each stage."""
  expansion: int = 6
  """By how much a block widens its input; the first stage does not."""
  stem: Stem = "large"
  """small: stem and stage 2 have stride 1, for images of 32 pixels."""
  padding: Literal["around", "same"] = "same"
  """At stride 2 one more zero at the end than at the start (TensorFlow), or as many (timm, torchvision)."""
  activation: Activation = "swish"
  """After every norm but that of a projection, and inside squeeze-and-excite."""
  norm: Norm = "batch"
  """After every convolution but those of squeeze-and-excite."""
  epsilon: float = 1e-3
  """Added to the variance by every norm; 1e-5 in timm."""
  momentum: float = 0.99
  """Of the running averages of batch norm."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses averages that never move, to drop everything, and stages of which something is not said."""
    for name in ("dropout", "drop_connect", "momentum"):
      check_below_one({f"task.model.{name}": getattr(self, name)})
    if not len(self.filters) == len(self.depths) == len(self.kernels) == len(self.strides):
      raise UserError("--task.model: filters, depths, kernels and strides need one number for every stage")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array | dict:
    """x [B, S, S, C] -> logits [B, num_classes], or with `features` conv1, stage1 … stage7, conv2, pool."""
    act = functools.partial(activate, self.activation)
    norm = normalisation(self.norm, train, self.epsilon, self.momentum)
    conv = functools.partial(Conv, padding=self.padding.upper(), use_bias=False, kernel_init=_weights)
    block = functools.partial(MBConv, squeeze=self.squeeze, conv=conv, norm=norm, act=act)
    small = self.stem == "small"
    ends = 1.0 if self.fixed_ends else self.width
    depths = [math.ceil(self.depth * depth) for depth in self.depths]
    if self.fixed_ends:
      depths[0], depths[-1] = self.depths[0], self.depths[-1]
    maps = {}
    x = conv(divisible_by_8(32 * ends), (3, 3), (1, 1) if small else (2, 2), name="conv1")(x)
    x = maps["conv1"] = act(norm(name="norm1")(x))
    rows = zip(self.filters, self.kernels, depths, self.strides, strict=True)
    for stage, (filters, kernel, depth, stride) in enumerate(rows, 1):
      filters, expansion = divisible_by_8(self.width * filters), 1 if stage == 1 else self.expansion
      stride = 1 if small and stage == 2 else stride
      for i in range(depth):  # [B, S', S', F]
        drop = self.drop_connect * (sum(depths[: stage - 1]) + i) / sum(depths)
        name = f"stage{stage}_{i + 1}"
        x = block(filters, kernel, stride if i == 0 else 1, expansion, drop=drop, name=name)(x, train)
      maps[f"stage{stage}"] = x
    x = conv(divisible_by_8(1280 * ends), (1, 1), name="conv2")(x)
    x = maps["conv2"] = act(norm(name="norm2")(x))
    x = maps["pool"] = jnp.mean(x, axis=(1, 2))  # [B, F]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return maps if features else nn.Dense(self.num_classes, kernel_init=_output_weights, name="output")(x)


# Trainable parameters at 1,000 classes, and the side of the images (authors' code; the paper gives the rule).
EFFICIENTNET = {
  0: EfficientNet(1.0, 1.0, 0.2),  # 5,288,548 at 224
  1: EfficientNet(1.0, 1.1, 0.2),  # 7,794,184 at 240
  2: EfficientNet(1.1, 1.2, 0.3),  # 9,109,994 at 260
  3: EfficientNet(1.2, 1.4, 0.3),  # 12,233,232 at 300
  4: EfficientNet(1.4, 1.8, 0.4),  # 19,341,616 at 380
  5: EfficientNet(1.6, 2.2, 0.4),  # 30,389,784 at 456
  6: EfficientNet(1.8, 2.6, 0.5),  # 43,040,704 at 528
  7: EfficientNet(2.0, 3.1, 0.5),  # 66,347,960 at 600
}
RESOLUTION = (224, 240, 260, 300, 380, 456, 528, 600)
# As in timm and torchvision.
TORCH_EFFICIENTNET_B0 = EfficientNet(padding="around", epsilon=1e-5, momentum=0.9)
# Without what a phone multiplies slowly (Liu, 2020, in the TensorFlow blog).
_lite = functools.partial(EfficientNet, squeeze=0.0, fixed_ends=True, activation="relu6")
EFFICIENTNET_LITE = {
  0: _lite(1.0, 1.0, 0.2),  # 4,652,008 at 224
  1: _lite(1.0, 1.1, 0.2),  # 5,416,680 at 240
  2: _lite(1.1, 1.2, 0.3),  # 6,092,072 at 260
  3: _lite(1.2, 1.4, 0.3),  # 8,197,096 at 280
  4: _lite(1.4, 1.8, 0.3),  # 13,006,568 at 300
}
