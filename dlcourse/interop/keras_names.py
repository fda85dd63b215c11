"""The weights of keras.applications as those of the models here: names and layouts.

Shapes: H x W a kernel, C its channels.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from dlcourse.errors import UserError, unknown
from dlcourse.interop.fill import Naming, block_counts, fill, paths_of, take

_PREPARATION = r"normalization(_\d+)?/.*"  # of EfficientNet's images, which is part of the data here
_LEAVES = {  # in the order of Keras's files: what is trained first
  "kernel": "kernel",
  "scale": "gamma",
  "bias": "bias",
  "mean": "moving_mean",
  "var": "moving_variance",
}
Rule = str | Callable[[re.Match, tuple[int, ...]], str]  # how to replace a path; the second: blocks by stage


def _inverted_residual(match: re.Match, counts: tuple[int, ...]) -> str:
  """Keras counts the blocks of MobileNetV2 through all stages, from 0, and calls that one otherwise."""
  block = sum(counts[: int(match[1]) - 1]) + int(match[2]) - 1
  suffix = "_BN" if match[3] else ""
  return f"block_{block}_{match[4]}{suffix}" if block else f"expanded_conv_{match[4]}{suffix}"


def _mbconv(match: re.Match, _: tuple[int, ...]) -> str:
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
_FAMILIES: dict[str, Mapping[str, Rule]] = {
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
    r"dense(\d)_(\d+)/norm(\d)": lambda m, _: f"conv{int(m[1]) + 1}_block{m[2]}_{int(m[3]) - 1}_bn",
    r"dense(\d)_(\d+)/conv(\d)": lambda m, _: f"conv{int(m[1]) + 1}_block{m[2]}_{m[3]}_conv",
    r"transition(\d)/norm": lambda m, _: f"pool{int(m[1]) + 1}_bn",
    r"transition(\d)/conv": lambda m, _: f"pool{int(m[1]) + 1}_conv",
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
  # keras.applications has not these two: their layers are called there as here.
  "alexnet": {r"(conv|norm|fc)\d": r"\g<0>"},
  "googlenet": {r"(conv\d|inception|aux\d)\w*(/\w+)*": lambda m, _: m[0].replace("/", "_")},
}

# Keras's files are in the order of its layers. Where that is not the order in which a block computes:
_PARTS = {
  "vgg": (),
  "resnet": ("conv1", "norm1", "conv2", "norm2", "project", "conv3", "norm_project", "norm3"),
  "densenet": ("norm1", "conv1", "norm2", "conv2", "norm", "conv"),
  "mobilenet_v2": ("expand", "norm_expand", "depthwise", "norm_depthwise", "project", "norm_project"),
}
_PARTS["efficientnet"] = (*_PARTS["mobilenet_v2"][:4], "squeeze", "excite", *_PARTS["mobilenet_v2"][4:])
_ENDS = ("conv1", "norm1", "blocks", "norm", "conv2", "norm2", "fc6", "fc7", "output")

# What earlier versions wrote: the classifier, the layers of DenseNet and of the first ResNet50.
_CLASSIFIERS = r"fc1000|probs|logits|Logits"
_RESNET_BRANCH = r"(res|bn)(\d)([a-z])_branch(1|2a|2b|2c)"


def keras_name(family: str, path: str, counts: tuple[int, ...] = ()) -> str:
  """The path of a weight of keras.applications for an array of a model here: "conv2_block1_1_bn/gamma".

  Args:
    family: vgg, resnet, densenet, mobilenet_v2, efficientnet; alexnet or googlenet, which are not in Keras.
    path: within its collection: "conv2_1/norm1/scale".
    counts: blocks of each stage, for MobileNetV2, see `fill.block_counts`.

  Raises:
    UserError: the family is unknown, or Keras's networks of it have no such array.
  """
  if family not in _FAMILIES:
    raise unknown("family of Keras's networks", family, _FAMILIES)
  layer, _, leaf = path.rpartition("/")
  for pattern, rule in {"output": "predictions", **_FAMILIES[family]}.items():
    match = re.fullmatch(pattern, layer)
    if match and leaf in _LEAVES:
      beta = leaf == "bias" and "norm" in layer
      name = match.expand(rule) if isinstance(rule, str) else rule(match, counts)
      return f"{name}/{'beta' if beta else _LEAVES[leaf]}"
  raise UserError(f"Keras's {family} has nothing that could be {path!r}; change what differs in the model")


def swap_depthwise(path: str, array: np.ndarray) -> np.ndarray:
  """Keras's layout to Flax's and back: a depthwise kernel [H, W, C, 1] <-> [H, W, 1, C]; others stay.

  Args:
    path: of the array here.
    array: weights, biases or statistics.
  """
  return array.swapaxes(2, 3) if path.endswith("depthwise/kernel") and array.ndim == 4 else array


def keras_naming(family: str, variables: Mapping[str, Any]) -> Naming:
  """Names and layouts of a model's arrays in Keras, in the order of Keras's layers.

  Args:
    family: see `keras_name`.
    variables: of the model, or their shapes alone: {collection: tree}.

  Raises:
    UserError: the family is unknown, or Keras's networks of it have not all of these arrays.
  """
  counts, ours = block_counts(variables), paths_of(variables)
  names = {path: keras_name(family, path.partition("/")[2], counts) for path in _sorted(family, ours)}
  indexed = _indexed({name: len(ours[path].shape) for path, name in names.items()})
  return Naming(
    label=f"Keras's {family}",
    names=names,
    to_flax=swap_depthwise,
    to_other=swap_depthwise,
    spare=_PREPARATION,
    renamed=lambda name: indexed.get(name) or _todays(name),
  )


def from_keras(
  family: str,
  variables: Mapping[str, Any],
  state: Mapping[str, Any],
  strict: bool = True,
  without: Collection[str] = (),
) -> dict[str, Any]:
  """The variables of a model, with weights of keras.applications.

  Args:
    family: see `keras_name`.
    variables: of the model, or their shapes alone: {collection: tree}.
    state: "layer/weight" -> array, see `h5_file.keras_weights`; names of earlier versions of Keras too.
    strict: see `fill.fill`.
    without: see `fill.fill`.

  Raises:
    UserError: arrays are missing, left over, or of another shape.
  """
  return fill(variables, state, keras_naming(family, variables), strict, without)


def as_keras(family: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The weights of a model as keras.applications names and orders them: the inverse of `from_keras`.

  EfficientNet's begin with a normalisation of images that changes nothing: Keras's network then divides them by
  255 and no more.
  """
  weights = take(variables, keras_naming(family, variables))
  if family != "efficientnet":
    return weights
  identity = {"mean": np.zeros(3, np.float32), "variance": np.ones(3, np.float32), "count": np.int32(0)}
  return {f"normalization/{name}": np.asarray(value) for name, value in identity.items()} | weights


