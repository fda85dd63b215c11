"""Damage for a denoising autoencoder to undo: pure functions of (key, images) (Vincent et al., 2010; H5.1).

Images are [B, H, W, C] in [0, 1]; every pixel has a draw of its own.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dlcourse.data.augment import Augmentation
from dlcourse.errors import check_at_least, check_between


@dataclasses.dataclass(frozen=True)
class Noise(Augmentation):
  """Adds Gaussian noise; what leaves [0, 1] is left there, so that its mean stays 0."""

  deviation: float = 0.5
  """Standard deviation, where white is 1."""

  def __post_init__(self) -> None:
    """Refuses a negative deviation."""
    check_at_least(0, {"….deviation": self.deviation})

  def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """images + deviation · ε."""
    return images + self.deviation * jax.random.normal(key, images.shape, images.dtype)


@dataclasses.dataclass(frozen=True)
class Masking(Augmentation):
  """Blanks pixels, all channels of each, at random places."""

  share: float = 0.5
  """Probability that a pixel is blanked."""

  def __post_init__(self) -> None:
    """Refuses what is no probability."""
    check_between(0, 1, {"….share": self.share})

  def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """0 where a pixel is blanked."""
    kept = jax.random.bernoulli(key, 1 - self.share, (*images.shape[:3], 1))
    return jnp.where(kept, images, 0.0)
