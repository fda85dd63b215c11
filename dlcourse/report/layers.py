"""The summary of a network as people read it: grouped where it is long, as a table."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax

from dlcourse.data.recipe import Spec
from dlcourse.models.summary import summarise
from dlcourse.models.trace import Layer, Shape, block_of
from dlcourse.task import Task

LONG = 40  # rows of a table that is read at one go
NOTE = "Of one example going forward once; the receptive field is the side in pixels of what an output sees."


class Group(NamedTuple):
  """Neighbouring layers shown as one.

  Attributes:
    name: path of the layer, or of what the layers have in common.
    network: which of several networks; "" where there is one.
    blocks: how many modules at the top of the network they are.
    layers: what the group holds, in order.
  """

  name: str
  network: str
  blocks: int
  layers: tuple[Layer, ...]

  @property
  def kind(self) -> str:
    """Class of the layer or of the blocks."""
    return self.layers[0].kind if len(self.layers) == 1 else self.layers[0].block

  @property
  def input(self) -> Shape:
    """Shape of what goes in, without the batch."""
    return self.layers[0].input if len(self.layers) == 1 else self.layers[0].block_input

  @property
  def output(self) -> Shape:
    """Shape of what comes out, without the batch."""
    return self.layers[-1].output if len(self.layers) == 1 else self.layers[-1].block_output

  @property
  def parameters(self) -> int:
    """Trainable numbers."""
    return sum(layer.parameters for layer in self.layers)

  @property
  def receptive_field(self) -> int | None:
    """Of the last layer, in pixels."""
    return self.layers[-1].receptive_field


def task_summary(task: Task, spec: Spec) -> list[Layer]:
  """The layers of a task's networks, traced while it initialises them, which runs each once."""
  return summarise(task.init, jax.random.key(0), spec.batch)


def grouped(layers: Sequence[Layer], limit: int) -> list[Group]:
  """The finest grouping of at most `limit` rows: layers, blocks, stages; stages where none has so few.

  A block is a module at the top of its network, a stage are neighbours numbered alike: conv2_1, conv2_2 …
  """
  for level in (_layer, _block, _stage):
    groups = [_group(name, list(part)) for name, part in itertools.groupby(layers, level)]
    if len(groups) <= limit:
      break
  return groups


def _layer(layer: Layer) -> str:
  return layer.path


def _block(layer: Layer) -> str:
  prefix = f"{layer.network}/" if layer.network else ""
  return prefix + block_of(layer.path.removeprefix(prefix))


def _stage(layer: Layer) -> str:
  return re.sub(r"_\d+$", "", _block(layer))


def _group(name: str, layers: list[Layer]) -> Group:
  blocks = list(dict.fromkeys(map(_block, layers)))
  name = blocks[0] if len(blocks) == 1 and name != layers[0].path else name
  return Group(name, layers[0].network, len(blocks), tuple(layers))


def summary_rows(layers: Sequence[Layer], limit: int = LONG) -> list[dict[str, str]]:
  """The table as texts, by the names of its columns; the last row has the sums.

  Args:
    layers: of all networks.
    limit: longer tables are grouped, see `grouped`.
  """

  def counts(layers):
    return {
      "parameters": f"{sum(layer.parameters for layer in layers):,}",
      "multiply-adds": f"{sum(layer.multiply_adds for layer in layers):,}",
      "connections": f"{sum(layer.connections for layer in layers):,}",
    }

  rows = [
    {
      "layer": group.name,
      "kind": group.kind + (f" × {group.blocks}" if group.blocks > 1 else ""),
      "output": " × ".join(map(str, group.output)),
      **counts(group.layers),
      "receptive field": "" if group.receptive_field is None else str(group.receptive_field),
    }
    for group in grouped(layers, limit)
  ]
  return [*rows, {"layer": "all", "kind": "", "output": "", **counts(layers), "receptive field": ""}]
