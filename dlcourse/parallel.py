"""Devices: the only file that names mesh axes.

Everything above this file is written for one device and a whole batch. Four modes compile the same step:

- `jit` (default): the state replicated, the batch split over the mesh; XLA inserts the reductions;
- `fsdp`: parameters and optimizer state split too, by the first rule that matches their path (ZeRO-3);
- `pmap`: one program per device with explicit reductions (`global_sum`, batch norm over `replica_axis()`);
- `tensor`: blocks of Transformers split by heads and by the width of the MLP over a second axis of the mesh,
  the batch over the first (Megatron-LM: Shoeybi et al., 2019, arXiv:1909.08053).
"""

import contextlib
import contextvars
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlcourse.errors import UserError

PyTree = Any
Mode = Literal["jit", "fsdp", "pmap", "tensor"]

DATA, MODEL = "data", "model"
_MESSAGE_BYTES = 2_000
_replica_axis: contextvars.ContextVar[str | None] = contextvars.ContextVar("axis", default=None)

# (regular expression on the path of a leaf of the state, how to split it); the first match counts.
FSDP_RULES = (
  (r"^\.(params|opt_state|model_state)\b", "largest axis"),
  (r"^\.(step|rng)$", "replicate"),
)

# (regular expression on the path of a leaf, the axis that `MODEL` splits); what none matches is replicated.
# Of two dense layers in a row the first is split by its outputs and the second by its inputs, so that only
# what the second gives has to be summed over the devices.
TENSOR_RULES = (
  (r"\['layers'\]\['((source_)?attention'\]\['(query|key|value)|widen|gate)'\]\['(kernel|bias)'\]$", -1),
  (r"\['layers'\]\['((source_)?attention'\]\['out|narrow)'\]\['kernel'\]$", -2),
)


def replica_axis() -> str | None:
  """The axis name that a reduction has to name while a step is traced under `pmap`, else None."""
  return _replica_axis.get()


def global_sum(tree: PyTree) -> PyTree:
  """The sum over all replicas; the identity where one program already sees the whole batch."""
  axis = replica_axis()
  return jax.lax.psum(tree, axis) if axis else tree


def replica_key(key: jax.Array) -> jax.Array:
  """A key that differs between replicas; the same key where one program sees the whole batch."""
  axis = replica_axis()
  return jax.random.fold_in(key, jax.lax.axis_index(axis)) if axis else key


@contextlib.contextmanager
def _under_axis(name: str):
  token = _replica_axis.set(name)
  try:
    yield
  finally:
    _replica_axis.reset(token)


