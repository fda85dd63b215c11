"""The weights of keras.applications as those of the models here: names and layouts.

Shapes: H x W a kernel, C its channels.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlcourse.errors import UserError, unknown
from dlcourse.interop.fill import fill, take
from dlcourse.models.mobilenet_v2 import MOBILENET_V2

_PREPARATION = r"normalization/.*"  # of EfficientNet's images, which is part of the data here
_LEAVES = {
  "kernel": "kernel",
  "bias": "bias",
  "scale": "gamma",
  "mean": "moving_mean",
  "var": "moving_variance",
}


def _inverted_residual(match: re.Match) -> str:
  """Keras counts the blocks of MobileNetV2 through all stages, from 0, and calls that one otherwise."""
  block = sum(MOBILENET_V2.depths[: int(match[1]) - 1]) + int(match[2]) - 1
  suffix = "_BN" if match[3] else ""
  return f"block_{block}_{match[4]}{suffix}" if block else f"expanded_conv_{match[4]}{suffix}"


def _mbconv(match: re.Match) -> str:
  """Keras letters the blocks of a stage of EfficientNet."""
  part = {
    "expand": "expand_conv",
    "norm_expand": "expand_bn",
    "depthwise": "dwconv",
    "norm_depthwise": "bn",
    "squeeze": "se_reduce",
    "excite": "se_expand",
    "project": "project_conv",
    "norm_project": "project_bn",
  }[match[3]]
  return f"block{match[1]}{chr(ord('a') + int(match[2]) - 1)}_{part}"


# Pattern of a layer's path here -> its name in Keras, as `re.sub` replaces it.
_FAMILIES: dict[str, Mapping[str, str | Callable[[re.Match], str]]] = {
  "vgg": {
    r"conv(\d)_(\d)": r"block\1_conv\2",
    "fc6": "fc1",
    "fc7": "fc2",
  },
  "resnet": {
    "conv1": "conv1_conv",
    "norm1": "conv1_bn",
    r"conv(\d)_(\d+)/conv(\d)": r"conv\1_block\2_\3_conv",
    r"conv(\d)_(\d+)/norm(\d)": r"conv\1_block\2_\3_bn",
    r"conv(\d)_(\d+)/project": r"conv\1_block\2_0_conv",
    r"conv(\d)_(\d+)/norm_project": r"conv\1_block\2_0_bn",
  },
  "densenet": {
    "conv1": "conv1_conv",
    "norm1": "conv1_bn",
    r"dense(\d)_(\d+)/norm(\d)": lambda m: f"conv{int(m[1]) + 1}_block{m[2]}_{int(m[3]) - 1}_bn",
    r"dense(\d)_(\d+)/conv(\d)": lambda m: f"conv{int(m[1]) + 1}_block{m[2]}_{m[3]}_conv",
    r"transition(\d)/norm": lambda m: f"pool{int(m[1]) + 1}_bn",
    r"transition(\d)/conv": lambda m: f"pool{int(m[1]) + 1}_conv",
    "norm": "bn",
  },
  "mobilenet_v2": {
    "conv1": "Conv1",
    "norm1": "bn_Conv1",
    r"stage(\d)_(\d)/(norm_)?(expand|depthwise|project)": _inverted_residual,
    "conv2": "Conv_1",
    "norm2": "Conv_1_bn",
  },
  "efficientnet": {
    "conv1": "stem_conv",
    "norm1": "stem_bn",
    r"stage(\d)_(\d+)/((?:norm_)?(?:expand|depthwise|project)|squeeze|excite)": _mbconv,
    "conv2": "top_conv",
    "norm2": "top_bn",
  },
}


def keras_name(family: str, path: str) -> str:
  """The path of a weight of keras.applications for an array of a model here: "conv2_block1_1_bn/gamma".

  Files of Keras 2 call the kernel of a depthwise convolution `depthwise_kernel`, where Keras 3 has `kernel`.

  Args:
    family: vgg, resnet, densenet, mobilenet_v2 or efficientnet.
    path: within its collection: "conv2_1/norm1/scale".

  Raises:
    UserError: the family is unknown, or Keras's networks of it have no such array.
  """
  if family not in _FAMILIES:
    raise unknown("family of Keras's networks", family, _FAMILIES)
  layer, _, leaf = path.rpartition("/")
  for pattern, replacement in {**_FAMILIES[family], "output": "predictions"}.items():
    if re.fullmatch(pattern, layer) and leaf in _LEAVES:
      beta = leaf == "bias" and "norm" in layer
      return f"{re.sub(pattern, replacement, layer)}/{'beta' if beta else _LEAVES[leaf]}"
  raise UserError(f"Keras's {family} has nothing that could be {path!r}; change what differs in the model")


def swap_depthwise(path: str, array: np.ndarray) -> np.ndarray:
  """Keras's layout to Flax's and back: a depthwise kernel [H, W, C, 1] <-> [H, W, 1, C]; others stay.

  Args:
    path: of the array here.
    array: weights, biases or statistics.
  """
  return array.swapaxes(2, 3) if path.endswith("depthwise/kernel") else array


def from_keras(family: str, variables: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
  """The variables of a model, with weights of keras.applications.

  Args:
    family: see `keras_name`.
    variables: of the model, or their shapes alone: {collection: tree}.
    state: "layer/weight" -> array, see `h5_file.keras_weights`.

  Raises:
    UserError: arrays are missing, left over, or of another shape.
  """
  return fill(variables, state, functools.partial(keras_name, family), swap_depthwise, _PREPARATION)


def as_keras(family: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The weights of a model as keras.applications names them: the inverse of `from_keras`."""
  return take(variables, functools.partial(keras_name, family), swap_depthwise)
