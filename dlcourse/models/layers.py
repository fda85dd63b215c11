"""What the models share: activations by name and a batch norm that is global in every mode."""

from typing import Literal, get_args

import flax.linen as nn
import jax

from dlcourse.parallel import replica_axis

Activation = Literal["relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "swish"]


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