def on_first_process(action: Callable[[], None]) -> None:
  """Runs an action on process 0 while the others wait; where it refuses, all of them refuse.

  A process that left alone would leave the others waiting for it until they time out.

  Raises:
    UserError: what the action raised, in every process.
  """
  said = ""
  if jax.process_index() == 0:
    try:
      action()
    except UserError as error:
      said = str(error)
  if jax.process_count() > 1:
    sent = np.frombuffer(said.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    said = bytes(multihost_utils.broadcast_one_to_all(sent)).rstrip(b"\0").decode(errors="replace")
  if said:
    raise UserError(said)


def make_mesh(
  devices: int | None = None, sharing: int | None = None, mode: Mode = "jit", tensor: int | None = None
) -> Mesh:
  """A mesh [data, model] over the first `devices` devices.

  Args:
    devices: how many; None: all of them, or
    sharing: the most that this many examples can be shared by evenly.
    mode: only `tensor` has more than one device along the second axis.
    tensor: how many it then has; None: all of a process, between which the connections are fastest.

  Axes are Auto: under Explicit ones the scan carry of a Linen RNN does not type-check.

  Raises:
    UserError: there are not that many devices, or the processes or the axes would not share them evenly.
  """
  available = jax.devices()
  count = devices or len(available)
  if devices is None and sharing and jax.process_count() == 1:
    count = max(n for n in range(1, count + 1) if sharing % n == 0)
  if count > len(available):
    raise UserError(f"--devices={count}, but this run sees {len(available)} {available[0].platform}")
  if jax.process_count() > 1 and count != len(available):
    raise UserError("--devices cannot be limited in a run of several processes; leave it out")
  if tensor and mode != "tensor":
    raise UserError(f"--tensor={tensor} goes with --parallel=tensor, not with --parallel={mode}")
  parts = 1 if mode != "tensor" else tensor or count // jax.process_count()
  if count % parts:
    raise UserError(f"--tensor={parts} has to divide the {count} devices")
  shape, auto = (count // parts, parts), (AxisType.Auto,) * 2
  return jax.make_mesh(shape, (DATA, MODEL), auto, devices=available[:count])


def _is_carry(path: tuple) -> bool:
  """`TrainState.carry` has a leading batch axis and is split like a batch."""
  return jax.tree_util.keystr(path[:1]) == ".carry"


def _split_largest(shape: tuple[int, ...], parts: int) -> PartitionSpec:
  """Splits the largest axis that `parts` divides; replicates where there is none."""
  fitting = [axis for axis, size in enumerate(shape) if size % parts == 0 and size >= parts]
  if not fitting:
    return PartitionSpec()
  largest = max(fitting, key=lambda axis: shape[axis])
  return PartitionSpec(*(DATA if axis == largest else None for axis in range(len(shape))))


def _first_rule(rules: Sequence[tuple[str, Any]], name: str) -> Any:
  return next((how for pattern, how in rules if re.search(pattern, name)), None)


def _fsdp_spec(name: str, shape: tuple[int, ...], parts: int) -> PartitionSpec:
  rule = _first_rule(FSDP_RULES, name)
  if rule is None:
    raise ValueError(f"no fsdp rule matches {name}")
  return _split_largest(shape, parts) if rule == "largest axis" else PartitionSpec()


def _tensor_spec(name: str, shape: tuple[int, ...]) -> PartitionSpec:
  split = _first_rule(TENSOR_RULES, name)
  return PartitionSpec() if split is None else PartitionSpec(*(None,) * (len(shape) + split), MODEL)


def _check_tensor(state: PyTree, mesh: Mesh) -> None:
  """Raises a `UserError` where there are no blocks to split, or their widths cannot be shared evenly.

  Heads that cannot be, while all their columns can, are right too: XLA then moves more between devices.
  """
  named = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]
  widths = {leaf.shape[axis] for name, leaf in named if (axis := _first_rule(TENSOR_RULES, name))}
  if not widths:
    raise UserError("--parallel=tensor splits blocks of Transformers, and here are none; fsdp splits any model")
  parts, common = mesh.shape[MODEL], math.gcd(*widths)
  if common % parts:
    near = max(n for n in range(1, parts) if common % n == 0 and mesh.size % n == 0)
    raise UserError(f"--tensor={parts} has to divide the blocks' widths {sorted(widths)}; --tensor={near} does")


def state_shardings(state: PyTree, mesh: Mesh, mode: Mode) -> PyTree:
  """Where each leaf of a `TrainState` lives.

  Args:
    state: the state, or its shapes.
    mesh: the devices.
    mode: only `fsdp` and `tensor` split what is not the carry.

  Raises:
    ValueError: a leaf that no rule of `FSDP_RULES` matches.
    UserError: `tensor` finds nothing to split, or what it cannot split evenly.
  """
  if mode == "tensor":
    _check_tensor(state, mesh)

  def sharding(path, leaf):
    name = jax.tree_util.keystr(path)
    spec = PartitionSpec()
    if _is_carry(path):
      spec = PartitionSpec(DATA)
    elif mode == "fsdp":
      spec = _fsdp_spec(name, leaf.shape, mesh.shape[DATA])
    elif mode == "tensor":
      spec = _tensor_spec(name, leaf.shape)
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(sharding, state)


def batch_size(batch: Mapping[str, Any]) -> int:
  """The number of examples in a batch, or in its shapes."""
  return next(iter(batch.values())).shape[0]


def check_batch(spec: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh) -> None:
  """Raises a `UserError` where the devices cannot share a batch evenly."""
  size, parts = batch_size(spec), mesh.shape[DATA]
  if size % parts:
    near = max(round(size / parts), 1) * parts
    raise UserError(f"a batch of {size} cannot be shared by {parts} devices; --data.batch_size={near} can")


class Program(NamedTuple):
  """A `Task` compiled for a mesh: the same functions on host batches, with the same arguments.

  `train_step` and `train_steps` (a list of K batches in one dispatch) donate the state,
  unless JAX looks for NaN.
  `state` holds shapes, types *and* shardings, which is what a checkpoint restores into; `devices` is how
  many it runs on; `task` is what was compiled.
  """

  init: Callable
  train_step: Callable
  train_steps: Callable
  eval_step: Callable
  predict: Callable
  generate: Callable | None
  stream: Callable | None
  state: PyTree
  devices: int
  task: Any

  @property
  def conditional(self) -> bool:
    """That of the task."""
    return self.task.conditional


def compile_task(task, batch: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh, mode: Mode) -> Program:
  """Compiles the functions of a task for a mesh.

  Args:
    task: a `dlcourse.task.Task`.
    batch: shapes of one global batch.
    mesh: from `make_mesh`.
    mode: how the training step is compiled; everything else is `jit` in every mode, on the state as it lies.
  """
  check_batch(batch, mesh)

  def init(key: jax.Array) -> PyTree:
    return task.init(key, {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()})

  shapes = jax.eval_shape(init, jax.random.key(0))  # what is jitted below, so that it is traced once
  shardings = state_shardings(shapes, mesh, mode)
  split, whole = NamedSharding(mesh, PartitionSpec(DATA)), NamedSharding(mesh, PartitionSpec())
  compile_steps = _pmap_steps if mode == "pmap" else _jit_steps
  train_step, train_steps = compile_steps(task.train_step, shardings, mesh)

  def on_batches(fn):
    compiled = jax.jit(fn, in_shardings=(shardings, whole, split), out_shardings=whole)
    return lambda state, key, batch: compiled(state, key, _place(batch, split))

  def whole_only(fn):
    return fn and jax.jit(fn, in_shardings=(shardings, whole, whole), out_shardings=whole)

  return Program(
    init=jax.jit(init, out_shardings=shardings, compiler_options=_init_options(mesh)),
    train_step=train_step,
    train_steps=train_steps,
    eval_step=on_batches(task.eval_step),
    predict=on_batches(task.predict),
    generate=whole_only(task.generate),
    stream=whole_only(task.stream),
    state=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings),
    devices=mesh.size,
    task=task,
  )


