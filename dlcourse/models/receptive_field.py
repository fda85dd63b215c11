"""How much of the image the arrays of a traced program see (Araujo, Norris & Sim, 2019, Distill).

A unit sees `size` pixels of a side, and its neighbours see fields that lie `step` pixels apart. A window of k
at stride s makes that size + (k - 1) * step and s * step: the recursion that is followed here through the
operations of JAX. It knows no border: a field may be larger than the image, and then it holds padding. Behind
a transposed convolution, where some places see more than others, it is the largest, or a step more.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

Shape = tuple[int, ...]


class Run(NamedTuple):
  """How an axis of an array runs over the image: `count` positions along `side`, `step` pixels apart."""

  side: int
  step: Fraction
  count: int


class Field(NamedTuple):
  """What one number of an array sees.

  Attributes:
    size: pixels along the height and along the width.
    axes: the runs of each axis of the array: none (channels), one, or several (flattened maps).
  """

  size: tuple[Fraction, Fraction]
  axes: tuple[tuple[Run, ...], ...]

  @property
  def side(self) -> int:
    """Pixels along the longer side; of one that is seen in part, where maps were enlarged, all is seen."""
    return max(math.ceil(size) for size in self.size)

  def reduced(self, gone: Sequence[int]) -> "Field":
    """Of one number from all along some axes, which are gone."""
    size = list(self.size)
    for axis in gone:
      for run in self.axes[axis]:
        size[run.side] += (run.count - 1) * run.step
    return Field(tuple(size), tuple(runs for axis, runs in enumerate(self.axes) if axis not in gone))


Fields = Sequence[Field | None]


def image_field(shape: Shape) -> Field:
  """The field of the pixels of an image [B, H, W, C]: each sees itself."""
  height, width = (Run(side, Fraction(1), shape[1 + side]) for side in (0, 1))
  return Field((Fraction(1), Fraction(1)), ((), (height,), (width,), ()))


def propagate(eqn: Any, fields: Fields) -> Field | None:
  """The field of what an equation of a jaxpr gives, None if it sees nothing of an image.

  What is the same all over a map and only weighs it adds nothing to its field: the statistics of a norm, the
  weights of squeeze-and-excite. Published fields leave them out too.

  Args:
    eqn: one without a jaxpr inside.
    fields: of its operands.
  """
  if not any(fields):
    return None
  shapes = [tuple(var.aval.shape) for var in eqn.invars]
  out = tuple(eqn.outvars[0].aval.shape)
  name = "reduce_window" if eqn.primitive.name.startswith("reduce_window") else eqn.primitive.name
  return _RULES.get(name, _elementwise)(fields, shapes, out, eqn.params)


def whole(fields: Fields, rank: int) -> Field | None:
  """The field of an array of `rank` axes each number of which sees all that these see."""
  known = [field.reduced(range(len(field.axes))) for field in fields if field]
  return Field(_seen_by_any(known), ((),) * rank) if known else None


def _seen_by_any(fields: Sequence[Field]) -> tuple[Fraction, ...]:
  return tuple(max(sizes) for sizes in zip(*(field.size for field in fields), strict=True))


def _elementwise(fields: Fields, shapes: Sequence[Shape], out: Shape, params: Mapping) -> Field | None:
  """Numbers that meet their like; a result of some other shape sees all that the operands see."""
  del params
  known = [(field, shape) for field, shape in zip(fields, shapes, strict=True) if field]
  if any(len(s) != len(out) or any(n not in (1, m) for n, m in zip(s, out, strict=True)) for _, s in known):
    return whole(fields, len(out))
  local = [(field, shape) for field, shape in known if any(field.axes)] or known
  axes = (
    next((field.axes[i] for field, shape in local if field.axes[i] and shape[i] == size), ())
    for i, size in enumerate(out)
  )
  return Field(_seen_by_any([field for field, _ in local]), tuple(axes))


def _windowed(field: Field, axis: int, count: int, window: int, stride: int, gap: int, dilation: int) -> Field:
  """`count` windows along an axis whose positions were moved `gap` apart."""
  size = list(field.size)
  for run in field.axes[axis]:
    size[run.side] += (window - 1) * dilation // gap * run.step  # between are zeros
  runs = tuple(Run(run.side, run.step * stride / gap, count) for run in field.axes[axis])
  return Field(tuple(size), (*field.axes[:axis], runs, *field.axes[axis + 1 :]))


def _reduction(fields: Fields, shapes: Sequence[Shape], out: Shape, params: Mapping) -> Field:
  del shapes, out
  return fields[0].reduced(params["axes"])


def _windows(fields: Fields, shapes: Sequence[Shape], out: Shape, params: Mapping) -> Field:
  """Pooling."""
  del shapes
  ones, field = (1,) * len(out), fields[0]
  geometry = (
    params["window_dimensions"],
    params["window_strides"],
    params.get("base_dilation") or ones,
    params.get("window_dilation") or ones,
  )
  for axis, (window, stride, gap, dilation) in enumerate(zip(*geometry, strict=True)):
    field = _windowed(field, axis, out[axis], window, stride, gap, dilation)
  return field


def _convolution(fields: Fields, shapes: Sequence[Shape], out: Shape, params: Mapping) -> Field | None:
  field = fields[0]
  if field is None:
    return None
  lhs, kernel, result = params["dimension_numbers"]  # each: batch, features, places
  axes: list[tuple[Run, ...]] = [()] * len(out)
  geometry = zip(params["window_strides"], params["lhs_dilation"], params["rhs_dilation"], strict=True)
  for i, (stride, gap, dilation) in enumerate(geometry, 2):
    count, window = out[result[i]], shapes[1][kernel[i]]
    field = _windowed(field, lhs[i], count, window, stride, gap, dilation)
    axes[result[i]] = field.axes[lhs[i]]
  return Field(field.size, tuple(axes))


def _product(fields: Fields, shapes: Sequence[Shape], out: Shape, params: Mapping) -> Field:
  """Matrix products: of layers, of attention, of matrices that average."""
  del out
  batched = params["dimension_numbers"][1]
  seen, shared, free = [], [()] * len(batched[0]), []
  for field, shape, summed, batch in zip(fields, shapes, *params["dimension_numbers"], strict=True):
    axes = field.axes if field else ((),) * len(shape)
    shared = [runs or axes[axis] for runs, axis in zip(shared, batch, strict=True)]
    free += [runs for axis, runs in enumerate(axes) if axis not in (*summed, *batch)]
    seen += [field.reduced(summed)] if field else []
  return Field(_seen_by_any(seen), (*shared, *free))


def _moved(fields: Fields, shapes: Sequence[Shape], out: Shape, params: Mapping) -> Field:
  """Axes in another order, or without some of length 1."""
  del shapes, out
  field = fields[0]
  if "permutation" in params:
    return field._replace(axes=tuple(field.axes[axis] for axis in params["permutation"]))
  return field.reduced(params["dimensions"])


def _broadcast(fields: Fields, shapes: Sequence[Shape], out: Shape, params: Mapping) -> Field:
  """Repeated along new axes."""
  axes: list[tuple[Run, ...]] = [()] * len(out)
  for axis, target in enumerate(params["broadcast_dimensions"]):
    if shapes[0][axis] == out[target]:
      axes[target] = fields[0].axes[axis]
  return fields[0]._replace(axes=tuple(axes))


def _resized(fields: Fields, shapes: Sequence[Shape], out: Shape, params: Mapping) -> Field:
  """Cut, padded or joined: the same step, or that of a slice that leaves some out."""
  del shapes
  known = [field for field in fields if field]
  strides = params.get("strides") or (1,) * len(out)
  axes = tuple(
    tuple(run._replace(step=run.step * stride, count=count) for run in runs)
    for runs, stride, count in zip(known[0].axes, strides, out, strict=True)
  )
  return Field(_seen_by_any(known), axes)


def _reshaped(fields: Fields, shapes: Sequence[Shape], out: Shape, params: Mapping) -> Field:
  """Axes that are merged or split; runs that cannot be told apart any more are seen as a whole."""
  del params
  field, axes, lost = fields[0], [()] * len(out), []
  for olds, news in _groups(shapes[0], out):
    runs = [run for axis in olds for run in field.axes[axis]]
    wide = [axis for axis in news if out[axis] > 1]
    if len(wide) == 1:
      axes[wide[0]] = _merged(runs, out[wide[0]])
    elif len(runs) == 1 and runs[0].count == prod(out[axis] for axis in wide):
      rest = runs[0].count
      for axis in wide:
        rest //= out[axis]
        axes[axis] = (Run(runs[0].side, runs[0].step * rest, out[axis]),)
    else:
      lost += olds
  return Field(field.reduced(lost).size, tuple(axes))


def _merged(runs: Sequence[Run], count: int) -> tuple[Run, ...]:
  """The runs of axes that became one; each pixel repeated halves the step."""
  if len(runs) == 1:
    (run,) = runs
    return (Run(run.side, run.step * run.count / count, count),)
  return tuple(runs)


def _groups(olds: Shape, news: Shape) -> list[tuple[list[int], list[int]]]:
  """The smallest groups of neighbouring axes, before and after, that hold as many numbers."""
  groups, i, j = [], 0, 0
  while i < len(olds) or j < len(news):
    old, new = [], []
    while not (old or new) or prod(olds[k] for k in old) != prod(news[k] for k in new):
      if j == len(news) or (i < len(olds) and prod(olds[k] for k in old) <= prod(news[k] for k in new)):
        old, i = [*old, i], i + 1
      else:
        new, j = [*new, j], j + 1
    groups.append((old, new))
  return groups


_RULES: Mapping[str, Callable] = {
  **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"), _reduction),
  **dict.fromkeys(("slice", "split", "pad", "concatenate"), _resized),
  **dict.fromkeys(("transpose", "squeeze"), _moved),
  "reduce_window": _windows,
  "conv_general_dilated": _convolution,
  "dot_general": _product,
  "broadcast_in_dim": _broadcast,
  "reshape": _reshaped,
}
