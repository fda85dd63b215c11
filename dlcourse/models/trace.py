"""Follows a network operation by operation: what is multiplied with what, and how much of the image it sees.

Every call of a Linen module leaves its name in the jaxpr, and there the operations of JAX say the rest.
"""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.core import Scope
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from dlcourse.flops import multiply_adds
from dlcourse.models.receptive_field import Field, image_field, propagate, whole

PyTree = Any
Shape = tuple[int, ...]
_TAG = "layer:"  # begins the name that a module leaves in the trace
_POOLS = {"reduce_window_max": ("max_pool", "MaxPool"), "reduce_window_sum": ("avg_pool", "AvgPool")}


class Layer(NamedTuple):
  """One row of a summary; counts are of one example going forward once.

  Attributes:
    network: which of several networks ("generator"); "" where there is one.
    path: names of the modules down to the layer, joined by "/", as in the table of parameters.
    kind: class of the module ("Conv", "Dense", "BatchNorm"); MaxPool, AvgPool, GlobalPool are no modules.
    block: class of the module at the top of the network (see `block_of`): "Bottleneck" for "conv2_1/norm1".
    block_input: shape of what goes into that module, without the batch.
    block_output: shape of what comes out of it, without the batch.
    input: shape of what goes in, without the batch.
    output: shape of what comes out, without the batch.
    parameters: trainable numbers.
    multiply_adds: products that convolutions and matrix products sum up. As in publications, norms, poolings
      and activations do not count, and zeros of padding do; zeros of a connection table do not, and to a
      transposed convolution an input comes once a kernel element.
    connections: uses of a trainable number (LeCun et al., 1998, section II.B): a weight once a product, a bias
      or a scale once an output, the coefficient of a trainable pooling once an input.
    receptive_field: side in pixels of what an output sees of the network's input, None where that is no image;
      see `receptive_field.py`.
  """

  network: str
  path: str
  kind: str
  block: str
  block_input: Shape
  block_output: Shape
  input: Shape
  output: Shape
  parameters: int
  multiply_adds: int
  connections: int
  receptive_field: int | None


@dataclasses.dataclass(frozen=True)
class Call:
  """A call of a network from outside: what is needed to trace it by itself.

  `root` is the same for all calls of one network; `path` is () unless a part of it was called.
  """

  root: Scope
  path: tuple[str, ...]
  module: nn.Module
  method: str
  inputs: PyTree
  variables: PyTree


def name_of(path: Sequence[Any]) -> str:
  """Keys of a tree, joined by "/"."""
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


class _Value(NamedTuple):
  """What is known of an array in the trace.

  Attributes:
    moves: whether it depends on the network's input.
    weights: of what does not, the parameters that it is made of.
    filled: of such an array, how many numbers are no zeros of a connection table; None: all.
    field: what it sees of the image.
    pooled: the module that has made it by pooling, and how many inputs went into each number.
  """

  moves: bool = False
  weights: frozenset[str] = frozenset()
  filled: int | None = None
  field: Field | None = None
  pooled: tuple[str, int] | None = None


@dataclasses.dataclass
class _Work:
  """What a module does itself, its parts left out, for the whole batch."""

  products: int = 0
  weighted: int = 0
  field: Field | None = None
  times: int = 1


class _Module(NamedTuple):
  """A module, or a pooling, as it was called first."""

  kind: str
  input: Shape
  output: Shape


