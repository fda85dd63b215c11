"""Weights from any file into any model here, and out again: the one door to this package.

A file is read by what is in it, whatever it is called; whose names it has is found by trying all that are known
for the class of the model.
"""

import contextlib
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import flax.linen as nn
import numpy as np
from absl import logging

from dlcourse.errors import UserError
from dlcourse.interop.fill import Naming, fill, paths_of, take
from dlcourse.interop.h5_file import keras_weights, own_arrays
from dlcourse.interop.hugging_face import (
  LABELS,
  TRANSFORMERS,
  as_hugging_face,
  from_hugging_face,
  hugging_face_naming,
)
from dlcourse.interop.keras_names import as_keras, keras_naming
from dlcourse.interop.limited import read_h5_limited
from dlcourse.interop.safetensors_file import read_safetensors
from dlcourse.interop.torch_file import read_torch
from dlcourse.interop.torch_names import as_torch, torch_naming
from dlcourse.models.alexnet import AlexNet
from dlcourse.models.densenet import DenseNet
from dlcourse.models.efficientnet import EfficientNet
from dlcourse.models.googlenet import GoogLeNet
from dlcourse.models.mobilenet_v2 import MobileNetV2
from dlcourse.models.resnet import ResNet
from dlcourse.models.vgg import VGGNet

Kind = Literal["h5", "torch", "safetensors"]
Style = Literal["flat", "keras", "torch"]
DIGEST = "dlcourse_digest"  # name of a text about a file, see `digest_of`

# Class of a model -> its families in Keras and in PyTorch.
_FAMILIES: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
  AlexNet: ("alexnet", ("alexnet",)),
  VGGNet: ("vgg", ("vgg",)),
  GoogLeNet: ("googlenet", ("googlenet",)),
  ResNet: ("resnet", ("resnet",)),
  DenseNet: ("densenet", ("densenet",)),
  MobileNetV2: ("mobilenet_v2", ("mobilenet_v2", "efficientnet")),  # timm has both of one kind
  EfficientNet: ("efficientnet", ("efficientnet", "efficientnet_pytorch", "efficientnet_torchvision")),
}
_ACCEPTED = "Keras's .h5 and .weights.h5, PyTorch's state_dict and .safetensors are read"


