"""Puts arrays that somebody else named into the variables of a model, and takes them out again."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dlcourse.errors import UserError

Name = Callable[[str], str]  # path within its collection, "conv2_1/norm1/scale" -> its name there
Layout = Callable[[str, np.ndarray], np.ndarray]  # path, array -> the array in the other layout


def fill(
  variables: Mapping[str, Any], state: Mapping[str, Any], name: Name, layout: Layout, spare: str = ""
) -> dict[str, Any]:
  """The variables of a model, with the arrays of a state.

  Args:
    variables: of the model, or their shapes alone: {collection: tree}.
    state: name there -> array.
    name: what an array is called there.
    layout: how an array from there is laid out here.
    spare: pattern of names there that no model needs.

  Raises:
    UserError: arrays are missing, left over, or of another shape; all of them are counted, the first are named.
  """
  result, missing, other, used = {}, [], [], set()
  for (collection, *path), leaf in flatten_dict(dict(variables)).items():
    theirs = name("/".join(path))
    used.add(theirs)
    if theirs not in state:
      missing.append(theirs)
      continue
    array = layout("/".join(path), np.asarray(state[theirs]))
    if array.shape != leaf.shape:
      other.append(f"{theirs!r} {array.shape} where the model has {leaf.shape}")
    result[collection, *path] = array
  left = [theirs for theirs in state if theirs not in used and not re.fullmatch(spare, theirs)]
  problems = [
    *([f"{len(missing)} missing, the first {missing[0]!r}"] if missing else []),
    *([f"{len(left)} that the model has no place for, the first {left[0]!r}"] if left else []),
    *([f"{len(other)} of another shape, the first {other[0]}"] if other else []),
  ]
  if problems:
    raise UserError(f"these weights are not those of the model: {'; '.join(problems)}")
  return unflatten_dict(result)


def take(variables: Mapping[str, Any], name: Name, layout: Layout) -> dict[str, np.ndarray]:
  """The arrays of a model under the names, and in the layout, that they have there: the inverse of `fill`."""
  state = {}
  for (_, *path), leaf in flatten_dict(dict(variables)).items():
    state[name("/".join(path))] = layout("/".join(path), np.asarray(leaf))
  return state
