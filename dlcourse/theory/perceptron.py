"""Rosenblatt's perceptron: its learning rules, and what a single one cannot do (H1.4.1, exercise 1 of TP1)."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog

INPUTS = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
"""The four examples of the exercise, in its order."""
AND = np.array([1, -1, -1, -1])
XOR = np.array([-1, 1, -1, 1])


class Update(NamedTuple):
  """One change of the weights: which example was wrong, in which pass, and the weights after it."""

  epoch: int
  example: int
  weights: np.ndarray
  bias: float


class Trace(NamedTuple):
  """All updates of a training, and whether a whole pass without one was reached."""

  updates: list[Update]
  separates: bool


def sign(x: ArrayLike) -> np.ndarray:
  """1 where x > 0, else -1: at 0 as well, as in the exercise."""
  return np.where(np.asarray(x) > 0, 1, -1)


def learn(
  targets: ArrayLike,
  weights: ArrayLike,
  bias: float,
  rate: float,
  rule: Literal["error", "target"] = "error",
  threshold: bool = False,
  epochs: int = 100,
) -> Trace:
  """Learns `INPUTS` one by one until a whole pass has no error (Rosenblatt, 1958).

  Args:
    targets: -1 or 1 of each example, [4].
    weights: to begin with, [2].
    bias: to begin with; b in sign(w · e + b), or the threshold in sign(w · e - b).
    rate: the learning step η.
    rule: `error` adds η (d - y) e, which is twice η d e where d is wrong; `target` adds η d e.
    threshold: whether b is taken off the sum in place of being added.
    epochs: passes at the most.

  Returns:
    The updates in order.
  """
  side = -1 if threshold else 1
  weights, updates = np.asarray(weights, np.float64), []
  for epoch, example in _passes(epochs):
    inputs, target = INPUTS[example], np.asarray(targets)[example]
    answer = sign(weights @ inputs + side * bias)
    if answer != target:
      change = rate * (target - answer if rule == "error" else target)
      weights, bias = weights + change * inputs, float(bias + side * change)
      updates.append(Update(epoch, example, weights, bias))
    elif example == len(INPUTS) - 1 and not any(update.epoch == epoch for update in updates):
      return Trace(updates, True)
  return Trace(updates, False)


def _passes(epochs: int) -> Iterator[tuple[int, int]]:
  return ((epoch, example) for epoch in range(epochs) for example in range(len(INPUTS)))


def impossible(inputs: ArrayLike, targets: ArrayLike) -> np.ndarray | None:
  """A proof that no line separates two classes, or None where one does (Farkas' lemma, by linear programming).

  Shares λ >= 0 that sum to 1 within each class, and whose means of both classes are the same point: it lies in
  the convex hull of each, and no half-plane can hold the one and not the other. For XOR both means are 0.

  Args:
    inputs: [N, D].
    targets: -1 or 1, [N], both of them there.

  Returns:
    λ [N], or None.
  """
  inputs, targets = np.asarray(inputs, np.float64), np.asarray(targets)
  equal_means = (inputs * targets[:, None]).T
  sums = np.stack([targets == 1, targets == -1])
  right = np.concatenate([np.zeros(inputs.shape[1]), np.ones(2)])
  found = linprog(np.zeros(len(inputs)), A_eq=np.concatenate([equal_means, sums]), b_eq=right)
  return found.x if found.status == 0 else None


def two_layer_xor(inputs: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """XOR of two numbers that are -1 or 1, by three perceptrons (question 4 of the exercise).

  Args:
    inputs: [N, 2].

  Returns:
    What the hidden ones say, `or` and `not and`, [N, 2]; and the `and` of both, [N].
  """
  hidden = sign(np.asarray(inputs) @ np.array([[1, -1], [1, -1]]) + np.array([1, 1]))
  return hidden, sign(hidden.sum(axis=-1) - 1)
