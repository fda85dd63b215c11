"""Batches from arrays in memory: the training batch is a pure function of (seed, step)."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from dlcourse.errors import unknown

Arrays = Mapping[str, np.ndarray]


def shuffled(arrays: Arrays, batch_size: int) -> Callable[[int, int], dict[str, np.ndarray]]:
  """(seed, step) -> a batch of the endless stream epoch 0, epoch 1, …, each in its own random order.

  Every example comes once an epoch; a batch may reach over the end of one, so none is ever left out.

  Args:
    arrays: name -> [N, ...].
    batch_size: B, rows of a batch.

  Returns:
    A function whose batches are {name: [B, ...]}, with `mask` [B] of ones.
  """
  count = len(next(iter(arrays.values())))

  @functools.lru_cache(maxsize=4)
  def order(seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)

  def batch(seed: int, step: int) -> dict[str, np.ndarray]:
    start, rows = step * batch_size, []
    while start < (step + 1) * batch_size:
      epoch, offset = divmod(start, count)
      take = min((step + 1) * batch_size - start, count - offset)
      rows.append(order(seed, epoch)[offset : offset + take])
      start += take
    index = np.concatenate(rows)
    picked = {name: array[index] for name, array in arrays.items()}
    return picked | {"mask": np.ones(batch_size, np.float32)}

  return batch


def in_order(arrays: Arrays, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """All examples once, in their order; the last batch is padded with `mask` 0.

  Args:
    arrays: name -> [N, ...]; a `mask` [N, ...] among them is kept, else rows are counted by [N] ones.
    batch_size: B, rows of every batch.
  """
  count = len(next(iter(arrays.values())))
  arrays = {"mask": np.ones(count, np.float32), **arrays}
  for start in range(0, count, batch_size):
    rows = {name: array[start : start + batch_size] for name, array in arrays.items()}
    short = batch_size - len(rows["mask"])
    yield {name: np.pad(x, [(0, short)] + [(0, 0)] * (x.ndim - 1)) for name, x in rows.items()}


def splits_in_order(
  splits: Mapping[str, Arrays], batch_size: int
) -> Callable[[str], Iterator[dict[str, np.ndarray]]]:
  """`Data.eval_batches` of splits in memory: split -> its batches, see `in_order`.

  Args:
    splits: split -> name -> [N, ...].
    batch_size: B, rows of every batch.

  Returns:
    A function that raises a `UserError` where there is no such split.
  """

  def eval_batches(split: str) -> Iterator[dict[str, np.ndarray]]:
    if split not in splits:
      raise unknown("split", split, splits)
    return in_order(splits[split], batch_size)

  return eval_batches


def as_shapes(batch: Arrays) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes and types of a batch, as `Spec.batch` has them."""
  return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}


def unbatched(batches: Iterable[Arrays], names: Sequence[str]) -> dict[str, np.ndarray]:
  """The examples of batches in their order, without padding: the inverse of `in_order`.

  Args:
    batches: each with a `mask` [B].
    names: of the arrays that are wanted.

  Returns:
    name -> [N, ...].
  """
  kept = [{name: batch[name][batch["mask"] > 0] for name in names} for batch in batches]
  return {name: np.concatenate([part[name] for part in kept]) for name in names}
