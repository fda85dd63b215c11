"""The weights of PyTorch's networks as those of the models here: names and layouts.

Shapes: I inputs and O outputs of a layer, H x W its kernel, C x S x S the maps that a dense layer sees flat.
"""

import functools
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from dlcourse.errors import UserError
from dlcourse.interop import torch_tables
from dlcourse.interop.fill import Naming, block_counts, fill, paths_of, take

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}
_NOT_NEEDED = r"aux\d\..*|.*\.num_batches_tracked"  # torchvision's files of GoogLeNet hold both


def torch_name(family: str, path: str, counts: tuple[int, ...] = ()) -> str:
  """The key of a `state_dict` for an array of a model here.

  Args:
    family: of torchvision alexnet, vgg, googlenet, resnet, densenet, mobilenet_v2 or
      efficientnet_torchvision; of timm efficientnet, which has MobileNetV2 too; efficientnet_pytorch;
      inception_v3 of torch-fidelity.
    path: within its collection: "conv2_1/conv1/kernel".
    counts: blocks of each stage, for families that count through all of them, see `fill.block_counts`.

  Raises:
    UserError: the family is unknown, or its networks have no such array.
  """
  return _name(torch_tables.family(family, counts), family, path)


def _name(known: torch_tables.Family, family: str, path: str) -> str:
  layer, _, leaf = path.rpartition("/")
  for pattern, replacement in known.layers.items():
    if re.fullmatch(pattern, layer) and leaf in _LEAVES:
      name = re.sub(pattern, replacement, layer).replace("norm", known.norm)
      return f"{name}.{_LEAVES[leaf]}"
  raise UserError(f"{known.library}'s {family} has nothing that could be {path!r}")


def to_flax(array: np.ndarray, side: int | None = None) -> np.ndarray:
  """An array of torch in the layout of Flax: [O, I, H, W] -> [H, W, I, O]; [O, I] -> [I, O]; others stay.

  Args:
    array: weights, biases or statistics.
    side: S, where a dense layer sees flattened maps: torch has them as C, S, S and Flax as S, S, C.
  """
  if array.ndim == 2 and side and array.shape[1] % side**2 == 0:  # else it is of another network
    outputs, inputs = array.shape
    maps = array.reshape(outputs, inputs // side**2, side, side)
    return maps.transpose(2, 3, 1, 0).reshape(inputs, outputs)
  if array.ndim == 2:
    return array.T
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def to_torch(array: np.ndarray, side: int | None = None) -> np.ndarray:
  """The inverse of `to_flax`."""
  if array.ndim == 2 and side:
    inputs, outputs = array.shape
    maps = array.reshape(side, side, inputs // side**2, outputs)
    return maps.transpose(3, 2, 0, 1).reshape(outputs, inputs)
  if array.ndim == 2:
    return array.T
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def torch_naming(family: str, variables: Mapping[str, Any]) -> Naming:
  """Names and layouts of a model's arrays in PyTorch.

  Args:
    family: see `torch_name`.
    variables: of the model, or their shapes alone: {collection: tree}.

  Raises:
    UserError: the family is unknown, or its networks have not all of these arrays.
  """
  known = torch_tables.family(family, block_counts(variables))
  sides = _sides(known, variables)
  return Naming(
    label=f"{known.library}'s {family}",
    names={path: _name(known, family, path.partition("/")[2]) for path in paths_of(variables)},
    to_flax=lambda path, x: to_flax(x, sides.get(path)),
    to_other=lambda path, x: to_torch(x, sides.get(path)),
    spare=_NOT_NEEDED,
    renamed=functools.partial(_renamed, known.renamed),
  )


def from_torch(
  family: str,
  variables: Mapping[str, Any],
  state: Mapping[str, Any],
  strict: bool = True,
  without: Collection[str] = (),
) -> dict[str, Any]:
  """The variables of a model, with the weights of a `state_dict`.

  Args:
    family: see `torch_name`.
    variables: of the model, or their shapes alone: {collection: tree}.
    state: key -> array.
    strict: see `fill.fill`.
    without: see `fill.fill`.

  Raises:
    UserError: arrays are missing, left over, or of another shape.
  """
  return fill(variables, state, torch_naming(family, variables), strict, without)


def as_torch(family: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """A `state_dict` of a model's variables: the inverse of `from_torch`."""
  return take(variables, torch_naming(family, variables))


def _sides(known: torch_tables.Family, variables: Mapping[str, Any]) -> dict[str, int]:
  """S by the path of each kernel of a dense layer that sees flattened maps."""
  paths, sides = paths_of(variables), {}
  for path, leaf in paths.items():
    layer = path.partition("/")[2].removesuffix("/kernel")
    for pattern, source in known.flat.items():
      if re.fullmatch(pattern, layer):
        maps = paths[f"params/{re.sub(pattern, source, layer)}/kernel"].shape[-1]
        sides[path] = math.isqrt(leaf.shape[0] // maps)
  return sides


def _renamed(rules: Mapping[str, str], name: str) -> str:
  for pattern, replacement in rules.items():
    name = re.sub(pattern, replacement, name)
  return name
