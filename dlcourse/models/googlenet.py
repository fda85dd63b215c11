"""GoogLeNet (Szegedy et al., 2015, arXiv:1409.4842; H2.9.3), as published and as in torchvision.

Shapes: B batch, S image side, F filters. Layers have the names of the paper's table 1 and figure 3: `conv1`,
`conv2_reduce`, `conv2`, `inception_3a` … `inception_5b`, `output`.
"""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import check_at_least, check_below_one
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

_weights = nn.initializers.he_normal()

# Table 1: filters of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool proj.
INCEPTIONS = {
  "3a": (64, 96, 128, 16, 32, 32),
  "3b": (128, 128, 192, 32, 96, 64),
  "4a": (192, 96, 208, 16, 48, 64),
  "4b": (160, 112, 224, 24, 64, 64),
  "4c": (128, 128, 256, 24, 64, 64),
  "4d": (112, 144, 288, 32, 64, 64),
  "4e": (256, 160, 320, 32, 128, 128),
  "5a": (256, 160, 320, 32, 128, 128),
  "5b": (384, 192, 384, 48, 128, 128),
}


class Unit(nn.Module):
  """A convolution, its norm and the activation."""

  filters: int
  size: int
  conv: Callable
  norm: Callable
  act: Callable
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F'] -> [B, S/stride, S/stride, F]."""
    x = self.conv(self.filters, (self.size, self.size), (self.stride, self.stride), name="conv")(x)
    return self.act(self.norm(name="norm")(x))


class Inception(nn.Module):
  """Convolutions of three sizes and a max pooling side by side, behind 1x1 convolutions (figure 2b)."""

  filters: tuple[int, ...]
  largest: int
  unit: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F'] -> [B, S, S, F]."""
    one, reduce3, three, reduce5, five, proj = self.filters
    branches = (
      self.unit(one, 1, name="1x1")(x),
      self.unit(three, 3, name="3x3")(self.unit(reduce3, 1, name="3x3_reduce")(x)),
      self.unit(five, self.largest, name="5x5")(self.unit(reduce5, 1, name="5x5_reduce")(x)),
      self.unit(proj, 1, name="pool_proj")(max_pool(x, (3, 3), padding="SAME")),
    )
    return jnp.concatenate(branches, axis=-1)


class Auxiliary(nn.Module):
  """A small classifier on the maps of a lower module, so that gradients reach it (section 5)."""

  filters: int
  dense_dim: int
  num_classes: int
  pool: Callable
  unit: Callable
  act: Callable
  dropout: float = 0.7

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> None:
    """x [B, S, S, F'] -> nothing; logits [B, num_classes] are sown into the collection "aux"."""
    x = self.unit(self.filters, 1, name="conv")(self.pool(x))  # [B, 4, 4, F]
    x = self.act(nn.Dense(self.dense_dim, kernel_init=_weights, name="fc")(x.reshape(x.shape[0], -1)))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    logits = nn.Dense(self.num_classes, name="output")(x)
    if not self.is_initializing():  # else they would count as variables of the model
      self.sow("aux", "logits", logits)


class GoogLeNet(nn.Module):
  """Nine inception modules between three convolutions and one dense layer.

  With `aux`, the logits of two auxiliary classifiers are sown into the collection "aux", from which supervised
  tasks learn with the paper's weight.
  """

  like: Literal["paper", "torchvision"] = "paper"
  """torchvision: 3x3 for the 5x5 kernels, 2x2 in the last max pooling, adaptive pooling in the auxiliaries."""
  width: int = 64
  """Filters of conv1; those of the other layers are in proportion."""
  aux: bool = False
  """The auxiliary classifiers on inception_4a and inception_4d (section 5)."""
  response_norm: bool = True
  """Local response normalisation before and after conv2 (figure 3), with AlexNet's constants."""
  stem: Stem = "large"
  """large: conv1 7x7 at stride 2; small: 3x3 at stride 1, no pooling before inception_3a, for 32 pixels."""
  activation: Activation = "relu"
  """After every layer but the last."""
  norm: Norm = "none"
  """After every convolution, which then has no bias."""
  epsilon: float = 1e-3
  """Added to the variance by every norm."""
  dropout: float = 0.4
  """Probability that an input of the output layer is dropped in training."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit, and to drop every unit."""
    check_at_least(4, {"task.model.width": self.width})  # then the narrowest layer has 1 filter
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array | dict:
    """x [B, S, S, C] -> logits [B, num_classes], or with `features` the maps by layer, and pool [B, F]."""
    large, paper = self.stem == "large", self.like == "paper"
    least = {"large": (31, 79), "small": (4, 10)}[self.stem]  # the auxiliary classifiers take 5x5 maps
    check_side(x, least[self.aux])
    act = functools.partial(activate, self.activation)
    norm = normalisation(self.norm, train, self.epsilon)
    conv = functools.partial(Conv, padding="AROUND", use_bias=self.norm == "none", kernel_init=_weights)
    unit = functools.partial(Unit, conv=conv, norm=norm, act=act)
    respond = local_response_norm if self.response_norm else lambda x: x
    average = functools.partial(adaptive_avg_pool, side=4)
    if paper:
      average = functools.partial(nn.avg_pool, window_shape=(5, 5), strides=(3, 3))

    def scale(filters):
      return filters * self.width // 64

    maps = {}
    size, stride = (7, 2) if large else (3, 1)
    x = maps["conv1"] = unit(self.width, size, stride=stride, name="conv1")(x)
    x = respond(_max_pool(x, 3) if large else x)
    x = unit(self.width, 1, name="conv2_reduce")(x)
    x = maps["conv2"] = unit(scale(192), 3, name="conv2")(x)
    x = respond(x)
    x = _max_pool(x, 3) if large else x
    for name, filters in INCEPTIONS.items():  # [B, S', S', F]
      if name in ("4a", "5a"):
        x = _max_pool(x, 3 if paper or name == "4a" else 2)
      x = Inception(tuple(map(scale, filters)), 5 if paper else 3, unit, name=f"inception_{name}")(x)
      maps[f"inception_{name}"] = x
      if self.aux and name in ("4a", "4d"):
        aux = "aux1" if name == "4a" else "aux2"
        Auxiliary(scale(128), scale(1024), self.num_classes, average, unit, act, name=aux)(x, train)
    x = maps["pool"] = jnp.mean(x, axis=(1, 2))  # [B, F]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return maps if features else nn.Dense(self.num_classes, name="output")(x)


def _max_pool(x: jax.Array, size: int) -> jax.Array:
  """Max pooling at stride 2 whose last window may reach over the edge, as in Caffe."""
  edges = [(0, (size - side) % 2) for side in x.shape[1:3]]
  return max_pool(x, (size, size), (2, 2), edges)


# Trainable parameters at 1,000 classes: 6,998,552 and 6,624,904; with `aux` 13,378,280 and 13,004,888.
GOOGLENET = {
  "paper": GoogLeNet(),
  "torchvision": GoogLeNet("torchvision", response_norm=False, norm="batch", dropout=0.2),
}
