"""The weights of torchvision's networks as those of the models here: names and layouts.

Shapes: I inputs and O outputs of a layer, H x W its kernel, C x S x S the maps that a dense layer sees flat.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dlcourse.errors import UserError, unknown
from dlcourse.interop.fill import fill, take
from dlcourse.models.vgg import VGG

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}
_NOT_NEEDED = r"aux\d\..*|.*\.num_batches_tracked"  # torchvision's files of GoogLeNet hold both


class _Family(NamedTuple):
  """What the layers of a family are called in torchvision.

  Attributes:
    layers: pattern of a layer's path here -> its name there, as `re.sub` replaces it; `norm` becomes `bn`.
    sides: pattern of a dense layer on flattened maps -> S.
  """

  layers: Mapping[str, str | Callable[[re.Match], str]]
  sides: Mapping[str, int] = {}


def _vgg(depths: tuple[int, ...]) -> _Family:
  """torchvision counts convolutions, activations and poolings through all stages."""
  layers, index = {"fc6": "classifier.0", "fc7": "classifier.3", "output": "classifier.6"}, 0
  for stage, depth in enumerate(depths, 1):
    for i in range(1, depth + 1):
      layers[f"conv{stage}_{i}"] = f"features.{index}"
      index += 2  # with its activation
    index += 1  # the pooling
  return _Family(layers, {"fc6": 7})


_FAMILIES = {
  "alexnet": _Family(
    {
      "conv1": "features.0",
      "conv2": "features.3",
      "conv3": "features.6",
      "conv4": "features.8",
      "conv5": "features.10",
      "fc6": "classifier.1",
      "fc7": "classifier.4",
      "output": "classifier.6",
    },
    {"fc6": 6},
  ),
  **{f"vgg{depth}": _vgg(model.depths) for depth, model in VGG.items()},
  "googlenet": _Family(
    {
      r"conv1/(\w+)": r"conv1.\1",
      r"conv2_reduce/(\w+)": r"conv2.\1",
      r"conv2/(\w+)": r"conv3.\1",
      r"inception_(..)/1x1/(\w+)": r"inception\1.branch1.\2",
      r"inception_(..)/3x3_reduce/(\w+)": r"inception\1.branch2.0.\2",
      r"inception_(..)/3x3/(\w+)": r"inception\1.branch2.1.\2",
      r"inception_(..)/5x5_reduce/(\w+)": r"inception\1.branch3.0.\2",
      r"inception_(..)/5x5/(\w+)": r"inception\1.branch3.1.\2",
      r"inception_(..)/pool_proj/(\w+)": r"inception\1.branch4.1.\2",
      r"(aux\d)/conv/(\w+)": r"\1.conv.\2",
      r"(aux\d)/fc": r"\1.fc1",
      r"(aux\d)/output": r"\1.fc2",
      "output": "fc",
    },
    {r"aux\d/fc": 4},
  ),
  "resnet": _Family(
    {
      "conv1|norm1": r"\g<0>",
      r"conv(\d)_(\d+)/(conv\d|norm\d)": lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.{m[3]}",
      r"conv(\d)_(\d+)/project": lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.downsample.0",
      r"conv(\d)_(\d+)/norm_project": lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.downsample.1",
      "output": "fc",
    }
  ),
}


def torch_name(family: str, path: str) -> str:
  """The key of a torchvision `state_dict` for an array of a model here.

  Args:
    family: alexnet, vgg11, vgg13, vgg16, vgg19, googlenet or resnet.
    path: within its collection: "conv2_1/conv1/kernel".

  Raises:
    UserError: the family is unknown, or torchvision's networks of it have no such array.
  """
  layer, _, leaf = path.rpartition("/")
  for pattern, replacement in _family(family).layers.items():
    if re.fullmatch(pattern, layer) and leaf in _LEAVES:
      name = re.sub(pattern, replacement, layer).replace("norm", "bn")
      return f"{name}.{_LEAVES[leaf]}"
  raise UserError(f"torchvision's {family} has nothing that could be {path!r}")


def to_flax(array: np.ndarray, side: int | None = None) -> np.ndarray:
  """An array of torch in the layout of Flax: [O, I, H, W] -> [H, W, I, O]; [O, I] -> [I, O]; others stay.

  Args:
    array: weights, biases or statistics.
    side: S, where a dense layer sees flattened maps: torch has them as C, S, S and Flax as S, S, C.
  """
  if array.ndim == 2 and side:
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


def from_torch(family: str, variables: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
  """The variables of a model, with the weights of a torchvision `state_dict`.

  Args:
    family: see `torch_name`.
    variables: of the model, or their shapes alone: {collection: tree}.
    state: key -> array.

  Raises:
    UserError: arrays are missing, left over, or of another shape.
  """
  sides = functools.partial(_side, family)
  return fill(
    variables,
    state,
    functools.partial(torch_name, family),
    lambda path, x: to_flax(x, sides(path)),
    _NOT_NEEDED,
  )


def as_torch(family: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """A torchvision `state_dict` of a model's variables: the inverse of `from_torch`."""
  sides = functools.partial(_side, family)
  return take(variables, functools.partial(torch_name, family), lambda path, x: to_torch(x, sides(path)))


def _side(family: str, path: str) -> int | None:
  layer = path.rpartition("/")[0]
  return next((side for pattern, side in _family(family).sides.items() if re.fullmatch(pattern, layer)), None)


def _family(name: str) -> _Family:
  if name not in _FAMILIES:
    raise unknown("family of torchvision's networks", name, _FAMILIES)
  return _FAMILIES[name]
