"""What each layer of a network costs and sees (H2.10.2, table 9.3 of H2), for any network that can run.

Models declare nothing: what a function runs is watched and traced, see `trace.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from dlcourse import platform
from dlcourse.models.trace import Call, Layer, PyTree, Trace, name_of


def summarise(function: Callable, *args: Any) -> list[Layer]:
  """The layers of every network that a function runs, in the order in which they work; by shapes alone.

  A layer is a module that has parameters or multiplies, or a pooling. Modules that only hold weights for
  another (the gates of an LSTM cell) are a part of it, and what a scan repeats counts as often.

  Args:
    function: calls `init` (of models, of a task) or `apply`.
    *args: arrays or their shapes; of what a network takes, the first axis is the batch.
  """
  calls: list[Call] = []
  names: dict[int, str] = {}

  def watched(*args):
    with nn.intercept_methods(_recorder(calls)):
      out = function(*args)
    names.update(_network_names(calls, out))
    return out

  with platform.plain_formulas():
    jax.eval_shape(watched, *args)
    traces: dict[int, Trace] = {}
    for call in calls:
      traces.setdefault(id(call.root), Trace()).follow(call)
  several = len(traces) > 1
  return [
    layer
    for key, trace in traces.items()
    for layer in trace.layers(names.get(key, trace.kind if several else ""))
  ]


def _recorder(calls: list[Call]) -> Callable:
  """An interceptor that notes the outermost calls."""
  inside = False

  def record(call, args, kwargs, context):
    nonlocal inside
    module = context.module
    if inside or module.scope is None or context.method_name == "setup":
      return call(*args, **kwargs)
    inside = True
    try:
      out = call(*args, **kwargs)
    finally:
      inside = False
    clone = module.clone(parent=None)
    inputs, variables = (args, kwargs), module.variables
    calls.append(Call(module.scope.root, module.path, clone, context.method_name, inputs, variables))
    return out

  return record


def _network_names(calls: Sequence[Call], out: PyTree) -> dict[int, str]:
  """id(root) -> where a network's parameters stand in the function's result, for those that do."""
  owners = {}
  for call in calls:
    for path, leaf in jax.tree_util.tree_leaves_with_path(call.variables.get("params", {})):
      owners[id(leaf)] = (id(call.root), len(call.path) + len(path))
  names: dict[int, str] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(out):
    if id(leaf) in owners:
      root, depth = owners[id(leaf)]
      before = [name_of(path[i : i + 1]) for i in range(len(path) - depth)]
      names.setdefault(root, "/".join(name for name in before if name != "params"))
  return names
