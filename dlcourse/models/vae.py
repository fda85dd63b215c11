"""Variational autoencoders (Kingma & Welling, 2014; H5.2).

Shapes: B batch, D pixels, H hidden, Z latent.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.errors import check_at_least
from dlcourse.models.layers import Activation, activate


class MLPVAE(nn.Module):
  """One hidden layer each way, a diagonal Gaussian posterior, Bernoulli pixels (appendix C.1 and C.2)."""

  hidden_dim: int = 400
  """H, width of the hidden layers."""
  latent_dim: int = 20
  """Z, dimensions of the latent."""
  activation: Activation = "relu"
  """After the hidden layers (tanh in the paper)."""
  image_shape: tuple[int, int, int] | None = None
  """(height, width, channels); None: that of the data."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.model.hidden_dim": self.hidden_dim, "task.model.latent_dim": self.latent_dim})
    super().__post_init__()

  def setup(self) -> None:
    """Layers are shared by `encode`, `decode` and `__call__`."""
    self.encoder_hidden = nn.Dense(self.hidden_dim)
    self.posterior_mean = nn.Dense(self.latent_dim)
    self.posterior_log_var = nn.Dense(self.latent_dim)
    self.decoder_hidden = nn.Dense(self.hidden_dim)
    self.pixels = nn.Dense(int(np.prod(self.image_shape)))

  def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x [B, ...] in [0, 1] -> posterior mean [B, Z] and log variance [B, Z]."""
    h = activate(self.activation, self.encoder_hidden(x.reshape(x.shape[0], -1)))  # [B, H]
    return self.posterior_mean(h), self.posterior_log_var(h)

  def decode(self, z: jax.Array) -> jax.Array:
    """z [B, Z] -> logits of the pixels [B, *image_shape]."""
    h = activate(self.activation, self.decoder_hidden(z))  # [B, H]
    return self.pixels(h).reshape(z.shape[0], *self.image_shape)

  def __call__(self, x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [B, ...] -> logits [B, ...], mean [B, Z], log_var [B, Z]; z = mean + sigma * epsilon (H5.2.3)."""
    mean, log_var = self.encode(x)
    epsilon = jax.random.normal(key, mean.shape, mean.dtype)
    return self.decode(mean + jnp.exp(0.5 * log_var) * epsilon), mean, log_var
