"""The multilayer perceptron of the handbook's lab (H1.4, Practical Work, option 2)."""

import flax.linen as nn
import jax

from dlcourse.errors import check_at_least, check_below_one
from dlcourse.models.batch_norm import BatchNorm
from dlcourse.models.layers import Activation, activate


class MLP(nn.Module):
  """Dense layers with batch norm and dropout on the flattened image.

  A layer followed by batch norm has no bias: the norm's own shift would cancel it.
  """

  hidden_dims: tuple[int, ...] = (256, 128)
  """Width of each hidden layer; none: a linear model."""
  activation: Activation = "relu"
  """After every hidden layer."""
  norm: bool = True
  """Batch norm before the activation (H1.4.5)."""
  dropout: float = 0.3
  """Probability that a hidden unit is dropped in training (H1.4.5)."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit, and to drop every unit."""
    check_at_least(1, {"task.model.hidden_dims": min(self.hidden_dims, default=1)})
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x [B, ...] -> logits [B, num_classes]."""
    x = x.reshape(x.shape[0], -1)  # [B, D]
    for width in self.hidden_dims:
      x = nn.Dense(width, use_bias=not self.norm)(x)
      if self.norm:
        x = BatchNorm(train)(x)
      x = activate(self.activation, x)
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, name="output")(x)