def _init_options(mesh: Mesh) -> dict[str, Any]:
  """Initialisation runs once: on CPU, compiling it so takes a quarter of the time; no bit changes."""
  if mesh.devices.flat[0].platform != "cpu":
    return {}
  return {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def _repeat(step: Callable) -> Callable:
  """(state, stack of K batches) -> (state, summed metrics): K steps in one dispatch."""

  def steps(state, batches):
    state, metrics = jax.lax.scan(step, state, batches)
    return state, jax.tree.map(lambda x: x.sum(axis=0), metrics)

  return steps


def _stack(batches: Sequence[Mapping[str, np.ndarray]]) -> PyTree:
  return jax.tree.map(lambda *rows: np.stack(rows), *batches)


def _place(batch: PyTree, sharding: NamedSharding) -> PyTree:
  """Host batch -> device batch, explicitly: the loop forbids implicit transfers."""
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)

  def own_rows(x):
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  with jax.transfer_guard_host_to_device("allow"):  # the guard does not know this call as explicit
    return jax.tree.map(own_rows, batch)


def _donated() -> tuple[int, ...]:
  """The state; but what gave a NaN is computed again, one operation at a time, where JAX looks for those."""
  return () if jax.config.jax_debug_nans else (0,)


def _jit_steps(step: Callable, shardings: PyTree, mesh: Mesh) -> tuple[Callable, Callable]:
  """(train_step, train_steps) by `jit`: XLA inserts the reductions that the shardings call for."""
  one, stack = (
    NamedSharding(mesh, PartitionSpec(DATA)),
    NamedSharding(mesh, PartitionSpec(None, DATA)),
  )

  def compiled(fn, split):
    return jax.jit(
      fn,
      in_shardings=(shardings, split),
      out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())),
      donate_argnums=_donated(),
    )

  jitted, jitted_repeat = compiled(step, one), compiled(_repeat(step), stack)
  return (
    lambda state, batch: jitted(state, _place(batch, one)),
    lambda state, batches: jitted_repeat(state, _place(_stack(batches), stack)),
  )


def _pmap_steps(step: Callable, shardings: PyTree, mesh: Mesh) -> tuple[Callable, Callable]:
  """(train_step, train_steps) by `pmap`: reductions are explicit, the state keeps its global form."""

  def by_field(carry, rest):  # None in `in_axes`: every device gets the whole array
    names = (field.name for field in dataclasses.fields(shardings))
    return type(shardings)(**{name: carry if name == "carry" else rest for name in names})

  axes = by_field(0, None)

  def fold(tree, axis):  # [..., B, ...] -> [..., D, B/D, ...]
    return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], mesh.size, -1, *x.shape[axis + 1 :]), tree)

  def unfold(tree):  # [D, B/D, ...] -> [B, ...]
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

  def reduced(fn):
    def run(state, batch):
      with _under_axis(DATA):
        state, metrics = fn(state, batch)
      return state, jax.lax.psum(metrics, DATA)

    return run

  def mapped(fn, batch_axis):
    split = NamedSharding(mesh, PartitionSpec(*(None,) * batch_axis, DATA))
    program = jax.pmap(
      reduced(fn),
      axis_name=DATA,
      in_axes=(axes, batch_axis),
      out_axes=(axes, None),
      devices=None if jax.process_count() > 1 else list(mesh.devices.flat),
      donate_argnums=_donated(),
    )

    def run(state, batch):
      state = state.replace(carry=fold(state.carry, 0))
      state, metrics = program(state, _place(fold(batch, batch_axis), split))
      if jax.process_count() > 1:  # what pmap returns is local to a process
        specs = by_field(PartitionSpec(DATA), PartitionSpec())
        state = multihost_utils.host_local_array_to_global_array(state, mesh, specs)
      return state.replace(carry=unfold(state.carry)), metrics

    return run

  one, stack = mapped(step, 0), mapped(_repeat(step), 1)
  return one, lambda state, batches: stack(state, _stack(batches))
