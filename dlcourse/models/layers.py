"""What the models share: activations by name and a batch norm that is global in every mode."""

import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import flax.linen as nn
import jax

from dlcourse.parallel import replica_axis

Stem = Literal["large", "small"]  # for images of about 224 or of about 32 pixels
Norm = Literal["batch", "group", "layer", "none"]
Activation = Literal["relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "swish", "relu6"]


def activate(name: Activation, x: jax.Array) -> jax.Array:
  """The activation functions of H1.4.2 by name.

  Raises:
    ValueError: no activation has that name.
  """
  if name not in get_args(Activation):
    raise ValueError(f"activation {name!r} is none of {', '.join(get_args(Activation))}")
  return nn.gelu(x, approximate=False) if name == "gelu" else getattr(nn, name)(x)


def batch_norm(
  train: bool, momentum: float = 0.9, epsilon: float = 1e-5, name: str | None = None
) -> nn.BatchNorm:
  """Batch normalisation over the *global* batch (Ioffe & Szegedy, 2015; H1.4.5).

  Where one program sees the whole batch its mean is the global one already; under `pmap` the statistics
  are averaged over the replicas.

  Args:
    train: normalise by the batch and update the running averages; else by the running averages.
    momentum: of the running averages, m <- momentum * m + (1 - momentum) * batch.
    epsilon: added to the variance.
    name: explicit name of the layer.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    axis_name=replica_axis(),
    momentum=momentum,
    epsilon=epsilon,
    name=name,
  )


def normalisation(
  kind: Norm, train: bool, epsilon: float = 1e-5, momentum: float = 0.9
) -> Callable[..., Callable[[jax.Array], jax.Array]]:
  """The norm of a network, bound once and passed to its blocks: `norm(name="norm1")(x)`.

  Args:
    kind: "batch" (Ioffe & Szegedy, 2015), "group" (Wu & He, 2018: 32 groups, or as many as divide the
      channels), "layer" (Ba et al., 2016) or "none".
    train: for batch norm, see `batch_norm`.
    epsilon: added to the variance.
    momentum: of the running averages.
  """
  match kind:
    case "batch":
      return functools.partial(batch_norm, train, momentum, epsilon)
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


def around(conv: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
  """A convolution that pads (k - 1) / 2 zeros on every side, whatever its stride.

  "SAME" pads a strided convolution more on the right than on the left, so that the two differ by a pixel.
  """

  def build(features: int, kernel_size: tuple[int, int], strides: tuple[int, int] = (1, 1), **fields):
    padding = tuple(((size - 1) // 2, (size - 1) // 2) for size in kernel_size)
    return conv(features, kernel_size, strides, padding=padding, **fields)

  return build
