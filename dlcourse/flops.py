"""What a training step multiplies, counted in its jaxpr, and how well a device is used by it.

XLA's own `cost_analysis` counts the body of a scan once, and what it counts depends on the platform.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from dlcourse import platform

PyTree = Any
Flops = Mapping[str, float]  # name of the type of what is multiplied -> floating-point operations
_RECOMPUTED = "rematted_computation"  # what `jax.checkpoint` writes over all that it computes again


def step_flops(step: Callable, *args: PyTree) -> Flops:
  """Floating-point operations of the matrix products and convolutions of a function, by shapes alone.

  A multiplication with its addition is two. They are those of the model, without what `remat` computes again
  (Chowdhery et al., 2022, arXiv:2204.02311, appendix B). A scan counts as often as it runs, of a condition the
  branch that costs most, and of a loop whose length depends on the numbers one pass.

  Args:
    step: such as `Task.train_step`.
    *args: of it, arrays or their shapes.
  """
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
  with platform.plain_formulas():
    # A new function: JAX would else answer with the trace of the one that was compiled.
    traced = jax.make_jaxpr(lambda *args: step(*args))(*shapes)
  return _flops(traced.jaxpr)


def _flops(jaxpr: Jaxpr) -> collections.Counter[str]:
  total: collections.Counter[str] = collections.Counter()
  for eqn in jaxpr.eqns:
    if _RECOMPUTED in str(eqn.source_info.name_stack):
      continue
    if products := multiply_adds(eqn):
      total[eqn.invars[0].aval.dtype.name] += 2 * products
    parts = [_flops(part) for part in _parts(eqn)]
    if eqn.primitive.name == "cond":
      parts = [max(parts, key=collections.Counter.total)]
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    for part in parts:
      total.update({dtype: times * count for dtype, count in part.items()})
  return total


def _parts(eqn: JaxprEqn) -> Iterator[Jaxpr]:
  """The jaxprs within an equation."""
  for value in eqn.params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      if isinstance(part, ClosedJaxpr | Jaxpr):
        yield part.jaxpr if isinstance(part, ClosedJaxpr) else part


def multiply_adds(eqn: JaxprEqn) -> int:
  """How many products a matrix product or a convolution sums up, with zeros of any kind; 0 of all else."""
  if eqn.primitive.name not in ("conv_general_dilated", "dot_general"):
    return 0
  lhs, rhs = (var.aval for var in eqn.invars)
  out, numbers = eqn.outvars[0].aval, eqn.params["dimension_numbers"]
  if eqn.primitive.name == "dot_general":
    (summed, _), _ = numbers
    return out.size * prod(lhs.shape[axis] for axis in summed)
  places = (
    prod(array.shape[axis] for axis in spec[2:])
    for array, spec in ((lhs, numbers.lhs_spec), (out, numbers.out_spec))
  )
  return lhs.shape[numbers.lhs_spec[0]] * min(places) * rhs.size // eqn.params["batch_group_count"]


def utilisation(flops: Flops, seconds: float, kind: str, devices: int) -> float | None:
  """Model-FLOPs utilisation: the time that the devices would need at their peak, over the time that they took.

  Chowdhery et al., 2022, arXiv:2204.02311, appendix B; each type of number has its own peak.

  Args:
    flops: of all steps.
    seconds: that these took.
    kind: `jax.Device.device_kind` of the devices.
    devices: how many.

  Returns:
    0 … 1; None where the peak is not known.
  """
  peaks = {dtype: platform.peak_flops(kind, dtype) for dtype in flops}
  if not seconds or None in peaks.values():
    return None
  return sum(count / peaks[dtype] for dtype, count in flops.items()) / (seconds * devices)
