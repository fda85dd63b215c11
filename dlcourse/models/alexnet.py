"""AlexNet (Krizhevsky, Sutskever & Hinton, 2012; H2.9.3), in two towers and in one.

The paper spread it over two GPUs; the form with one tower is that of Krizhevsky, 2014, arXiv:1404.5997.
Shapes: B batch, S image side, F filters, D units. Layers are numbered as in the paper: `conv1` … `conv5`,
`fc6`, `fc7`, `output`.
"""

import flax.linen as nn
import jax

from dlcourse.errors import UserError, check_at_least, check_below_one
from dlcourse.models.convolution import Conv
from dlcourse.models.layers import (
  Activation,
  Norm,
  Stem,
  activate,
  adaptive_avg_pool,
  check_side,
  local_response_norm,
  normalisation,
)
from dlcourse.models.pooling import max_pool

_weights = nn.initializers.he_normal()  # the paper: N(0, 0.01²), and most biases 1


class AlexNet(nn.Module):
  """Five convolutions, three overlapping max poolings, three dense layers."""

  filters: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
  """Of conv1 to conv5."""
  groups: int = 1
  """2: the halves of conv2, conv4 and conv5 see only their own half of the maps below (figure 2)."""
  response_norm: bool = False
  """Local response normalisation after conv1 and conv2 (section 3.3)."""
  stem: Stem = "large"
  """large: conv1 11x11 at stride 4, fc6 on 6x6 maps; small: 3x3 at stride 1, for 32 pixels: fc6 on 3x3 maps."""
  dense_dim: int = 4096
  """Units of fc6 and fc7; 4,096 are too many for 32 pixels."""
  activation: Activation = "relu"
  """After every layer but the last."""
  norm: Norm = "none"
  """After every convolution, which then has no bias."""
  dropout: float = 0.5
  """Probability that a unit of fc6 or fc7 is dropped in training (section 4.2)."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit, halves of odd numbers, and to drop every unit."""
    check_at_least(
      1,
      {
        "task.model.filters": min(self.filters),
        "task.model.groups": self.groups,
        "task.model.dense_dim": self.dense_dim,
      },
    )
    check_below_one({"task.model.dropout": self.dropout})
    if any(count % self.groups for count in self.filters):
      raise UserError(f"--task.model.groups={self.groups} has to divide every number of --task.model.filters")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array | dict:
    """x [B, S, S, C] -> logits [B, num_classes], or with `features` conv1 … conv5, pool [B, F'], fc6, fc7."""
    large = self.stem == "large"
    check_side(x, 63 if large else 15)
    norm = normalisation(self.norm, train)
    maps = {}
    first = (11, 4, 2) if large else (3, 1, 1)  # size, stride, padding
    kernels = (first, (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
    for i, (filters, (size, stride, padding)) in enumerate(zip(self.filters, kernels, strict=True), 1):
      x = Conv(
        filters,
        (size, size),
        (stride, stride),
        ((padding, padding), (padding, padding)),
        feature_group_count=self.groups if i in (2, 4, 5) else 1,
        use_bias=self.norm == "none",
        kernel_init=_weights,
        name=f"conv{i}",
      )(x)
      x = maps[f"conv{i}"] = activate(self.activation, norm(name=f"norm{i}")(x))  # [B, S', S', F]
      if self.response_norm and i in (1, 2):
        x = local_response_norm(x)
      if i in (1, 2, 5):
        x = max_pool(x, (3, 3), (2, 2))
    x = adaptive_avg_pool(x, 6) if large else x  # as it is, for images of 224 and 227 pixels
    x = maps["pool"] = x.reshape(x.shape[0], -1)
    for name in ("fc6", "fc7"):
      x = activate(self.activation, nn.Dense(self.dense_dim, kernel_init=_weights, name=name)(x))
      x = maps[name] = nn.Dropout(self.dropout, deterministic=not train)(x)  # [B, D]
    return maps if features else nn.Dense(self.num_classes, name="output")(x)


# Trainable parameters at 1,000 classes.
ALEXNET = {
  "one_tower": AlexNet(),  # 61,100,840, as in torchvision
  "two_towers": AlexNet((96, 256, 384, 384, 256), groups=2, response_norm=True),  # 60,965,224
}
