"""Inception-v3 (Szegedy et al., 2016, arXiv:1512.00567) in the variant by whose features images are scored.

The network of December 2015 that Salimans et al. (2016) and Heusel et al. (2017) took (H4.8.2): 1,008 outputs,
average poolings that leave the zeros of their padding out, and a max pooling in the very last block.
Shapes: B batch, S image side, F filters. Layers have the names of the TensorFlow graph, as in torch-fidelity's
and pytorch-fid's files: `Conv2d_1a_3x3` … `Mixed_7c`, `output`.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.models.convolution import Conv
from dlcourse.models.layers import check_side, normalisation
from dlcourse.models.pooling import max_pool

SIDE = 299  # pixels of the images that the published weights are for

Shape = tuple[int, int]


class Unit(nn.Module):
  """A convolution, its norm and the activation."""

  filters: int
  size: Shape
  conv: Callable
  norm: Callable
  stride: int = 1
  padding: str = "SAME"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F'] -> [B, S', S', F]."""
    strides = (self.stride, self.stride)
    x = self.conv(self.filters, self.size, strides, padding=self.padding, name="conv")(x)
    return nn.relu(self.norm(name="norm")(x))


class InceptionA(nn.Module):
  """A 5x5 convolution beside two 3x3 ones (figure 5), on maps of 35x35."""

  pool_filters: int
  unit: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F'] -> [B, S, S, 224 + pool_filters]."""
    five = self.unit(48, (1, 1), name="branch5x5_1")(x)
    three = self.unit(64, (1, 1), name="branch3x3dbl_1")(x)
    three = self.unit(96, (3, 3), name="branch3x3dbl_2")(three)
    branches = (
      self.unit(64, (1, 1), name="branch1x1")(x),
      self.unit(64, (5, 5), name="branch5x5_2")(five),
      self.unit(96, (3, 3), name="branch3x3dbl_3")(three),
      self.unit(self.pool_filters, (1, 1), name="branch_pool")(_average(x)),
    )
    return jnp.concatenate(branches, axis=-1)


class ReductionA(nn.Module):
  """Half the side: strided convolutions beside a pooling (figure 10), from 35x35 to 17x17."""

  unit: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F] -> [B, (S - 1) / 2, (S - 1) / 2, F + 480]."""
    half = functools.partial(self.unit, stride=2, padding="VALID")
    three = self.unit(64, (1, 1), name="branch3x3dbl_1")(x)
    three = self.unit(96, (3, 3), name="branch3x3dbl_2")(three)
    branches = (
      half(384, (3, 3), name="branch3x3")(x),
      half(96, (3, 3), name="branch3x3dbl_3")(three),
      _halved(x),
    )
    return jnp.concatenate(branches, axis=-1)


class InceptionC(nn.Module):
  """7x7 convolutions as a row and a column (figure 6 with n = 7), on maps of 17x17."""

  filters: int
  unit: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F'] -> [B, S, S, 768]."""
    one = self.unit(self.filters, (1, 1), name="branch7x7_1")(x)
    one = self.unit(self.filters, (1, 7), name="branch7x7_2")(one)
    two = self.unit(self.filters, (1, 1), name="branch7x7dbl_1")(x)
    for i, size in enumerate(((7, 1), (1, 7), (7, 1)), 2):
      two = self.unit(self.filters, size, name=f"branch7x7dbl_{i}")(two)
    branches = (
      self.unit(192, (1, 1), name="branch1x1")(x),
      self.unit(192, (7, 1), name="branch7x7_3")(one),
      self.unit(192, (1, 7), name="branch7x7dbl_5")(two),
      self.unit(192, (1, 1), name="branch_pool")(_average(x)),
    )
    return jnp.concatenate(branches, axis=-1)


class ReductionB(nn.Module):
  """Half the side, as in figure 10, from 17x17 to 8x8."""

  unit: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F] -> [B, (S - 1) / 2, (S - 1) / 2, F + 512]."""
    half = functools.partial(self.unit, stride=2, padding="VALID")
    three = self.unit(192, (1, 1), name="branch3x3_1")(x)
    seven = x
    for i, size in enumerate(((1, 1), (1, 7), (7, 1)), 1):
      seven = self.unit(192, size, name=f"branch7x7x3_{i}")(seven)
    branches = (
      half(320, (3, 3), name="branch3x3_2")(three),
      half(192, (3, 3), name="branch7x7x3_4")(seven),
      _halved(x),
    )
    return jnp.concatenate(branches, axis=-1)


class InceptionE(nn.Module):
  """3x3 convolutions as a row beside a column (figure 7), on maps of 8x8."""

  pool: Callable
  unit: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F'] -> [B, S, S, 2048]."""
    one = self.unit(384, (1, 1), name="branch3x3_1")(x)
    two = self.unit(448, (1, 1), name="branch3x3dbl_1")(x)
    two = self.unit(384, (3, 3), name="branch3x3dbl_2")(two)
    branches = (
      self.unit(320, (1, 1), name="branch1x1")(x),
      self.unit(384, (1, 3), name="branch3x3_2a")(one),
      self.unit(384, (3, 1), name="branch3x3_2b")(one),
      self.unit(384, (1, 3), name="branch3x3dbl_3a")(two),
      self.unit(384, (3, 1), name="branch3x3dbl_3b")(two),
      self.unit(192, (1, 1), name="branch_pool")(self.pool(x)),
    )
    return jnp.concatenate(branches, axis=-1)


