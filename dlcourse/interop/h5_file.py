"""Reads and writes HDF5 weight files as Keras lays them out, trusting nothing in them.

HDF5 can point to other files, hold a data set of terabytes in a few bytes, and link a group into itself.
What is not a plain array of numbers inside the file, of about the size that the file has, is refused unread.
The library itself ends or hangs on some damaged files: those of others are read by `interop.limited`.
"""

import contextlib
import json
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from dlcourse.errors import UserError, first_line
from dlcourse.whole_file import whole_file

_DEEPEST = 16  # groups in groups
_MOST_COMPRESSED = 20  # weights hardly compress at all
_LONGEST = 200  # characters of a layer's name
_LONGEST_TEXT = 2**21  # bytes
OWN = "dlcourse"  # the group of a model's arrays as they are called here
_DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)  # what h5py then raises
# Keras 2 would convert the weights of a file that states no version.
_KERAS = {"keras_version": "3.0.0", "backend": "jax"}

# Keras 3 numbers the weights of a layer; what they are follows from its class.
_WEIGHTS = {
  "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
  "normalization": ("mean", "variance", "count"),
  "conv2d": ("kernel", "bias"),
  "depthwise_conv2d": ("kernel", "bias"),
  "dense": ("kernel", "bias"),
}


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[h5py.File]:
  """The file to read; what is damaged is one line."""
  try:
    with h5py.File(path, "r", locking=False) as file:
      yield file
  except _DAMAGED as error:
    raise UserError(f"{path} cannot be read as HDF5: {first_line(error)}") from error


