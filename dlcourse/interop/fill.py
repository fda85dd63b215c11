"""Puts arrays that somebody else named into the variables of a model, and takes them out again."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict

from dlcourse.errors import UserError, unknown

Layout = Callable[[str, np.ndarray], np.ndarray]  # path, array -> the array in the other layout


class Naming(NamedTuple):
  """What somebody else calls the arrays of a model, and how they are laid out there.

  Attributes:
    label: who that is: "torchvision's vgg".
    names: path of an array here, "params/conv1/kernel" -> its name there.
    to_flax: lays an array from there out as here; what has not the shape for it is only returned.
    to_other: the inverse.
    spare: pattern of names there that no model needs.
    renamed: a name that is found in files -> the name in `names` that it stands for.
  """

  label: str
  names: Mapping[str, str]
  to_flax: Layout = lambda path, array: array
  to_other: Layout = lambda path, array: array
  spare: str = ""
  renamed: Callable[[str], str] = str


def paths_of(variables: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays of a model, or their shapes, by path: "params/conv1/kernel"."""
  return flatten_dict(dict(variables), sep="/")


def block_counts(variables: Mapping[str, Any]) -> tuple[int, ...]:
  """How many blocks each stage of a network has whose layers are called `conv{stage}_{block}` or the like."""
  layers = {path.split("/")[1] for path in paths_of(variables)}
  found = [match for layer in layers if (match := re.fullmatch(r"[a-z]+(\d+)_(\d+)", layer))]
  stages = sorted({int(match[1]) for match in found})
  return tuple(max(int(match[2]) for match in found if int(match[1]) == stage) for stage in stages)


def fill(
  variables: Mapping[str, Any],
  state: Mapping[str, Any],
  naming: Naming,
  strict: bool = True,
  without: Collection[str] = (),
  source: str = "",
) -> dict[str, Any]:
  """The variables of a model, with the arrays of a state; each keeps the type that it has in the model.

  Args:
    variables: of the model, or their shapes alone if all are filled: {collection: tree}.
    state: name there -> array.
    naming: what the arrays are called there, and how they are laid out.
    strict: whether everything has to fit; else what does not is left as it is, with a warning.
    without: layers of the model that stay as they are, whatever the state has for them.
    source: where the state comes from, for messages.

  Raises:
    UserError: arrays are missing, left over, of another shape, or hold what is no number; all of them are
      counted, the first are named.
  """
  ours = paths_of(variables)
  _check_layers(ours, without)
  state = _renamed(state, naming)
  missing, other, broken, used = [], [], [], set()
  for path, leaf in ours.items():
    theirs = naming.names[path]
    used.add(theirs)
    if _within(path, without):
      continue
    if theirs not in state:
      missing.append(theirs)
      continue
    array = naming.to_flax(path, np.asarray(state[theirs]))
    if array.shape != leaf.shape:
      other.append(f"{theirs!r} {array.shape} where the model has {leaf.shape}")
      continue
    with np.errstate(over="ignore"):
      array = array.astype(leaf.dtype, copy=False)
    if np.isfinite(array).all():
      ours[path] = array
    else:
      broken.append(theirs)
  left = [theirs for theirs in state if theirs not in used and not re.fullmatch(naming.spare, theirs)]
  _report(source, missing, left, other, broken, strict)
  return unflatten_dict(ours, sep="/")


def take(variables: Mapping[str, Any], naming: Naming) -> dict[str, np.ndarray]:
  """The arrays of a model under the names, and in the layout, that they have there: the inverse of `fill`.

  Their order is that of `naming.names`.
  """
  ours = paths_of(variables)
  return {theirs: naming.to_other(path, np.asarray(ours[path])) for path, theirs in naming.names.items()}


def _renamed(state: Mapping[str, Any], naming: Naming) -> dict[str, Any]:
  result: dict[str, Any] = {}
  for found, array in state.items():
    theirs = naming.renamed(found)
    if theirs in result:
      raise UserError(f"{found!r} is another name for {theirs!r}, and these weights hold both")
    result[theirs] = array
  return result


def _within(path: str, layers: Collection[str]) -> bool:
  return any(path.partition("/")[2].startswith(f"{layer}/") for layer in layers)


def _check_layers(paths: Collection[str], layers: Collection[str]) -> None:
  for layer in layers:
    if not any(_within(path, [layer]) for path in paths):
      raise unknown("layer", layer, {path.split("/")[1] for path in paths})


def _report(
  source: str, missing: list[str], left: list[str], other: list[str], broken: list[str], strict: bool
) -> None:
  problems = [
    *([f"{len(missing)} missing, the first {missing[0]!r}"] if missing else []),
    *([f"{len(left)} that the model has no place for, the first {left[0]!r}"] if left else []),
    *([f"{len(other)} of another shape, the first {other[0]}"] if other else []),
    *([f"{len(broken)} with NaN or infinity, the first {broken[0]!r}"] if broken else []),
  ]
  prefix = f"{source}: " if source else ""
  if problems and strict:
    raise UserError(f"{prefix}these weights are not those of the model: {'; '.join(problems)}")
  if problems:
    logging.warning("%sonly what fits of these weights was taken: %s", prefix, "; ".join(problems))