def _sorted(family: str, paths: Collection[str]) -> list[str]:
  """Arrays as Keras sorts them: layers in the order of the network, in each what is trained first."""
  layers = dict.fromkeys(path.partition("/")[2].rpartition("/")[0] for path in paths)
  if family in _PARTS:
    layers = dict.fromkeys(sorted(layers, key=functools.partial(_position, _PARTS[family])))
  place = {layer: i for i, layer in enumerate(layers)}

  def key(path):
    layer, _, leaf = path.partition("/")[2].rpartition("/")
    return place[layer], list(_LEAVES).index(leaf) if leaf in _LEAVES else 0

  return sorted(paths, key=key)


def _position(parts: tuple[str, ...], layer: str) -> tuple[int, ...]:
  block, _, part = layer.partition("/")
  if block in _ENDS or not re.search(r"\d", block):
    return (_ENDS.index(block) if block in _ENDS else 0,)
  stage, number = re.findall(r"\d+", block) if "_" in block else (re.sub(r"\D", "", block), "999")
  return (_ENDS.index("blocks"), int(stage), int(number), parts.index(part) if part in parts else 0)


def _indexed(names: Mapping[str, int]) -> dict[str, str]:
  """What a `.weights.h5` without the names of its layers calls each of these: "conv2d_3/kernel" -> its name.

  Keras counts the layers of each class, in their order.

  Args:
    names: name in Keras -> number of its axes, in the order of the layers.
  """
  kernels = {name.rpartition("/")[0]: axes for name, axes in names.items() if name.endswith("/kernel")}
  seen: Counter[str] = Counter()
  classes: dict[str, str] = {}
  for layer in dict.fromkeys(name.rpartition("/")[0] for name in names):
    kind = {2: "dense", 4: "conv2d"}.get(kernels.get(layer, 0), "batch_normalization")
    if kind == "conv2d" and layer.endswith(("depthwise", "dwconv")):
      kind = "depthwise_conv2d"
    classes[layer] = f"{kind}_{seen[kind]}" if seen[kind] else kind
    seen[kind] += 1
  return {f"{classes[name.rpartition('/')[0]]}/{name.rpartition('/')[2]}": name for name in names}


def _todays(name: str) -> str:
  """The name that Keras 3 has for what an earlier version wrote."""
  layer, _, weight = name.rpartition("/")
  layer = layer.replace("/", "_")  # DenseNet's conv1/bn
  if match := re.fullmatch(_RESNET_BRANCH, layer):
    kind = {"res": "conv", "bn": "bn"}[match[1]]
    part = {"1": 0, "2a": 1, "2b": 2, "2c": 3}[match[4]]
    layer = f"conv{match[2]}_block{ord(match[3]) - ord('a') + 1}_{part}_{kind}"
  elif re.fullmatch(_CLASSIFIERS, layer):
    layer = "predictions"
  return f"{layer}/{'kernel' if weight == 'depthwise_kernel' else weight}"