def read_h5(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array of the file: "group/…/name" -> array, in the order of the file.

  In a `.weights.h5` of Keras 3, "layers/conv2d_3/vars/0" is "layers/NAME/kernel", where the file has the name
  of the layer, and "layers/conv2d_3/kernel" where it has not.

  Raises:
    UserError: the file is damaged, or holds links out of it, text, objects, or more than it has room for.
  """
  with _opened(path) as file:
    found: dict[str, h5py.Dataset] = {}
    for name, dataset in _datasets(path, file, ""):
      if found.setdefault(name, dataset) is not dataset:
        raise UserError(f"{path}: two arrays are called {name}; layers need names of their own")
    declared, size = sum(dataset.nbytes for dataset in found.values()), path.stat().st_size
    chunks = (math.prod(dataset.chunks or ()) * dataset.dtype.itemsize for dataset in found.values())
    claimed = max(declared, *chunks, 0)  # a chunk is unpacked whole, whatever the array needs of it
    if claimed > _MOST_COMPRESSED * size:
      raise UserError(f"{path} declares {claimed:,} bytes of arrays and has {size:,}; it was not read")
    return {name: dataset[()] for name, dataset in found.items()}


def _datasets(path: pathlib.Path, group: h5py.Group, prefix: str) -> Iterator[tuple[str, h5py.Dataset]]:
  if prefix.count("/") > _DEEPEST:
    raise UserError(f"{path}: {prefix} is deeper than {_DEEPEST} groups, or a group inside itself")
  numbered = prefix.endswith("/vars/")
  for name in group:
    where = f"{prefix}{name}"
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
      raise UserError(f"{path}: {where} points elsewhere; only arrays inside the file are read")
    node = group[name]
    if isinstance(node, h5py.Group):
      yield from _datasets(path, node, f"{where}/")
    elif not isinstance(node, h5py.Dataset) or node.is_virtual or node.external:
      raise UserError(f"{path}: {where} keeps its data elsewhere; only arrays inside the file are read")
    elif node.dtype.kind not in "fiub":
      raise UserError(f"{path}: {where} holds {node.dtype}, not numbers")
    elif node.compression not in (None, "gzip") or node.scaleoffset is not None:
      raise UserError(f"{path}: {where} is packed otherwise than with gzip; save it plainly")
    else:
      yield (_named(group, where) if numbered else where), node


def _named(group: h5py.Group, where: str) -> str:
  """ "layers/conv2d_3/vars/0" by the name of the layer and of the weight, as far as they are known."""
  *above, kind, _, number = where.split("/")
  weights = _WEIGHTS.get(re.sub(r"_\d+$", "", kind), ())
  weight = weights[int(number)] if number.isdecimal() and int(number) < len(weights) else number
  layer = kind
  if "name" in group.attrs:
    stored = group.attrs.get_id("name")
    layer = group.attrs["name"] if stored.shape == () and stored.dtype.itemsize <= _LONGEST else None
  if not isinstance(layer, str) or len(layer) > _LONGEST:
    raise ValueError(f"the name of {where} is no short text")
  return "/".join([*above, layer, weight])


def keras_weights(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of `read_h5` by "layer/weight", as keras.applications and `Model.save("….h5")` write them.

  Optimizer states and the groups that repeat a layer's name are left out, as is the ":0" of Keras 2.

  Raises:
    UserError: two arrays have the same name.
  """
  weights: dict[str, np.ndarray] = {}
  for where, array in arrays.items():
    if where.startswith(("optimizer_weights/", "optimizer/")):
      continue
    *groups, weight = where.removesuffix(":0").removeprefix("model_weights/").split("/")
    half = len(groups) // 2
    repeated = len(groups) % 2 == 0 and groups[:half] == groups[half:]  # "conv1/bn/conv1/bn/gamma"
    name = "/".join([*(groups[half:] if repeated else groups[-1:]), weight])
    if name in weights:
      raise UserError(f"two arrays are called {name}; layers need names of their own")
    weights[name] = array
  return weights


def read_texts(path: pathlib.Path) -> dict[str, str]:
  """The texts that `write_model` has put into the file, and others of their kind.

  Those of variable length are left out: HDF5 believes the length, and allocates it.

  Raises:
    UserError: the file is damaged.
  """
  texts = {}
  with _opened(path) as file:
    for name in file.attrs:
      stored = file.attrs.get_id(name)
      if stored.shape == () and stored.dtype.kind == "S" and stored.dtype.itemsize <= _LONGEST_TEXT:
        texts[name] = file.attrs[name].decode()
  return texts


def keras_opens(path: pathlib.Path) -> bool:
  """Whether `keras.models.load_model` finds the description of a model in the file.

  Raises:
    UserError: the file is damaged.
  """
  with _opened(path) as file:
    return "model_config" in file.attrs


def write_h5(
  path: pathlib.Path, weights: Mapping[str, np.ndarray], attributes: Mapping[str, str] | None = None
) -> None:
  """Writes weights as `Model.save_weights("….h5")` of Keras does, whole or not at all.

  Keras reads such a file layer by layer, in their order, and only `by_name=True` by name.

  Args:
    path: of the file, which is replaced if there is one.
    weights: "layer/weight" -> array, in the order of Keras's layers, see `keras_names.as_keras`.
    attributes: texts about the file.

  Raises:
    UserError: a name has no layer, or the file cannot be written.
  """
  layers = _by_layer(weights)
  with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
    file.attrs.update(_KERAS | (attributes or {}))
    _write_layers(file, layers, weights)


def write_model(
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  texts: Mapping[str, str],
  keras: tuple[Mapping[str, Any], Mapping[str, np.ndarray]] | None = None,
) -> None:
  """Writes a model: its arrays as they are called here, and what `keras.models.load_model` opens beside them.

  Args:
    path: of the file, which is replaced if there is one.
    arrays: "params/conv1/kernel" -> array; they become the group `dlcourse`, see `own_arrays`.
    texts: about the file, see `read_texts`.
    keras: its description and its weights, see `keras_model.sequential`.

  Raises:
    UserError: the file cannot be written.
  """
  # Since HDF5 1.8 attributes may be longer than 64 KB.
  with whole_file(path) as temporary, h5py.File(temporary, "w", libver=("v108", "latest")) as file:
    file.attrs.update({name: np.bytes_(text.encode()) for name, text in texts.items()})
    for name, array in arrays.items():
      file.create_dataset(f"{OWN}/{name}", data=np.asarray(array))
    if keras:
      config, weights = keras
      group = file.create_group("model_weights")
      file.attrs.update(_KERAS | {"model_config": json.dumps(config)})
      group.attrs.update(_KERAS)
      _write_layers(group, _by_layer(weights), weights)


def own_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Of the arrays of `read_h5` those that `write_model` has put there, by the names that it was given."""
  return {name.removeprefix(f"{OWN}/"): array for name, array in arrays.items() if name.startswith(f"{OWN}/")}


def _by_layer(weights: Iterable[str]) -> dict[str, list[str]]:
  layers: dict[str, list[str]] = {}
  for name in weights:
    layer, _, weight = name.rpartition("/")
    if not layer or not weight:
      raise UserError(f"{name!r} is no LAYER/WEIGHT, as which Keras names weights")
    layers.setdefault(layer, []).append(name)
  return layers


def _write_layers(root: h5py.Group, layers: Mapping[str, list[str]], weights: Mapping[str, np.ndarray]) -> None:
  root.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
  for layer, names in layers.items():
    group = root.require_group(layer)
    group.attrs["weight_names"] = np.array([name.encode() for name in names])
    for name in names:
      group.create_dataset(name, data=np.asarray(weights[name]))
