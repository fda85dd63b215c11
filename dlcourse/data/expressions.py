"""Nested expressions and their results, as sequences and as trees (Nangia & Bowman, 2018, arXiv:1804.06028).

They are made by rule. Shapes: N expressions, T tokens, M nodes, K children of a node at most.
"""

import dataclasses
import random
import statistics
from collections.abc import Callable
from typing import Literal

import numpy as np

from dlcourse.data.batches import Arrays
from dlcourse.data.ragged import side_by_side
from dlcourse.data.recipe import Data, DataRecipe
from dlcourse.data.token_batches import token_data
from dlcourse.data.tokens import SPECIAL, Tokenizer
from dlcourse.errors import UserError, check_at_least

Expression = int | tuple  # a digit, or (operator, expression, expression, …)

OPERATORS: dict[str, Callable[[list[int]], int]] = {
  "max": max,
  "min": min,
  "med": lambda values: int(statistics.median(values)),  # between two: their mean, rounded down
  "sum": lambda values: sum(values) % 10,
}
_BRANCHES = 0.5  # probability that an argument is an expression, where the depth allows it
_TRIES = 50  # draws for each expression that is wanted
_TIMES = {
  "tree": {"nodes": "lengths", "children": "lengths"},
  "sequence": {"inputs": "lengths"},
}


@dataclasses.dataclass(frozen=True)
class Expressions(DataRecipe):
  """Expressions like (max 2 9 (min 4 7) 0); the class is the result, 0 … 9. No expression comes twice."""

  form: Literal["tree", "sequence"] = "tree"
  """As nodes and their children, or as tokens from left to right."""
  depth: int = 4
  """Operators inside one another, at most."""
  arguments: int = 4
  """Arguments of an operator, at most; at least 2."""
  most_nodes: int = 32
  """Operators and digits of an expression, at most."""
  expressions: int = 20_000
  """Expressions to train on."""
  held_out: int = 2_000
  """Expressions that validate, and as many that test."""
  batch_size: int = 64
  """Expressions in a global batch, over all devices."""
  buckets: int = 4
  """Lengths of batches at most."""
  split_seed: int = 0
  """Seed of the expressions."""

  def __post_init__(self) -> None:
    """Refuses expressions of nothing."""
    counts = ("depth", "expressions", "held_out", "batch_size", "buckets")
    check_at_least(1, {f"data.{name}": getattr(self, name) for name in counts})
    check_at_least(2, {"data.arguments": self.arguments})
    check_at_least(3, {"data.most_nodes": self.most_nodes})
    check_at_least(0, {"data.split_seed": self.split_seed})

  def build(self) -> Data:
    """Makes the expressions; see `Data`.

    A batch has nodes [B, M], children [B, M, K] (-1: none), every node after its children, or inputs [B, T];
    lengths, label and mask [B].

    Raises:
      UserError: there are not so many expressions.
    """
    tokenizer = Tokenizer("words", (*SPECIAL, "(", ")", *OPERATORS, *map(str, range(10))))
    made, held_out = self._expressions(), self.held_out
    parts = {
      "train": made[2 * held_out :],
      "validation": made[:held_out],
      "test": made[held_out : 2 * held_out],
    }
    splits = {name: self._encode(tokenizer, part) for name, part in parts.items()}
    return token_data(
      splits,
      _TIMES[self.form],
      self.batch_size,
      self.buckets,
      tokenizer,
      tuple(map(str, range(10))),
      f"nested expressions of up to {self.depth} levels, made by rule as ListOps is",
    )

  def _expressions(self) -> list[Expression]:
    """Different ones, in random order."""
    rng, wanted = random.Random(self.split_seed), self.expressions + 2 * self.held_out
    found: dict[Expression, None] = {}
    for _ in range(_TRIES * wanted):
      expression = grown(rng, self.depth, self.arguments)
      if size_of(expression) <= self.most_nodes:
        found[expression] = None
      if len(found) == wanted:
        return rng.sample(list(found), wanted)  # short ones are found early
    raise UserError(
      f"only {len(found):,} different expressions were found, {wanted:,} are needed; raise --data.depth, "
      "--data.arguments or --data.most_nodes, or lower --data.expressions"
    )

  def _encode(self, tokenizer: Tokenizer, expressions: list[Expression]) -> Arrays:
    label = np.array([value(expression) for expression in expressions], np.int32)
    if self.form == "sequence":
      inputs, lengths = side_by_side([tokenizer.encode(written(expression)) for expression in expressions])
      return {"inputs": inputs, "lengths": lengths, "label": label}
    programs = [nodes_of(expression) for expression in expressions]
    symbols = [tokenizer.encode(" ".join(symbol for symbol, _ in program)) for program in programs]
    nodes, lengths = side_by_side(symbols, self.most_nodes)
    children = np.full((len(programs), self.most_nodes, self.arguments), -1, np.int32)
    for row, program in zip(children, programs, strict=True):
      for node, (_, places) in zip(row, program, strict=False):
        node[: len(places)] = places
    return {"nodes": nodes, "children": children, "lengths": lengths, "label": label}


def grown(rng: random.Random, depth: int, arguments: int) -> Expression:
  """A random operator on 2 … `arguments` random expressions of at most `depth` - 1 levels."""
  parts = [
    grown(rng, depth - 1, arguments) if depth > 1 and rng.random() < _BRANCHES else rng.randrange(10)
    for _ in range(rng.randint(2, arguments))
  ]
  return (rng.choice(list(OPERATORS)), *parts)


def value(expression: Expression) -> int:
  """The result, 0 … 9."""
  if isinstance(expression, int):
    return expression
  return OPERATORS[expression[0]]([value(part) for part in expression[1:]])


def written(expression: Expression) -> str:
  """As a person reads it: (max 2 9 (min 4 7) 0)."""
  if isinstance(expression, int):
    return str(expression)
  return f"({expression[0]} {' '.join(map(written, expression[1:]))})"


def size_of(expression: Expression) -> int:
  """Operators and digits."""
  return 1 if isinstance(expression, int) else 1 + sum(map(size_of, expression[1:]))


def nodes_of(expression: Expression) -> list[tuple[str, list[int]]]:
  """A program in post-order: the symbol of each node and the places of its children, all before it."""
  program = []

  def add(part: Expression) -> int:
    if isinstance(part, int):
      program.append((str(part), []))
    else:
      places = [add(argument) for argument in part[1:]]
      program.append((part[0], places))
    return len(program) - 1

  add(expression)
  return program
