"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov & Chen, 2018, arXiv:1801.04381; H2.9.3).

Shapes: B batch, S image side, F filters. Block b of stage s, a row of bottlenecks in the paper's table 2, is
`stage{s}_{b}`.
"""

import functools
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


class InvertedResidual(nn.Module):
  """Expansion, depthwise convolution and linear projection to few filters, and a shortcut (table 1)."""

  filters: int
  stride: int
  expansion: int
  conv: Callable
  norm: Callable
  act: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F'] -> [B, S/stride, S/stride, F]."""
    y, wide = x, self.expansion * x.shape[-1]
    if self.expansion > 1:
      y = self.act(self.norm(name="norm_expand")(self.conv(wide, (1, 1), name="expand")(y)))
    depthwise = functools.partial(self.conv, feature_group_count=wide, kernel_init=_depthwise_weights)
    y = depthwise(wide, (3, 3), (self.stride, self.stride), name="depthwise")(y)
    y = self.act(self.norm(name="norm_depthwise")(y))
    y = self.norm(name="norm_project")(self.conv(self.filters, (1, 1), name="project")(y))
    return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
  """Stages of inverted residuals between a 3x3 and a 1x1 convolution."""

  width: float = 1.0
  """Multiplier of all filters, rounded to multiples of 8; below 1 the last convolution keeps its 1280."""
  filters: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)
  """Filters of each stage: column c of table 2."""
  depths: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
  """Blocks of each stage: column n."""
  strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
  """Stride of the first block of each stage: column s."""
  expansion: int = 6
  """By how much a block widens its input: column t; the first stage does not."""
  stem: Stem = "large"
  """small: stem and stage 2 have stride 1, for images of 32 pixels."""
  padding: Literal["around", "same"] = "around"
  """The same zeros on every side (torchvision), or at stride 2 one more at the end (Keras)."""
  activation: Activation = "relu6"
  """After every norm but that of a projection."""
  norm: Norm = "batch"
  """After every convolution."""
  epsilon: float = 1e-5
  """Added to the variance by every norm; 1e-3 in Keras."""
  momentum: float = 0.9
  """Of the running averages of batch norm; 0.999, for long trainings, in Keras."""
  dropout: float = 0.2
  """Probability that an input of the classifier is dropped in training."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses averages that never move, to drop every input, and stages of which something is not said."""
    check_below_one({"task.model.momentum": self.momentum, "task.model.dropout": self.dropout})
    if not len(self.filters) == len(self.depths) == len(self.strides):
      raise UserError("--task.model: filters, depths and strides need one number for every stage")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array | dict:
    """x [B, S, S, C] -> logits [B, num_classes], or with `features` conv1, stage1 … stage7, conv2, pool."""
    act = functools.partial(activate, self.activation)
    norm = normalisation(self.norm, train, self.epsilon, self.momentum)
    conv = functools.partial(Conv, padding=self.padding.upper(), use_bias=False, kernel_init=_weights)
    block = functools.partial(InvertedResidual, conv=conv, norm=norm, act=act)
    small = self.stem == "small"
    maps = {}
    x = conv(divisible_by_8(32 * self.width), (3, 3), (1, 1) if small else (2, 2), name="conv1")(x)
    x = maps["conv1"] = act(norm(name="norm1")(x))
    rows = zip(self.filters, self.depths, self.strides, strict=True)
    for stage, (filters, depth, stride) in enumerate(rows, 1):
      filters, expansion = divisible_by_8(self.width * filters), 1 if stage == 1 else self.expansion
      stride = 1 if small and stage == 2 else stride
      for i in range(depth):  # [B, S', S', F]
        x = block(filters, stride if i == 0 else 1, expansion, name=f"stage{stage}_{i + 1}")(x)
      maps[f"stage{stage}"] = x
    x = conv(divisible_by_8(1280 * max(1.0, self.width)), (1, 1), name="conv2")(x)
    x = maps["conv2"] = act(norm(name="norm2")(x))
    x = maps["pool"] = jnp.mean(x, axis=(1, 2))  # [B, F]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return maps if features else nn.Dense(self.num_classes, name="output")(x)


# Trainable parameters at 1,000 classes: 3,504,872.
MOBILENET_V2 = MobileNetV2()
# As in keras.applications, which has no dropout.
KERAS_MOBILENET_V2 = MobileNetV2(padding="same", epsilon=1e-3, momentum=0.999, dropout=0.0)