def read_weights(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a weight file by the names that they have there.

  Raises:
    UserError: it is of no kind that is read, is damaged, or holds something else than arrays.
  """
  return read_file(path)[0]


def read_file(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """The arrays of a weight file, and the texts about it; where there is a digest of both, they have it.

  Raises:
    UserError: as `read_weights`.
  """
  texts: dict[str, str] = {}
  match kind_of(path):
    case "h5":
      arrays, texts = read_h5_limited(path)
      arrays = own_arrays(arrays) or keras_weights(arrays)
    case "torch":
      arrays = read_torch(path)
    case "safetensors":
      arrays, texts = read_safetensors(path)
  if texts.get(DIGEST) not in (None, digest_of(arrays, texts)):
    raise UserError(f"{path} is damaged: its digest is another than that of what was written; fetch it again")
  return arrays, texts


def digest_of(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
  """What a file says as its text `DIGEST`, by which damage shows: SHA-256 of its arrays and other texts.

  It shows no forgery: who changes a file can write a digest that fits.
  """
  others = {name: text for name, text in texts.items() if name != DIGEST}
  digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
  for name in sorted(arrays):
    array = np.asarray(arrays[name])
    digest.update(f"{name} {array.dtype} {array.shape}\n".encode(errors="backslashreplace"))
    digest.update(array.tobytes())
  return digest.hexdigest()


def kind_of(path: pathlib.Path) -> Kind:
  """The kind of a weight file, by its content.

  Raises:
    UserError: it cannot be read, or is of no kind that is.
  """
  try:
    with open(path, "rb") as file:
      start = file.read(16)
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}") from error
  if start.startswith(b"\x89HDF\r\n\x1a\n"):
    return "h5"
  if start[8:9] == b"{":  # before pickles: a header of 128 bytes begins as they do, and none of them has this
    return "safetensors"
  # A pickle of any protocol since 2, or a zip file.
  if start.startswith(b"\x80") or (start.startswith(b"PK") and not _is_other_zip(path)):
    return "torch"
  raise UserError(f"{path} is no weight file that is known: {_ACCEPTED}")


def fill_model(
  model: nn.Module,
  variables: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
  source: str,
  strict: bool = True,
  without: Collection[str] = (),
) -> dict[str, Any]:
  """The variables of a model, with the arrays of a file.

  Args:
    model: any; the names of other frameworks are known for the classic networks, BERT, GPT-2 and T5.
    variables: of the model, or their shapes alone if all are filled: {collection: tree}.
    arrays: as `read_weights` returns them, or as `weights_of` does.
    source: where they come from, for messages.
    strict: whether everything has to fit; else what does not is left as it is, with a warning.
    without: layers of the model, such as "output", that stay as they are, whatever the file has for them.

  Raises:
    UserError: the names are nobody's, or arrays are missing, left over, or of another shape.
  """
  namings = _namings(model, variables)
  best = max(namings, key=lambda naming: _known(naming, arrays))
  if not _known(best, arrays):
    example = f" {next(iter(arrays))!r}" if arrays else ""
    labels = ", ".join(naming.label for naming in namings)
    raise UserError(f"{source} has no name{example} that is one of this model's in {labels}")
  logging.info("%s has the names of %s", source, best.label)
  if best.label in LABELS:
    return from_hugging_face(model, variables, arrays, strict, without, source)
  return fill(variables, arrays, best, strict, without, source)


def weights_of(model: nn.Module, variables: Mapping[str, Any], style: Style = "flat") -> dict[str, np.ndarray]:
  """The arrays of a model by name, to be written to a file: the inverse of `fill_model`.

  Args:
    model: any for the style "flat", else one of the classic networks; for "torch", BERT, GPT-2 and T5 too.
    variables: of the model.
    style: flat: the names here, "params/conv1/kernel"; keras: for `h5_file.write_h5`; torch: of torchvision,
      of timm for EfficientNet, and of `transformers` for Transformers.

  Raises:
    UserError: nobody else has such a network.
  """
  if style == "flat":
    return take(variables, _flat(variables))
  if style == "torch" and isinstance(model, TRANSFORMERS):
    return as_hugging_face(model, variables)
  if type(model) not in _FAMILIES:
    known = (*_FAMILIES, *TRANSFORMERS) if style == "torch" else _FAMILIES
    names = ", ".join(kind.__name__ for kind in known)
    raise UserError(f"only {names} have names in other frameworks; {type(model).__name__} has not")
  keras, torch = _FAMILIES[type(model)]
  if style == "keras":
    return as_keras(keras, variables)
  return as_torch(torch[0], variables)


def _is_other_zip(path: pathlib.Path) -> bool:
  """Whether a zip file is whole and none of PyTorch's, such as Keras's `.keras`."""
  try:
    with zipfile.ZipFile(path) as file:
      return not any(name.endswith("/data.pkl") for name in file.namelist())
  except Exception:  # a file made by somebody else, or cut off: `read_torch` says so
    return False


def _flat(variables: Mapping[str, Any]) -> Naming:
  return Naming("this project", {path: path for path in paths_of(variables)})


def _namings(model: nn.Module, variables: Mapping[str, Any]) -> list[Naming]:
  """All that may be meant by the names of a file for this model."""
  keras, torch = _FAMILIES.get(type(model), (None, ()))
  families: list[tuple[Callable, str | nn.Module]] = [(torch_naming, family) for family in torch]
  families += [(keras_naming, keras)] if keras else []
  namings = [_flat(variables)]
  families += [(hugging_face_naming, model)] if isinstance(model, TRANSFORMERS) else []
  for build, family in families:
    with contextlib.suppress(UserError):  # a variant that they have not, such as one with group norm
      namings.append(build(family, variables))
  return namings


def _known(naming: Naming, arrays: Mapping[str, np.ndarray]) -> int:
  names = set(naming.names.values())
  return sum(naming.renamed(name) in names for name in arrays)
