"""What the layers of the models here are called in PyTorch: torchvision, timm and other packages.

Names only; `torch_names` puts them to use. N blocks are counted through all stages.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dlcourse.errors import unknown

Rule = str | Callable[[re.Match], str]  # how to replace a path that fits a pattern


class Family(NamedTuple):
  """What the layers of a family are called.

  Attributes:
    layers: pattern of a layer's path here -> its name there, as `re.sub` replaces it.
    flat: pattern of a dense layer on flattened maps -> the convolution that the maps come from.
    renamed: pattern of names in files that others have written -> today's name.
    norm: what "norm" in a path becomes.
    library: whose names these are.
  """

  layers: Mapping[str, Rule]
  flat: Mapping[str, str] = {}
  renamed: Mapping[str, str] = {}
  norm: str = "bn"
  library: str = "torchvision"


def family(name: str, counts: tuple[int, ...]) -> Family:
  """A family by its name.

  Args:
    name: a key of `FAMILIES`.
    counts: blocks of each stage, see `fill.block_counts`.

  Raises:
    UserError: the family is unknown.
  """
  if name not in FAMILIES:
    raise unknown("family of PyTorch's networks", name, FAMILIES)
  return FAMILIES[name](counts)


def _alexnet(_: tuple[int, ...]) -> Family:
  return Family(
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
    {"fc6": "conv5"},
  )


def _vgg(counts: tuple[int, ...]) -> Family:
  """torchvision counts convolutions, activations and poolings through all stages."""
  layers: dict[str, Rule] = {"fc6": "classifier.0", "fc7": "classifier.3", "output": "classifier.6"}
  index = 0
  for stage, count in enumerate(counts, 1):
    for i in range(1, count + 1):
      layers[f"conv{stage}_{i}"] = f"features.{index}"
      index += 2  # with its activation
    index += 1  # the pooling
  return Family(layers, {"fc6": f"conv{len(counts)}_{counts[-1]}"} if counts else {})


def _googlenet(_: tuple[int, ...]) -> Family:
  return Family(
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
    {r"(aux\d)/fc": r"\1/conv/conv"},
  )


def _resnet(_: tuple[int, ...]) -> Family:
  return Family(
    {
      "conv1|norm1": r"\g<0>",
      r"conv(\d)_(\d+)/(conv\d|norm\d)": lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.{m[3]}",
      r"conv(\d)_(\d+)/project": lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.downsample.0",
      r"conv(\d)_(\d+)/norm_project": lambda m: f"layer{int(m[1]) - 1}.{int(m[2]) - 1}.downsample.1",
      "output": "fc",
    }
  )


def _densenet(_: tuple[int, ...]) -> Family:
  return Family(
    {
      "conv1": "features.conv0",
      "norm1": "features.norm0",
      r"dense(\d)_(\d+)/(conv\d|norm\d)": r"features.denseblock\1.denselayer\2.\3",
      r"transition(\d)/(conv|norm)": r"features.transition\1.\2",
      "norm": "features.norm5",
      "output": "classifier",
    },
    # Layers of names with a dot in them, before PyTorch forbade those: the files that torchvision offers.
    renamed={r"(.*\.denselayer\d+\.(?:conv|norm))\.(\d\..*)": r"\1\2"},
    norm="norm",
  )


def _block(counts: tuple[int, ...], match: re.Match) -> int:
  """N of stage{s}_{b}, from 0."""
  return sum(counts[: int(match[1]) - 1]) + int(match[2]) - 1


def _mobilenet_v2(counts: tuple[int, ...]) -> Family:
  parts = {"expand": "0.0", "norm_expand": "0.1", "depthwise": "1.0", "norm_depthwise": "1.1"}
  parts |= {"project": "2", "norm_project": "3"}
  first = {"depthwise": "0.0", "norm_depthwise": "0.1", "project": "1", "norm_project": "2"}
  last = sum(counts) + 1
  return Family(
    {
      "conv1": "features.0.0",
      "norm1": "features.0.1",
      rf"stage(1)_(\d+)/({'|'.join(first)})": lambda m: f"features.{_block(counts, m) + 1}.conv.{first[m[3]]}",
      rf"stage(\d)_(\d+)/({'|'.join(parts)})": lambda m: f"features.{_block(counts, m) + 1}.conv.{parts[m[3]]}",
      "conv2": f"features.{last}.0",
      "norm2": f"features.{last}.1",
      "output": "classifier.1",
    }
  )


def _timm(_: tuple[int, ...]) -> Family:
  """EfficientNet and MobileNetV2 in timm, whose blocks of the first stage have no expansion either."""
  parts = {"expand": "conv_pw", "norm_expand": "bn1", "depthwise": "conv_dw", "norm_depthwise": "bn2"}
  parts |= {
    "squeeze": "se.conv_reduce",
    "excite": "se.conv_expand",
    "project": "conv_pwl",
    "norm_project": "bn3",
  }
  first = {"depthwise": "conv_dw", "norm_depthwise": "bn1", "squeeze": "se.conv_reduce"}
  first |= {"excite": "se.conv_expand", "project": "conv_pw", "norm_project": "bn2"}
  return Family(
    {
      "conv1": "conv_stem",
      "norm1": "bn1",
      rf"stage1_(\d+)/({'|'.join(first)})": lambda m: f"blocks.0.{int(m[1]) - 1}.{first[m[2]]}",
      rf"stage(\d)_(\d+)/({'|'.join(parts)})": lambda m: (
        f"blocks.{int(m[1]) - 1}.{int(m[2]) - 1}.{parts[m[3]]}"
      ),
      "conv2": "conv_head",
      "norm2": "bn2",
      "output": "classifier",
    },
    library="timm",
  )


def _efficientnet_pytorch(counts: tuple[int, ...]) -> Family:
  """Melas-Kyriazi's package, which follows the authors' TensorFlow code; the file of Lite0 has these names."""
  parts = {"expand": "_expand_conv", "norm_expand": "_bn0", "depthwise": "_depthwise_conv"}
  parts |= {"norm_depthwise": "_bn1", "squeeze": "_se_reduce", "excite": "_se_expand"}
  parts |= {"project": "_project_conv", "norm_project": "_bn2"}
  return Family(
    {
      "conv1": "_conv_stem",
      "norm1": "_bn0",
      rf"stage(\d)_(\d+)/({'|'.join(parts)})": lambda m: f"_blocks.{_block(counts, m)}.{parts[m[3]]}",
      "conv2": "_conv_head",
      "norm2": "_bn1",
      "output": "_fc",
    },
    library="efficientnet_pytorch",
  )


def _efficientnet_torchvision(counts: tuple[int, ...]) -> Family:
  parts = {"expand": "0.0", "norm_expand": "0.1", "depthwise": "1.0", "norm_depthwise": "1.1"}
  parts |= {"squeeze": "2.fc1", "excite": "2.fc2", "project": "3.0", "norm_project": "3.1"}
  first = {"depthwise": "0.0", "norm_depthwise": "0.1", "squeeze": "1.fc1", "excite": "1.fc2"}
  first |= {"project": "2.0", "norm_project": "2.1"}
  last = len(counts) + 1
  return Family(
    {
      "conv1": "features.0.0",
      "norm1": "features.0.1",
      rf"stage1_(\d+)/({'|'.join(first)})": lambda m: f"features.1.{int(m[1]) - 1}.block.{first[m[2]]}",
      rf"stage(\d)_(\d+)/({'|'.join(parts)})": lambda m: f"features.{m[1]}.{int(m[2]) - 1}.block.{parts[m[3]]}",
      "conv2": f"features.{last}.0",
      "norm2": f"features.{last}.1",
      "output": "classifier.1",
    }
  )


def _inception_v3(_: tuple[int, ...]) -> Family:
  """The file of TensorFlow's network of 2015 that torch-fidelity and pytorch-fid load."""
  unit = r"(Conv2d_\w+|Mixed_\w+/\w+)/(conv|norm)"
  return Family({unit: lambda m: m[0].replace("/", "."), "output": "fc"}, library="torch-fidelity")


FAMILIES: dict[str, Callable[[tuple[int, ...]], Family]] = {
  "alexnet": _alexnet,
  "vgg": _vgg,
  "googlenet": _googlenet,
  "inception_v3": _inception_v3,
  "resnet": _resnet,
  "densenet": _densenet,
  "mobilenet_v2": _mobilenet_v2,
  "efficientnet": _timm,
  "efficientnet_pytorch": _efficientnet_pytorch,
  "efficientnet_torchvision": _efficientnet_torchvision,
}
