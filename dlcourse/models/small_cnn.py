"""The small convolutional network of the handbook's lab (Practical Work, option 1; the layers of H2.3 to H2.7).

Shapes: B batch, S image side, C channels, F filters, D units.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import check_at_least, check_below_one
from dlcourse.models.convolution import Conv
from dlcourse.models.layers import Activation, activate, check_side
from dlcourse.models.pooling import max_pool


class SmallCNN(nn.Module):
  """Two 3x3 convolutions, each followed by 2x2 max pooling, and two dense layers with dropout between them.

  Layer by layer a sequence, as Keras' `Sequential` holds it: Conv2D (padding "same"), MaxPooling2D, Conv2D,
  MaxPooling2D, Flatten or GlobalAveragePooling2D, Dense, Dropout, Dense.
  421,642 trainable parameters for 28x28x1 images and 10 classes; 28,426 with `global_pool`, at any size.
  """

  filters: tuple[int, int] = (32, 64)
  """Of conv1 and conv2."""
  dense_dim: int = 128
  """Units of the hidden dense layer."""
  global_pool: bool = False
  """Average the maps into one number each, instead of giving every pixel weights of its own."""
  activation: Activation = "relu"
  """After every layer but the last."""
  dropout: float = 0.5
  """Probability that a hidden unit is dropped in training (H1.4.5)."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit, and to drop every unit."""
    check_at_least(1, {"task.model.filters": min(self.filters), "task.model.dense_dim": self.dense_dim})
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array | dict:
    """x [B, S, S, C] -> logits [B, num_classes], or with `features` conv1, conv2, pool [B, F'], dense."""
    check_side(x, 4)
    maps = {}
    for i, filters in enumerate(self.filters, 1):
      x = activate(self.activation, Conv(filters, (3, 3), name=f"conv{i}")(x))
      maps[f"conv{i}"] = x  # [B, S', S', F]
      x = max_pool(x, (2, 2), (2, 2))
    x = maps["pool"] = jnp.mean(x, axis=(1, 2)) if self.global_pool else x.reshape(x.shape[0], -1)
    x = maps["dense"] = activate(self.activation, nn.Dense(self.dense_dim, name="dense")(x))  # [B, D]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return maps if features else nn.Dense(self.num_classes, name="output")(x)
