"""LeNet-5 as published (LeCun, Bottou, Bengio & Haffner, 1998, section II.B; H2.10.2), and as built today.

Shapes: B batch, H = W = 32 image side, C channels. Layer names are those of the paper.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.errors import UserError
from dlcourse.models.convolution import Conv, conv_general_dilated
from dlcourse.models.layers import Activation, activate
from dlcourse.models.pooling import max_pool

# Table I: which maps of S2 feed each of the 16 maps of C3. 60 connections instead of 96 break the symmetry
# and keep the number of parameters at 1,516.
C3_TABLE = (
  (0, 1, 2),
  (1, 2, 3),
  (2, 3, 4),
  (3, 4, 5),
  (0, 4, 5),
  (0, 1, 5),
  (0, 1, 2, 3),
  (1, 2, 3, 4),
  (2, 3, 4, 5),
  (0, 3, 4, 5),
  (0, 1, 4, 5),
  (0, 1, 2, 5),
  (0, 1, 3, 4),
  (1, 2, 4, 5),
  (0, 2, 3, 5),
  (0, 1, 2, 3, 4, 5),
)


class Subsample(nn.Module):
  """Sum of each 2x2 field times a trainable coefficient plus a bias, per map (S2, S4)."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, H, W, C] -> [B, H/2, W/2, C]."""
    channels = x.shape[-1]
    coefficient = self.param("coefficient", nn.initializers.constant(0.25), (channels,))
    bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
    return 4.0 * nn.avg_pool(x, (2, 2), (2, 2)) * coefficient + bias


class TableConv(nn.Module):
  """A 5x5 convolution whose output maps see only the input maps that a connection table names (C3)."""

  table: tuple[tuple[int, ...], ...]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, H, W, C] -> [B, H-4, W-4, len(table)]."""
    sources = np.concatenate(self.table)
    targets = np.repeat(np.arange(len(self.table)), [len(row) for row in self.table])
    fan_in = 25 * len(sources) / len(self.table)
    init = nn.initializers.normal(fan_in**-0.5)
    kernel = self.param("kernel", init, (5, 5, len(sources)))  # one 5x5 field a connection
    bias = self.param("bias", nn.initializers.zeros_init(), (len(self.table),))
    dense = jnp.zeros((5, 5, x.shape[-1], len(self.table)), kernel.dtype)
    dense = dense.at[:, :, sources, targets].set(kernel)
    numbers = jax.lax.conv_dimension_numbers(x.shape, dense.shape, ("NHWC", "HWIO", "NHWC"))
    return conv_general_dilated(x, dense, (1, 1), "VALID", dimension_numbers=numbers) + bias


def _check_side(x: jax.Array) -> None:
  if x.shape[1:3] != (32, 32):
    raise UserError(f"LeNet-5 takes images of 32x32, not {x.shape[1]}x{x.shape[2]}; set --data.size=32")


class LeNet5(nn.Module):
  """Seven layers, 60,850 trainable parameters with a softmax output in place of the paper's RBF units.

  By layer: C1 156, S2 12, C3 1,516, S4 32, C5 48,120, F6 10,164, output 850 (H2.10.2).
  """

  activation: Activation = "tanh"
  """Squashing function after every layer but the last."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x [B, 32, 32, C] -> logits [B, num_classes]."""
    del train  # no dropout, no statistics
    _check_side(x)
    x = activate(self.activation, Conv(6, (5, 5), padding="VALID", name="C1")(x))  # [B, 28, 28, 6]
    x = activate(self.activation, Subsample(name="S2")(x))  # [B, 14, 14, 6]
    x = activate(self.activation, TableConv(C3_TABLE, name="C3")(x))  # [B, 10, 10, 16]
    x = activate(self.activation, Subsample(name="S4")(x))  # [B, 5, 5, 16]
    x = activate(self.activation, Conv(120, (5, 5), padding="VALID", name="C5")(x))  # [B, 1, 1, 120]
    x = x.reshape(x.shape[0], -1)  # [B, 120]
    x = activate(self.activation, nn.Dense(84, name="F6")(x))  # [B, 84]
    return nn.Dense(self.num_classes, name="output")(x)


class LeNet5Modern(nn.Module):
  """LeNet-5 as it is built today: every map of S2 feeds every map of C3, and max pooling has no parameters.

  61,706 trainable parameters; by layer: C1 156, C3 2,416, C5 48,120, F6 10,164, output 850.
  """

  activation: Activation = "relu"
  """After every layer but the last."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array | dict:
    """x [B, 32, 32, C] -> logits [B, num_classes], or with `features` the maps: C1, S2, C3, S4, C5, F6."""
    del train  # no dropout, no statistics
    _check_side(x)
    maps = {}
    for i, filters in ((1, 6), (3, 16)):
      x = activate(self.activation, Conv(filters, (5, 5), padding="VALID", name=f"C{i}")(x))
      maps[f"C{i}"] = x  # [B, 28, 28, 6], [B, 10, 10, 16]
      x = maps[f"S{i + 1}"] = max_pool(x, (2, 2), (2, 2))  # [B, 14, 14, 6], [B, 5, 5, 16]
    x = activate(self.activation, Conv(120, (5, 5), padding="VALID", name="C5")(x))  # [B, 1, 1, 120]
    x = maps["C5"] = x.reshape(x.shape[0], -1)
    x = maps["F6"] = activate(self.activation, nn.Dense(84, name="F6")(x))
    return maps if features else nn.Dense(self.num_classes, name="output")(x)
