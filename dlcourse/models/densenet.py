"""Densely connected networks (Huang, Liu, van der Maaten & Weinberger, 2017, arXiv:1608.06993; H2.9.3).

Shapes: B batch, S image side, F channels, k growth rate. Layers have the names of the paper's table 1: `conv1`,
then layer i of dense block b is `dense{b}_{i}`, and `transition{b}` follows it.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import check_at_least
from dlcourse.models.convolution import Conv
from dlcourse.models.layers import Activation, Norm, Stem, activate, check_side, normalisation
from dlcourse.models.pooling import max_pool

_weights = nn.initializers.he_normal()  # He et al., 2015


class DenseLayer(nn.Module):
  """H_l of equation 2 with its bottleneck: BN-ReLU-conv 1x1 and BN-ReLU-conv 3x3, joined to its input."""

  growth: int
  conv: Callable
  norm: Callable
  act: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F] -> [B, S, S, F + k]."""
    y = self.conv(4 * self.growth, (1, 1), name="conv1")(self.act(self.norm(name="norm1")(x)))
    y = self.conv(self.growth, (3, 3), name="conv2")(self.act(self.norm(name="norm2")(y)))
    return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
  """BN-ReLU-conv 1x1 and average pooling between two dense blocks."""

  filters: int
  conv: Callable
  norm: Callable
  act: Callable

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, F] -> [B, S/2, S/2, filters]."""
    x = self.conv(self.filters, (1, 1), name="conv")(self.act(self.norm(name="norm")(x)))
    return nn.avg_pool(x, (2, 2), (2, 2))


class DenseNet(nn.Module):
  """Dense blocks, in which each layer sees the maps of all before it, and transitions that halve the side."""

  depths: tuple[int, ...] = (6, 12, 24, 16)
  """Layers of each dense block."""
  growth: int = 32
  """Maps that each layer adds: the paper's k; the stem has 2k."""
  compression: float = 0.5
  """Share of the maps that a transition keeps: the paper's theta."""
  stem: Stem = "large"
  """large: 7x7 at stride 2, a norm and max pooling; small: 3x3 at stride 1, for images of 32 pixels."""
  activation: Activation = "relu"
  """After every norm."""
  norm: Norm = "batch"
  """Before every convolution but the first, after the last, and after a large stem."""
  epsilon: float = 1e-5
  """Added to the variance by every norm; 1.001e-5 in Keras."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses to add no map, and blocks without layers."""
    check_at_least(1, {"task.model.growth": self.growth, "task.model.depths": min(self.depths, default=0)})
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array | dict:
    """x [B, S, S, C] -> logits [B, num_classes], or with `features` the maps: conv1, dense1 … dense4, pool."""
    least = 2 ** (len(self.depths) - 1)
    check_side(x, 4 * least - 3 if self.stem == "large" else least)  # both halvings of a large stem round up
    act = functools.partial(activate, self.activation)
    norm = normalisation(self.norm, train, self.epsilon)
    conv = functools.partial(Conv, padding="AROUND", use_bias=False, kernel_init=_weights)
    maps = {}
    if self.stem == "large":
      x = conv(2 * self.growth, (7, 7), (2, 2), name="conv1")(x)
      x = maps["conv1"] = act(norm(name="norm1")(x))
      x = max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    else:
      x = maps["conv1"] = conv(2 * self.growth, (3, 3), name="conv1")(x)
    for block, depth in enumerate(self.depths, 1):  # [B, S', S', F]
      if block > 1:
        filters = int(self.compression * x.shape[-1])
        x = Transition(filters, conv, norm, act, name=f"transition{block - 1}")(x)
      for i in range(depth):
        x = DenseLayer(self.growth, conv, norm, act, name=f"dense{block}_{i + 1}")(x)
      maps[f"dense{block}"] = x
    x = act(norm(name="norm")(x))
    x = maps["pool"] = jnp.mean(x, axis=(1, 2))  # [B, F]
    return maps if features else nn.Dense(self.num_classes, name="output")(x)


# Table 1; trainable parameters at 1,000 classes.
DENSENET = {
  121: DenseNet((6, 12, 24, 16)),  # 7,978,856
  169: DenseNet((6, 12, 32, 32)),  # 14,149,480
  201: DenseNet((6, 12, 48, 32)),  # 20,013,928
}
# Table 2, DenseNet-BC of 100 layers and k = 12, for images of 32 pixels: 769,162 at 10 classes.
DENSENET_BC_100 = DenseNet((16, 16, 16), growth=12, stem="small")
# As in keras.applications.
KERAS_DENSENET121 = DENSENET[121].clone(epsilon=1.001e-5)
