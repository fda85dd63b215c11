"""Reads and writes HDF5 weight files as Keras lays them out, trusting nothing in them.

HDF5 can point to other files, hold a data set of terabytes in a few bytes, and link a group into itself.
What is not a plain array of numbers inside the file, of about the size that the file has, is refused unread.
"""

import pathlib
from collections.abc import Iterator, Mapping

import h5py
import numpy as np

from dlcourse.errors import UserError, first_line

_DEEPEST = 16  # groups in groups
_MOST_COMPRESSED = 20  # weights hardly compress at all


def read_h5(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array of the file: "group/…/name" -> array, in the order of the file.

  Raises:
    UserError: the file is damaged, or holds links out of it, text, objects, or more than it has room for.
  """
  try:
    with h5py.File(path, "r", locking=False) as file:
      found = dict(_datasets(path, file, ""))
      declared, size = sum(dataset.nbytes for dataset in found.values()), path.stat().st_size
      if declared > _MOST_COMPRESSED * size:
        raise UserError(f"{path} declares {declared:,} bytes of arrays and has {size:,}; it was not read")
      return {name: dataset[()] for name, dataset in found.items()}
  except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
    raise UserError(f"{path} cannot be read as HDF5: {first_line(error)}") from error


def _datasets(path: pathlib.Path, group: h5py.Group, prefix: str) -> Iterator[tuple[str, h5py.Dataset]]:
  if prefix.count("/") > _DEEPEST:
    raise UserError(f"{path}: {prefix} is deeper than {_DEEPEST} groups, or a group inside itself")
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
    else:
      yield where, node


def keras_weights(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of `read_h5` by "layer/weight", as keras.applications and `Model.save("….h5")` write them.

  Optimizer states and the groups that repeat a layer's name are left out, as is the ":0" of Keras 2.

  Raises:
    UserError: two arrays have the same name.
  """
  weights: dict[str, np.ndarray] = {}
  for where, array in arrays.items():
    if where.startswith("optimizer_weights/"):
      continue
    name = "/".join(where.removesuffix(":0").split("/")[-2:])
    if name in weights:
      raise UserError(f"two arrays are called {name}; layers need names of their own")
    weights[name] = array
  return weights
