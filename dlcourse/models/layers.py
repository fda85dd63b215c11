"""What the models share: activations and norms by name, and layers that Flax lacks."""

import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.errors import UserError
from dlcourse.models.batch_norm import BatchNorm

Stem = Literal["large", "small"]  # for images of about 224 or of about 32 pixels
Norm = Literal["batch", "group", "layer", "none"]
Activation = Literal["relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "gelu_tanh", "swish", "relu6"]


def activate(name: Activation, x: jax.Array) -> jax.Array:
  """The activation functions of H1.4.2 by name.

  Raises:
    ValueError: no activation has that name.
  """
  if name not in get_args(Activation):
    raise ValueError(f"activation {name!r} is none of {', '.join(get_args(Activation))}")
  if name.startswith("gelu"):  # gelu_tanh is its approximation (Hendrycks & Gimpel, 2016), as in GPT-2
    return nn.gelu(x, approximate=name == "gelu_tanh")
  return getattr(nn, name)(x)


def normalisation(
  kind: Norm, train: bool, epsilon: float = 1e-5, momentum: float = 0.9
) -> Callable[..., Callable[[jax.Array], jax.Array]]:
  """The norm of a network, bound once and passed to its blocks: `norm(name="norm1")(x)`.

  Args:
    kind: "batch" (Ioffe & Szegedy, 2015), "group" (Wu & He, 2018: 32 groups, or as many as divide the
      channels), "layer" (Ba et al., 2016) or "none".
    train: for batch norm, see `BatchNorm`.
    epsilon: added to the variance.
    momentum: of the running averages.
  """
  match kind:
    case "batch":
      return functools.partial(BatchNorm, train, momentum, epsilon)
    case "group":
      return functools.partial(_GroupNorm, epsilon)
    case "layer":
      return functools.partial(nn.LayerNorm, epsilon)
    case "none":
      return lambda name: lambda x: x
  raise ValueError(f"norm {kind!r} is none of {', '.join(get_args(Norm))}")


class _GroupNorm(nn.Module):
  """Group norm with 32 groups, or the most that divide the channels."""

  epsilon: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, ..., C] -> [B, ..., C]."""
    return nn.GroupNorm(math.gcd(32, x.shape[-1]), epsilon=self.epsilon)(x)


def divisible_by_8(filters: float) -> int:
  """The multiple of 8 nearest to a scaled number of filters, and at least 90 % of it (Sandler et al., 2018)."""
  nearest = max(8, int(filters + 4) // 8 * 8)
  return nearest if nearest >= 0.9 * filters else nearest + 8


def local_response_norm(
  x: jax.Array, k: float = 2.0, n: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
  """Each channel divided by (k + alpha * sum of squares over n neighbouring channels)^beta.

  Krizhevsky et al., 2012, section 3.3, whose constants these are; the sum ends at the first and last channel.
  """
  channels = x.shape[-1]
  both_sides = [(0, 0)] * (x.ndim - 1) + [(n // 2, (n - 1) // 2)]
  squares = jnp.pad(jnp.square(x), both_sides)
  total = sum(squares[..., i : i + channels] for i in range(n))
  return x * (k + alpha * total) ** -beta


def adaptive_avg_pool(x: jax.Array, side: int) -> jax.Array:
  """Means over side * side fields that cover maps of any size S, overlapping where S is no multiple of side.

  Field i is [floor(i * S / side), ceil((i + 1) * S / side)), as in PyTorch's `AdaptiveAvgPool2d`.

  Args:
    x: [B, H, W, C].
    side: of the result, [B, side, side, C].
  """
  if x.shape[1:3] == (side, side):
    return x

  def fields(size):
    weights = np.zeros((side, size), np.float32)
    for i in range(side):
      field = slice(i * size // side, -(-(i + 1) * size // side))
      weights[i, field] = 1 / (field.stop - field.start)
    return jnp.asarray(weights, x.dtype)

  rows, columns = fields(x.shape[1]), fields(x.shape[2])
  return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision="highest")


def check_side(x: jax.Array, least: int) -> None:
  """Raises a `UserError` for images of which the network's poolings would leave nothing.

  Args:
    x: [B, H, W, C].
    least: the smallest side that leaves a pixel.
  """
  if min(x.shape[1:3]) < least:
    raise UserError(
      f"images of {x.shape[1]}x{x.shape[2]} are too small for this network, which takes {least}x{least} and"
      " more; set --data.size, or --task.model.stem=small"
    )
