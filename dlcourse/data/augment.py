"""Augmentation: pure functions of (key, images), jitted with the training step (H2.9, H5.4.5).

Images are [B, H, W, C] in [0, 1]; every image draws its own transformation.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least, check_between


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
    check_at_least(0, {"….augment….pixels": self.pixels})

  def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """A crop at a random place of the zero-padded image.

    Raises:
      UserError: an image could be moved out of its own frame.
    """
    p, (height, width) = self.pixels, images.shape[1:3]
    if p >= min(height, width):
      raise UserError(f"--….augment….pixels={p} leaves nothing of an image of {height}x{width}; lower it")
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


@dataclasses.dataclass(frozen=True)
class Colour(Augmentation):
  """Changes brightness, saturation and contrast of each image (Zhao et al., 2020, arXiv:2006.10738)."""

  strength: float = 0.5
  """s: brightness ± s/2, saturation times 1 ± 2 s, contrast times 1 ± s; the paper's is 0.5."""

  def __post_init__(self) -> None:
    """Refuses a strength that turns colours around."""
    check_between(0, 0.5, {"….augment….strength": self.strength})

  def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """Each around its own mean; what leaves [0, 1] stays where it is, so that slopes do not vanish."""
    draws = jax.random.uniform(key, (3, images.shape[0], 1, 1, 1), minval=-1.0)
    brighter, richer, harder = self.strength * draws
    images = images + 0.5 * brighter
    grey = images.mean(axis=-1, keepdims=True)
    images = grey + (images - grey) * (1 + 2 * richer)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * (1 + harder)


@dataclasses.dataclass(frozen=True)
class Cutout(Augmentation):
  """Blanks a square at a random place of each image (DeVries & Taylor, 2017, arXiv:1708.04552)."""

  share: float = 0.5
  """Side of the square, as a share of the image's."""

  def __post_init__(self) -> None:
    """Refuses a square that is larger than the image."""
    check_between(0, 1, {"….augment….share": self.share})

  def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """0 in the square, which may reach over the edge."""
    sides = jnp.array(images.shape[1:3])
    corners = (jax.random.uniform(key, (images.shape[0], 2)) - self.share / 2) * sides  # [B, 2]

    def inside(axis):
      distance = jnp.arange(images.shape[axis + 1]) - corners[:, axis, None]  # [B, H] or [B, W]
      return (distance >= 0) & (distance < self.share * images.shape[axis + 1])

    return jnp.where((inside(0)[:, :, None] & inside(1)[:, None, :])[..., None], 0.0, images)
