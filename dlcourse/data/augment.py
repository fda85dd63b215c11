"""Augmentation: pure functions of (key, images), jitted with the training step (H2.9, H5.4.5).

Images are [B, H, W, C] in [0, 1]; every image draws its own transformation.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """A random change that keeps the label."""

  def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """key, images [B, H, W, C] -> images of the same shape."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Shift(Augmentation):
  """Moves each image by up to ±`pixels` in both directions; what comes in from outside is 0.

  On colour images this is the pad-and-crop of He et al. (2016, section 4.2).
  """

  pixels: int = 2
  """Largest shift, in pixels; 0 does nothing."""

  def __post_init__(self) -> None:
    """Refuses a negative shift."""
    check_at_least(0, {"data.augment….pixels": self.pixels})

  def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """A crop at a random place of the zero-padded image.

    Raises:
      UserError: an image could be moved out of its own frame.
    """
    p, (height, width) = self.pixels, images.shape[1:3]
    if p >= min(height, width):
      raise UserError(f"--data.augment….pixels={p} leaves nothing of an image of {height}x{width}; lower it")
    if not p:
      return images
    padded = jnp.pad(images, ((0, 0), (p, p), (p, p), (0, 0)))
    corners = jax.random.randint(key, (images.shape[0], 2), 0, 2 * p + 1)

    def crop(image, corner):
      return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)


@dataclasses.dataclass(frozen=True)
class Flip(Augmentation):
  """Mirrors each image left to right with probability 1/2."""

  def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """images[:, :, ::-1] for a random half."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)
