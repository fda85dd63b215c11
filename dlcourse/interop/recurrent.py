"""Recurrent layers of PyTorch and Keras as those of a `RecurrentStack`, and back.

A stack's variables say by their shapes which cell it has. Gates lie in the order i, f, C~, o in all three;
those of a GRU in the order r, z, h~ here and in PyTorch, and z, r, h~ in Keras. Here h~ has arrays of its own.

Shapes: D inputs, H hidden, G gates.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dlcourse.errors import UserError
from dlcourse.interop.fill import Naming, fill, paths_of, take

Layer = Mapping[str, Mapping[str, Any]]

_TORCH = {
  "input/kernel": "weight_ih",
  "recurrent/kernel": "weight_hh",
  "input/bias": "bias_ih",
  "recurrent/bias": "bias_hh",
}
_DIRECTIONS = ("forward", "backward")


def from_torch(variables: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
  """The variables of a stack, with the weights of `torch.nn.RNN`, `LSTM` or `GRU`.

  PyTorch has two biases a gate; where the cell has one, it becomes their sum.

  Args:
    variables: of the stack, or their shapes alone: {"params": {"forward_0": …}}.
    state: a `state_dict` as arrays.

  Raises:
    UserError: arrays are missing, left over, or of another shape, or PyTorch has no such cell.
  """
  joined, state = _joined(variables), dict(state)
  naming = _torch_naming(joined)
  for first, second in _second_biases(naming).items():
    if first in state and np.shape(state[first]) == np.shape(state.get(second)):
      state[first] = np.asarray(state[first]) + np.asarray(state.pop(second))
  return _parted(variables, fill(joined, state, naming))


def as_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """A `state_dict` of a stack's variables: the inverse of `from_torch`; a bias that the cell has not is 0.

  Raises:
    UserError: they are no stack's, or PyTorch has no such cell.
  """
  joined = _joined(variables)
  naming = _torch_naming(joined)
  state = take(joined, naming)
  return state | {second: np.zeros_like(state[first]) for first, second in _second_biases(naming).items()}


def _torch_naming(joined: Mapping[str, Any]) -> Naming:
  if any(_gates(layer) == 3 and "bias" not in layer["recurrent"] for layer in joined["params"].values()):
    raise UserError("torch.nn has no GRU that resets before the product (cell=gru_original); cell=gru it has")

  def name(path):
    direction, number, array = re.fullmatch(r"params/(\w+)_(\d+)/(.+)", path).groups()
    return f"{_TORCH[array]}_l{number}" + ("_reverse" if direction == "backward" else "")

  def transposed(path, array):
    del path
    return array.T  # a bias is its own

  names = {path: name(path) for path in paths_of(joined)}
  return Naming("torch.nn's recurrent layers", names, transposed, transposed)


def _second_biases(naming: Naming) -> dict[str, str]:
  """Names in PyTorch of a bias, and of the one beside it that the cell has not."""
  names = set(naming.names.values())
  pairs = {name: name.replace("bias_ih", "bias_hh") for name in names if "bias_ih" in name}
  return {first: second for first, second in pairs.items() if second not in names}


def from_keras(variables: Mapping[str, Any], layers: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
  """The variables of a stack, with the weights of Keras's `SimpleRNN`, `LSTM` or `GRU` layers.

  Args:
    variables: of the stack, or their shapes alone: {"params": {"forward_0": …}}.
    layers: `get_weights()` of each layer from the first: kernel [D, G H], recurrent_kernel [H, G H] and bias
      [G H], or [2, G H] in a GRU with `reset_after`; of a `Bidirectional` those of both directions in one list.

  Raises:
    UserError: the layers are not those of the stack, or their arrays have other shapes.
  """
  expected = [[x.shape for x in layer] for layer in as_keras(variables)]
  found = [[np.shape(x) for x in layer] for layer in layers]
  if found != expected:
    raise UserError(f"these weights are not those of the model: shapes {found} where it has {expected}")
  params = {
    f"{direction}_{number}": _from_keras(*layer[3 * i : 3 * i + 3])
    for number, layer in enumerate(layers)
    for i, direction in enumerate(_DIRECTIONS[: len(layer) // 3])
  }
  return _parted(variables, {"params": params})


def as_keras(variables: Mapping[str, Any]) -> list[list[np.ndarray]]:
  """The weights of a stack as `set_weights` of each layer of Keras takes them: the inverse of `from_keras`.

  Raises:
    UserError: they are no stack's.
  """
  params = _joined(variables)["params"]
  return [
    [
      array
      for direction in _DIRECTIONS
      if (name := f"{direction}_{number}") in params
      for array in _as_keras(params[name])
    ]
    for number in range(sum(name.startswith("forward") for name in params))
  ]


def _from_keras(kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> Layer:
  gates = np.shape(kernel)[1] // np.shape(recurrent)[0]
  kernel, recurrent, bias = (_swapped(gates, np.asarray(x)) for x in (kernel, recurrent, bias))
  if bias.ndim == 1:
    return {"input": {"kernel": kernel, "bias": bias}, "recurrent": {"kernel": recurrent}}
  return {
    "input": {"kernel": kernel, "bias": bias[0]},
    "recurrent": {"kernel": recurrent, "bias": bias[1]},
  }


def _as_keras(layer: Layer) -> list[np.ndarray]:
  bias = layer["input"]["bias"]
  if "bias" in layer["recurrent"]:
    bias = np.stack([bias, layer["recurrent"]["bias"]])
  return [_swapped(_gates(layer), x) for x in (layer["input"]["kernel"], layer["recurrent"]["kernel"], bias)]


def _gates(layer: Layer) -> int:
  hidden, width = layer["recurrent"]["kernel"].shape
  return width // hidden


def _swapped(gates: int, array: np.ndarray) -> np.ndarray:
  """[..., G H] with the first two of a GRU's three gates in each other's place."""
  if gates != 3:
    return array
  first, second, candidate = np.split(array, 3, axis=-1)
  return np.concatenate([second, first, candidate], axis=-1)


def _joined(variables: Mapping[str, Any]) -> dict[str, Any]:
  """With the candidate of a GRU beside its gates, as everybody else has it; of shapes, arrays of 0."""
  params = variables["params"]
  if not params or any(not re.fullmatch(r"(forward|backward)_\d+", name) for name in params):
    raise UserError(
      f"expected the variables of a recurrent stack, got the layers {', '.join(params) or 'none'}"
    )

  def joined(layer, name):
    parts = [layer[part] for part in (name, f"{name}_candidate") if part in layer]
    return jax.tree.map(lambda *arrays: np.concatenate([_array(x) for x in arrays], axis=-1), *parts)

  return {
    "params": {
      path: {name: joined(layer, name) for name in ("input", "recurrent")} for path, layer in params.items()
    }
  }


def _array(leaf: Any) -> np.ndarray:
  return np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else np.asarray(leaf)


def _parted(variables: Mapping[str, Any], joined: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `_joined`, for arrays with the shapes of `variables`."""

  def part(path, leaf):
    layer, name, weight = (key.key for key in path)
    array = joined["params"][layer][name.removesuffix("_candidate")][weight]
    width = leaf.shape[-1]
    return (array[..., -width:] if name.endswith("_candidate") else array[..., :width]).astype(leaf.dtype)

  return {"params": jax.tree_util.tree_map_with_path(part, variables["params"])}
