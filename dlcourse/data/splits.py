"""Splits that do not depend on a run: shuffled once by a seed, stratified by label.

A part of a data set is {name: array [N, ...]} with `label` int [N] among them.
"""

from collections.abc import Sequence

import numpy as np

from dlcourse.data.batches import Arrays
from dlcourse.errors import UserError


def rows(part: Arrays, which: np.ndarray) -> dict[str, np.ndarray]:
  """The examples of an index or a mask [N]."""
  return {name: array[which] for name, array in part.items()}


def in_random_order(part: Arrays, seed: int) -> dict[str, np.ndarray]:
  """The same examples, shuffled by the seed."""
  return rows(part, np.random.default_rng(seed).permutation(len(part["label"])))


def ranks(labels: np.ndarray) -> np.ndarray:
  """[N] how many examples of its own class stand before each one: rank % k cuts stratified k-ths."""
  found = np.empty(len(labels), np.int64)
  for label in np.unique(labels):
    of_class = labels == label
    found[of_class] = np.arange(of_class.sum())
  return found


def held_out(labels: np.ndarray, share: float) -> np.ndarray:
  """[N] bool: this share of every class, at evenly spread ranks."""
  rank = ranks(labels)
  return np.floor((rank + 1) * share) > np.floor(rank * share)


def stratified(part: Arrays, validation: float, test: float, seed: int) -> dict[str, dict[str, np.ndarray]]:
  """Train, validation and test split with the same shares of every class.

  Args:
    part: the whole set.
    validation: share of it that validates.
    test: share of it that tests.
    seed: of the order in which examples are dealt out.

  Raises:
    UserError: a split would be empty.
  """
  whole = in_random_order(part, seed)
  in_test = held_out(whole["label"], test)
  rest = in_random_order(rows(whole, ~in_test), seed + 1)
  in_validation = held_out(rest["label"], validation / (1 - test))
  splits = {
    "train": rows(rest, ~in_validation),
    "validation": rows(rest, in_validation),
    "test": rows(whole, in_test),
  }
  return _filled(splits)


def published_or_stratified(
  part: Arrays, published: Sequence[str], validation: float, test: float, seed: int
) -> dict[str, dict[str, np.ndarray]]:
  """The splits as they are published; of what is not published, stratified shares.

  Args:
    part: the whole set.
    published: the split of each example, train, validation or test; () where none is published.
    validation: share that validates, of the training split where only that and a test split are published.
    test: see `stratified`.
    seed: of the order in which examples are dealt out.

  Raises:
    UserError: a split would be empty.
  """
  if not published:
    return stratified(part, validation, test, seed)
  names = np.array(published)
  splits = {name: rows(part, names == name) for name in ("train", "validation", "test")}
  if "validation" not in published:
    train = in_random_order(splits["train"], seed + 1)
    chosen = held_out(train["label"], validation)
    splits |= {"train": rows(train, ~chosen), "validation": rows(train, chosen)}
  return _filled(splits)


def _filled(splits: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
  for name, split in splits.items():
    if not len(split["label"]):
      raise UserError(f"too few examples, the split {name!r} would be empty; add some, or change its share")
  return splits
