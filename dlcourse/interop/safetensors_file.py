"""Reads and writes `.safetensors` files, with the library of that name and two checks that it leaves out."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from dlcourse.errors import UserError, described
from dlcourse.whole_file import whole_file

_LONGEST_HEADER = 2**22  # bytes; the largest network here needs a thirtieth of that


def read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Every array by its name, and the texts about the file.

  Raises:
    UserError: the file is damaged or lies about itself: offsets, shapes, types, two arrays of one name.
  """
  try:
    _check_header(path)
    with safe_open(path, framework="np") as file:
      return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
  except Exception as error:  # of many kinds; for a type that NumPy has not an AttributeError
    raise UserError(f"{path} cannot be read as safetensors, or is damaged ({described(error)})") from error


def write_safetensors(
  path: pathlib.Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
  """Writes arrays by name, and texts about them, whole or not at all.

  Args:
    path: of the file, which is replaced if there is one.
    arrays: of numbers; bfloat16 too.
    metadata: anything worth knowing, as text.

  Raises:
    UserError: there are no arrays, or the file cannot be written.
  """
  if not arrays:
    raise UserError(f"{path} would hold no array")  # and version 0.8 of the library writes that wrongly
  # The library takes the bytes as they lie in memory, whatever the strides.
  plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
  with whole_file(path) as temporary:
    save_file(plain, temporary, metadata=dict(metadata or {}))


def _check_header(path: pathlib.Path) -> None:
  """The library takes the last of two arrays of one name, and headers of 100 MB."""
  with open(path, "rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if length > min(_LONGEST_HEADER, path.stat().st_size):
      raise ValueError(f"a header of {length:,} bytes")
    json.loads(file.read(length), object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  names = dict(pairs)
  if len(names) < len(pairs):
    raise ValueError("two arrays have one name")
  return names
