"""VGG networks (Simonyan & Zisserman, 2015, arXiv:1409.1556; H2.9.3, H2.10.1).

Shapes: B batch, S image side, F filters, D units. Convolution i of stage s is `conv{s}_{i}`, its
dense layers are `fc6`, `fc7` and `output`.
"""

import functools

import flax.linen as nn
import jax

from dlcourse.errors import check_at_least, check_below_one
from dlcourse.models.convolution import Conv
from dlcourse.models.layers import (
  Activation,
  Norm,
  Stem,
  activate,
  adaptive_avg_pool,
  check_side,
  normalisation,
)
from dlcourse.models.pooling import max_pool

_weights = nn.initializers.he_normal()  # the paper started its deeper networks from a trained shallower one


class VGGNet(nn.Module):
  """Five stages of 3x3 convolutions, each followed by 2x2 max pooling, and three dense layers."""

  depths: tuple[int, int, int, int, int] = (2, 2, 3, 3, 3)
  """Convolutions of each stage."""
  width: int = 64
  """Filters of the first stage; they double from stage to stage, up to eight times as many."""
  stem: Stem = "large"
  """large: fc6 on 7x7 maps, averaged to that size if need be; small: on the 1x1 maps of 32 pixels."""
  dense_dim: int = 4096
  """Units of fc6 and fc7; 512 for 32 pixels (Liu & Deng, 2015)."""
  activation: Activation = "relu"
  """After every layer but the last."""
  norm: Norm = "none"
  """After every convolution, which then has no bias."""
  dropout: float = 0.5
  """Probability that a unit of fc6 or fc7 is dropped in training (section 3.1)."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit, and to drop every unit."""
    sizes = {"depths": min(self.depths), "width": self.width, "dense_dim": self.dense_dim}
    check_at_least(1, {f"task.model.{name}": size for name, size in sizes.items()})
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array | dict:
    """x [B, S, S, C] -> logits [B, num_classes], or with `features` conv1 … conv5, pool [B, F'], fc6, fc7."""
    check_side(x, 32)
    norm = normalisation(self.norm, train)
    conv = functools.partial(Conv, padding="AROUND", use_bias=self.norm == "none", kernel_init=_weights)
    maps = {}
    for stage, depth in enumerate(self.depths, 1):
      filters = self.width * min(2 ** (stage - 1), 8)
      for i in range(1, depth + 1):
        x = norm(name=f"norm{stage}_{i}")(conv(filters, (3, 3), name=f"conv{stage}_{i}")(x))
        x = activate(self.activation, x)  # [B, S', S', F]
      maps[f"conv{stage}"] = x
      x = max_pool(x, (2, 2), (2, 2))
    x = adaptive_avg_pool(x, 7) if self.stem == "large" else x  # as it is, for images of 224 pixels
    x = maps["pool"] = x.reshape(x.shape[0], -1)
    for name in ("fc6", "fc7"):
      x = activate(self.activation, nn.Dense(self.dense_dim, kernel_init=_weights, name=name)(x))
      x = maps[name] = nn.Dropout(self.dropout, deterministic=not train)(x)  # [B, D]
    return maps if features else nn.Dense(self.num_classes, name="output")(x)


# Table 1, columns A, B, D and E; trainable parameters at 1,000 classes.
VGG = {
  11: VGGNet((1, 1, 2, 2, 2)),  # 132,863,336
  13: VGGNet((2, 2, 2, 2, 2)),  # 133,047,848
  16: VGGNet((2, 2, 3, 3, 3)),  # 138,357,544
  19: VGGNet((2, 2, 4, 4, 4)),  # 143,667,240
}