class Trace:
  """What the calls of one network do, module by module."""

  def __init__(self) -> None:
    self.kind = ""
    self._batch = 1
    self._params: dict[str, int] = {}
    self._modules: dict[str, _Module] = {}
    self._work: dict[str, _Work] = {}
    self._pools: list[str] = []
    self._users: dict[str, str] = {}  # parameter -> the module that uses it
    self._uses: dict[str, int] = {}  # parameter -> results of the operation that uses it first
    self._summed: set[str] = set()  # parameters that products are summed of
    self._inputs: dict[str, int] = {}  # coefficient of a trainable pooling -> inputs of an output

  def follow(self, call: Call) -> None:
    """Traces a call and adds what it does."""
    leaves, tree = jax.tree.flatten(call.inputs)
    arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)}
    self._batch = next((leaf.shape[0] for leaf in arrays.values() if leaf.ndim), 1)
    self.kind = self.kind or type(call.module).__name__

    def apply(variables, key, arrays):
      args, kwargs = jax.tree.unflatten(tree, [arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
      return call.module.apply(
        variables, *args, method=call.method, mutable=True, rngs={"params": key}, **kwargs
      )

    given = jax.tree.map(_shape_of, (call.variables, jax.random.key(0), arrays))
    with nn.intercept_methods(self._tagger(call.path)):
      traced = jax.make_jaxpr(apply)(*given)
    names = [name_of(path).split("/") for path, _ in jax.tree_util.tree_leaves_with_path(given[0])]
    values = [
      _Value(weights=frozenset({"/".join((*call.path, *name[1:]))} if name[0] == "params" else ()))
      for name in names
    ]
    for value, leaf in zip(values, jax.tree.leaves(given[0]), strict=True):
      self._params |= dict.fromkeys(value.weights, prod(leaf.shape))
    images = (image_field(leaf.shape) if leaf.ndim == 4 else None for leaf in arrays.values())
    values += [_Value(moves=True), *(_Value(moves=True, field=field) for field in images)]
    self._run(traced.jaxpr, values, "/".join(call.path), 1)

  def _tagger(self, prefix: tuple[str, ...]) -> Callable:
    """An interceptor that writes the module into the trace, and notes its shapes."""

    def tag(call, args, kwargs, context):
      module = context.module
      if module.scope is None or context.method_name == "setup":
        return call(*args, **kwargs)
      path = "/".join((*prefix, *module.path))
      with jax.named_scope(_TAG + path):
        out = call(*args, **kwargs)
      if context.method_name == "__call__" and path not in self._modules:
        given = (*args, *kwargs.values())
        kind = type(module).__name__.lstrip("_")
        self._modules[path] = _Module(kind, self._example(_array(given)), self._example(_array(out)))
      return out

    return tag

  def _example(self, array: Any) -> Shape:
    """The shape of one example."""
    shape = () if array is None else tuple(array.shape)
    return shape[1:] if shape[:1] == (self._batch,) else shape

  def _run(self, jaxpr: Jaxpr, inputs: Sequence[_Value], module: str, times: int) -> list[_Value]:
    """Follows the equations of a (part of a) trace that runs `times` times."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def value(var):
      return _Value() if isinstance(var, Literal) else known.get(var, _Value())

    for eqn in jaxpr.eqns:
      known.update(zip(eqn.outvars, self._step(eqn, [*map(value, eqn.invars)], module, times), strict=True))
    return [*map(value, jaxpr.outvars)]

  def _step(self, eqn: JaxprEqn, values: list[_Value], module: str, times: int) -> list[_Value]:
    module = _module_of(eqn, module)
    match eqn.primitive.name:
      case "scan":
        return self._scan(eqn, values, module, times)
      case "while":
        return self._while(eqn, values, module, times)
      case "cond":  # what each branch does counts: which is taken depends on the numbers
        return [self._run(branch.jaxpr, values[1:], module, times) for branch in eqn.params["branches"]][-1]
    for part in eqn.params.values():
      body = part.jaxpr if isinstance(part, ClosedJaxpr) else part
      if isinstance(body, Jaxpr) and len(body.invars) == len(values):
        return self._run(body, values, module, times)
    return [self._apply(eqn, values, module, times)] * len(eqn.outvars)

  def _scan(self, eqn: JaxprEqn, values: list[_Value], module: str, times: int) -> list[_Value]:
    """Every pass counts. A number of the last pass sees what all passes took in."""
    consts, carried, length = (eqn.params[name] for name in ("num_consts", "num_carry", "length"))
    body, split = eqn.params["jaxpr"].jaxpr, consts + carried
    carry = _carried(values[consts:split], body.invars[consts:split], values)
    slices = [v._replace(field=v.field and v.field.reduced((0,))) for v in values[split:]]
    out = self._run(body, [*values[:consts], *carry, *slices], module, times * length)
    stacked = [v._replace(field=v.field and Field(v.field.size, ((), *v.field.axes))) for v in out[carried:]]
    return [*out[:carried], *stacked]

  def _while(self, eqn: JaxprEqn, values: list[_Value], module: str, times: int) -> list[_Value]:
    """One pass counts: how many there are depends on the numbers."""
    body, skipped, consts = (eqn.params[name] for name in ("body_jaxpr", "cond_nconsts", "body_nconsts"))
    values = values[skipped:]
    carry = _carried(values[consts:], body.jaxpr.invars[consts:], values)
    return self._run(body.jaxpr, [*values[:consts], *carry], module, times)

  def _apply(self, eqn: JaxprEqn, values: list[_Value], module: str, times: int) -> _Value:
    """Notes what one operation does, and tells what its result is."""
    if not any(value.moves for value in values):
      return _Value(weights=frozenset().union(*(v.weights for v in values)), filled=_filled(eqn, values))
    work = self._work.setdefault(module, _Work())
    work.times = max(work.times, times)
    field = propagate(eqn, [value.field for value in values])
    if field and (any(field.axes) or not work.field or not any(work.field.axes)):
      work.field = field
    weights = frozenset().union(*(value.weights for value in values if not value.moves))
    for name in weights:
      self._users.setdefault(name, module)
      self._uses.setdefault(name, times * eqn.outvars[0].aval.size)
    products = _products(eqn, values)
    if products:
      work.products += times * products
      work.weighted += times * products if weights else 0
      self._summed |= weights
    pooled = next((value.pooled for value in values if value.pooled and value.pooled[0] == module), None)
    if pooled and eqn.primitive.name == "mul" and weights:
      self._inputs |= dict.fromkeys(weights, pooled[1])
    if eqn.primitive.name.startswith("reduce_window"):
      pooled = (module, prod(eqn.params["window_dimensions"]))
    if pool := _pool(eqn, values[0].field, field):
      self._note_pool(eqn, pool, field, module)
    return _Value(moves=True, field=field, pooled=pooled)

  def _note_pool(self, eqn: JaxprEqn, pool: tuple[str, str], field: Field | None, module: str) -> None:
    """A pooling is noted as if it were a module."""
    name, kind = pool
    path = f"{module}/{name}".lstrip("/")
    number = sum(known.rstrip("_0123456789") == path for known in self._pools)
    path += f"_{number + 1}" if number else ""
    self._pools.append(path)
    shapes = (self._example(var.aval) for var in (eqn.invars[0], eqn.outvars[0]))
    self._modules[path] = _Module(kind, *shapes)
    self._work[path] = _Work(field=field)

  def layers(self, network: str) -> list[Layer]:
    """The rows of the summary."""
    params: dict[str, list[str]] = {}
    for name in self._params:
      params.setdefault(self._row(name), []).append(name)
    rows = {path for path, work in self._work.items() if work.products} | params.keys()
    for path in self._pools:  # that of a layer (S2 of LeNet-5) is a part of it
      outer = path.rpartition("/")[0]
      if outer not in rows or _parts(outer, rows):
        rows.add(path)
    ordered = [path for path in self._work if path in rows] + [path for path in rows if path not in self._work]
    return [self._layer(network, path, params.get(path, ()), _parts(path, rows)) for path in ordered]

  def _row(self, name: str) -> str:
    """The module whose row a parameter belongs to: its own, or if that only holds it, the one that uses it."""
    owner = name.rpartition("/")[0]
    if owner in self._work:
      return owner
    while owner not in self._modules and owner:
      owner = owner.rpartition("/")[0]
    return self._users.get(name, owner)

  def _connections(self, path: str, params: Sequence[str], outputs: int, composed: bool) -> int:
    """Products with weights, and of every other parameter its uses: once an output, or once a gate of it."""
    work = self._work.get(path, _Work())
    others = [name for name in params if name not in self._summed]
    uses = (max(self._uses.get(name, 0) // self._batch, 0 if composed else outputs) for name in others)
    inputs = (self._inputs.get(name, 1) for name in others)
    return work.weighted // self._batch + sum(map(operator.mul, uses, inputs))

  def _layer(self, network: str, path: str, params: Sequence[str], composed: bool) -> Layer:
    work = self._work.get(path, _Work())
    module = self._modules.get(path, _Module(self.kind, (), ()))
    repeated = (work.times,) if work.times > 1 else ()
    module = module._replace(input=(*repeated, *module.input), output=(*repeated, *module.output))
    first = block_of(path)
    block = self._modules.get(first, module) if first != path else module
    return Layer(
      network=network,
      path="/".join(part for part in (network, path) if part) or module.kind,
      kind=module.kind,
      block=block.kind,
      block_input=block.input,
      block_output=block.output,
      input=module.input,
      output=module.output,
      parameters=sum(self._params[name] for name in params),
      multiply_adds=work.products // self._batch,
      connections=self._connections(path, params, prod(module.output), composed),
      receptive_field=work.field.side if work.field else None,
    )


def block_of(path: str) -> str:
  """The module at the top of the network that a layer is in, or at the top of a backbone inside it."""
  names = path.split("/")
  return "/".join(names[: 2 if names[0] == "backbone" else 1])


def _parts(path: str, rows: Iterable[str]) -> bool:
  """Whether a module is composed of others that have rows."""
  return any(row != path and row.startswith(f"{path}/" if path else "") for row in rows)


def _module_of(eqn: JaxprEqn, outer: str) -> str:
  """The innermost module that an equation was written in."""
  names = [getattr(scope, "name", "") for scope in eqn.source_info.name_stack.stack]
  return next((name[len(_TAG) :] for name in reversed(names) if name.startswith(_TAG)), outer)


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _array(tree: Any) -> Any:
  """The array that a module works on or gives, beside its state: the first that stands by itself."""
  arrays = [leaf for leaf in (tree if isinstance(tree, tuple) else (tree,)) if hasattr(leaf, "shape")]
  arrays += [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape")]
  return arrays[0] if arrays else None


def _carried(carry: Sequence[_Value], variables: Sequence[Any], values: Sequence[_Value]) -> list[_Value]:
  """What goes around a loop, but for counters, depends on all that comes into the loop."""
  moves, fields = any(value.moves for value in values), [value.field for value in values]
  return [
    value._replace(moves=True, field=whole(fields, var.aval.ndim)) if moves and var.aval.ndim else value
    for value, var in zip(carry, variables, strict=True)
  ]


def _filled(eqn: JaxprEqn, values: Sequence[_Value]) -> int | None:
  """How many numbers of an array of weights are no zeros of a table that they were scattered into."""
  if eqn.primitive.name == "scatter" and not values[0].weights:
    return eqn.invars[2].aval.size
  same = [
    v.filled for v, var in zip(values, eqn.invars, strict=True) if var.aval.size == eqn.outvars[0].aval.size
  ]
  return next((filled for filled in same if filled is not None), None)


def _products(eqn: JaxprEqn, values: Sequence[_Value]) -> int:
  """How many products of numbers that depend on the input, with each other or with weights, are summed up."""
  if not all(value.moves or value.weights for value in values):
    return 0
  products = multiply_adds(eqn)
  for value, var in zip(values, eqn.invars, strict=True):
    if value.filled is not None:
      products = products * value.filled // var.aval.size
  return products


def _pool(eqn: JaxprEqn, before: Field | None, after: Field | None) -> tuple[str, str] | None:
  """Name and kind of a pooling; None of anything else."""
  if eqn.primitive.name in _POOLS:
    return _POOLS[eqn.primitive.name]
  flat = (
    before and after and {run.side for runs in before.axes for run in runs} == {0, 1} and not any(after.axes)
  )
  if eqn.primitive.name in ("reduce_sum", "reduce_max") and flat and 0 not in eqn.params["axes"]:
    return "global_pool", "GlobalPool"
  return None
