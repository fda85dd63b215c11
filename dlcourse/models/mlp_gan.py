"""Perceptrons for points of the plane, such as a ring of Gaussians (H4.4.1).

By default those of Metz et al., 2017, appendix A (arXiv:1611.02163); its division of the points by 4 is left to
the data. Shapes: B batch, Z latent, D dimensions of a point.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax

from dlcourse.errors import check_at_least
from dlcourse.models.batch_norm import BatchNorm
from dlcourse.models.dense import Dense
from dlcourse.models.spectral_norm import SpectralDense

_weights = nn.initializers.orthogonal(0.8)


class Generator(nn.Module):
  """Latents to points; hidden layers with ReLU, a linear last one."""

  latent_dim: int = 256
  """Z, dimensions of the Gaussian latent."""
  hidden_dims: tuple[int, ...] = (128, 128)
  """Width of each hidden layer."""
  point_dim: int = 2
  """D, dimensions of a point."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    least = {"latent_dim": self.latent_dim, "hidden_dims": min(self.hidden_dims, default=1)}
    least["point_dim"] = self.point_dim
    check_at_least(1, {f"task.generator.{name}": value for name, value in least.items()})
    super().__post_init__()

  @nn.compact
  def __call__(self, z: jax.Array, label: jax.Array | None = None, train: bool = False) -> jax.Array:
    """z [B, Z] -> points [B, D]; neither label nor `train` changes them."""
    for width in self.hidden_dims:
      z = nn.relu(Dense(width, kernel_init=_weights)(z))
    return Dense(self.point_dim, kernel_init=_weights, name="output")(z)


class Discriminator(nn.Module):
  """Points to one logit: large for real."""

  hidden_dims: tuple[int, ...] = (128,)
  """Width of each hidden layer."""
  norm: Literal["none", "spectral", "batch"] = "none"
  """spectral: of the kernels of all layers (Miyato et al., 2018); batch: of the hidden layers."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.discriminator.hidden_dims": min(self.hidden_dims, default=1)})
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    label: jax.Array | None = None,
    train: bool = False,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """x [B, D] -> logits [B], whatever the label; batch norm leaves out the points whose mask [B] is 0.

    The last hidden layer is sown as "features" [B, H].
    """
    dense = functools.partial(SpectralDense, train=train) if self.norm == "spectral" else Dense
    for width in self.hidden_dims:
      x = dense(width, use_bias=self.norm != "batch", kernel_init=_weights)(x)
      x = nn.relu(BatchNorm(train)(x, mask=mask) if self.norm == "batch" else x)
    self.sow("intermediates", "features", x)
    return dense(1, kernel_init=_weights, name="output")(x)[:, 0]
