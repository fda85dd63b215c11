"""A trained network with a new classifier on top (H2.9.5).

Shapes: B batch, S image side, F features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least, check_below_one


class Transferred(nn.Module):
  """Backbone, global average pooling, dense layer, dropout, output.

  The backbone is always in inference mode: its batch norms keep the statistics of what it was trained on, which
  a small data set could only spoil, and nothing in it is dropped.
  """

  backbone: nn.Module
  """A network that gives its feature maps by name (`features=True`)."""
  hidden_dim: int = 256
  """Units of the dense layer."""
  dropout: float = 0.5
  """Probability that one of them is dropped in training."""
  channels: int | None = None
  """Channels that the backbone takes: grey images are repeated; None: as many as there are."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses a layer without a unit, and to drop everything."""
    check_at_least(1, {"task.hidden_dim": self.hidden_dim})
    check_below_one({"task.dropout": self.dropout})
    super().__post_init__()

  def setup(self) -> None:
    """The new layers."""
    self.hidden = nn.Dense(self.hidden_dim)
    self.drop = nn.Dropout(self.dropout)
    self.output = nn.Dense(self.num_classes)

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x [B, S, S, C] -> logits [B, num_classes]."""
    return self.classify(self.extract(x), train)

  def extract(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, C] -> features [B, F], the means of the last maps of the backbone."""
    if self.channels and x.shape[-1] == 1:
      x = jnp.repeat(x, self.channels, axis=-1)
    maps = self.backbone(x, train=False, features=True)
    images = [value for value in maps.values() if value.ndim == 4]
    if not images:
      raise UserError(f"{type(self.backbone).__name__} has no feature maps to transfer")
    # Where the backbone ends in a pooling of its own, a norm may stand before it (DenseNet).
    pooled, last = maps.get("pool"), images[-1]
    whole = pooled is not None and pooled.shape[-1] == last.shape[-1]
    return pooled if whole else jnp.mean(last, axis=(1, 2))

  def classify(self, features: jax.Array, train: bool = False) -> jax.Array:
    """features [B, F] -> logits [B, num_classes]."""
    x = nn.relu(self.hidden(features))  # [B, D]
    return self.output(self.drop(x, deterministic=not train))