class InceptionV3(nn.Module):
  """Six convolutions, three blocks of figure 5, four of figure 6 and two of figure 7, and one dense layer.

  23,850,960 parameters with 1,008 outputs.
  """

  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes. The published weights have 1,008."""

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array | dict:
    """x [B, S, S, 3] -> logits [B, num_classes], or with `features` the maps by layer, and pool [B, 2048]."""
    check_side(x, 75)
    conv = functools.partial(Conv, use_bias=False, kernel_init=nn.initializers.he_normal())
    unit = functools.partial(Unit, conv=conv, norm=normalisation("batch", train, epsilon=1e-3))
    x = unit(32, (3, 3), stride=2, padding="VALID", name="Conv2d_1a_3x3")(x)  # [B, 149, 149, 32]
    x = unit(32, (3, 3), padding="VALID", name="Conv2d_2a_3x3")(x)
    x = unit(64, (3, 3), name="Conv2d_2b_3x3")(x)  # [B, 147, 147, 64]
    x = unit(80, (1, 1), name="Conv2d_3b_1x1")(_halved(x))
    x = unit(192, (3, 3), padding="VALID", name="Conv2d_4a_3x3")(x)  # [B, 71, 71, 192]
    x = _halved(x)
    largest = functools.partial(max_pool, window=(3, 3), padding="SAME")
    blocks = {
      "5b": InceptionA(32, unit, name="Mixed_5b"),  # [B, 35, 35, 256]
      "5c": InceptionA(64, unit, name="Mixed_5c"),
      "5d": InceptionA(64, unit, name="Mixed_5d"),  # [B, 35, 35, 288]
      "6a": ReductionA(unit, name="Mixed_6a"),
      "6b": InceptionC(128, unit, name="Mixed_6b"),  # [B, 17, 17, 768]
      "6c": InceptionC(160, unit, name="Mixed_6c"),
      "6d": InceptionC(160, unit, name="Mixed_6d"),
      "6e": InceptionC(192, unit, name="Mixed_6e"),
      "7a": ReductionB(unit, name="Mixed_7a"),  # [B, 8, 8, 1280]
      "7b": InceptionE(_average, unit, name="Mixed_7b"),
      "7c": InceptionE(largest, unit, name="Mixed_7c"),  # [B, 8, 8, 2048]
    }
    maps = {}
    for name, block in blocks.items():
      x = maps[f"Mixed_{name}"] = block(x)
    x = maps["pool"] = jnp.mean(x, axis=(1, 2))
    return maps if features else nn.Dense(self.num_classes, name="output")(x)


def _average(x: jax.Array) -> jax.Array:
  return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _halved(x: jax.Array) -> jax.Array:
  return max_pool(x, (3, 3), (2, 2))


def inception_input(images: jax.Array) -> jax.Array:
  """Images as the published weights take them: resized to 299 x 299, grey ones in three channels.

  The graph maps a pixel to (pixel - 128) / 128. Another resize gives other scores (Parmar et al., 2022).

  Args:
    images: [B, H, W, C] in [0, 255], C 1 or 3.

  Returns:
    [B, 299, 299, 3] in [-1, 1].
  """
  images = tf1_resize(images.astype(jnp.float32), SIDE)
  return jnp.broadcast_to((images - 128) / 128, (*images.shape[:3], 3))


def tf1_resize(images: jax.Array, side: int) -> jax.Array:
  """Bilinear as TensorFlow 1 resizes: pixel i is taken at i · H / side of its axis, with no smoothing.

  That is `tf.image.resize_bilinear` with align_corners=False and half_pixel_centers=False: pixels have their
  place at their upper left corner, so that the image moves by a part of a pixel.

  Args:
    images: [B, H, W, C].
    side: of the result.

  Returns:
    [B, side, side, C].
  """
  for axis in (2, 1):
    size = images.shape[axis]
    at = jnp.arange(side, dtype=jnp.float32) * jnp.float32(size / side)
    low = at.astype(jnp.int32)
    share = (at - low).reshape([side if i == axis else 1 for i in range(4)])
    first, second = (jnp.take(images, i, axis) for i in (low, jnp.minimum(low + 1, size - 1)))
    images = first + (second - first) * share
  return images
