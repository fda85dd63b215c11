"""Sequences of different lengths as batches: in buckets of similar length, so that little of it is padding.

One split is {name: array [N, ...]}. Some arrays have time as their second axis; `Lengths` says which, and which
array [N] says how long their rows are: {"inputs": "lengths", "targets": "target_lengths"}. Batches of one
bucket have one shape, and so cost one compilation of a step.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from dlcourse.data.batches import Arrays, in_order

Lengths = Mapping[str, str]
Edges = Mapping[str, Sequence[int]]  # name of lengths -> longest length of each bucket, rising
ROUND = 8  # lengths of buckets are multiples of it, as vector units like them


def side_by_side(sequences: Sequence[np.ndarray], longest: int | None = None) -> tuple[np.ndarray, np.ndarray]:
  """Sequences [T_i, ...] as one array.

  Args:
    sequences: N arrays that differ in their first axis only.
    longest: T; None: the longest of them. Longer ones are cut at their end.

  Returns:
    [N, T, ...] with 0 after the end of each, and lengths [N] int32.
  """
  longest = longest or max(map(len, sequences))
  lengths = np.array([min(len(x), longest) for x in sequences], np.int32)
  out = np.zeros((len(sequences), longest, *np.shape(sequences[0])[1:]), np.asarray(sequences[0]).dtype)
  for row, x, length in zip(out, sequences, lengths, strict=True):
    row[:length] = x[:length]
  return out, lengths


def edges(split: Arrays, times: Lengths, buckets: int) -> dict[str, tuple[int, ...]]:
  """Buckets that hold about as many sequences each.

  Args:
    split: arrays by name.
    times: see `Lengths`.
    buckets: at most so many; fewer where lengths hardly differ.
  """
  shares = np.linspace(0, 1, buckets + 1)[1:]
  names = sorted(set(times.values()))
  found = np.stack([np.quantile(split[name], shares, method="higher") for name in names])  # [names, buckets]
  rounded = -(-np.maximum(found, 1) // ROUND) * ROUND
  widths = {name: min(split[array].shape[1] for array in times if times[array] == name) for name in names}
  rounded = np.minimum(rounded, [[widths[name]] for name in names])
  distinct = np.unique(rounded, axis=1)
  return {name: tuple(int(edge) for edge in row) for name, row in zip(names, distinct, strict=True)}


def bucketed(
  split: Arrays, times: Lengths, batch_size: int, limits: Edges
) -> Callable[[int, int], dict[str, np.ndarray]]:
  """(seed, step) -> a batch of the endless stream epoch 0, epoch 1, …, each in its own random order.

  Every sequence comes once an epoch. What does not fill a batch of its bucket goes into a longer one, and the
  last batch of the longest is padded with `mask` 0.

  Args:
    split: arrays by name; without `mask`, rows are counted by [N] ones.
    times: see `Lengths`.
    batch_size: B, rows of a batch.
    limits: from `edges`.
  """
  split = _with_mask(split)
  count = len(split["mask"])
  bucket = _buckets(split, limits)

  @functools.lru_cache(maxsize=4)
  def epoch_of(seed: int, epoch: int) -> list[tuple[int, np.ndarray]]:
    rng = np.random.default_rng((seed, epoch))
    order, batches, waiting = rng.permutation(count), [], np.zeros(0, np.int64)
    last = int(bucket.max())
    for number in range(last + 1):
      waiting = np.concatenate([waiting, order[bucket[order] == number]])
      full = len(waiting) if number == last else len(waiting) // batch_size * batch_size
      batches += [(number, waiting[start : start + batch_size]) for start in range(0, full, batch_size)]
      waiting = waiting[full:]
    return [batches[i] for i in rng.permutation(len(batches))]

  def batch(seed: int, step: int) -> dict[str, np.ndarray]:
    epoch, index = divmod(step, -(-count // batch_size))
    number, rows = epoch_of(seed, epoch)[index]
    return next(in_order(_cut(split, times, rows, limits, number), batch_size))

  return batch


def by_length(split: Arrays, times: Lengths, batch_size: int, limits: Edges) -> Iterator[dict[str, np.ndarray]]:
  """All sequences once, short ones first; the last batch is padded with `mask` 0. Arguments: see `bucketed`."""
  split = _with_mask(split)
  bucket = _buckets(split, limits)
  order = np.argsort(bucket, kind="stable")
  for start in range(0, len(order), batch_size):
    rows = order[start : start + batch_size]
    yield from in_order(_cut(split, times, rows, limits, int(bucket[rows].max())), batch_size)


def shapes_of(split: Arrays, times: Lengths, batch_size: int, limits: Edges) -> dict[str, jax.ShapeDtypeStruct]:
  """Of a batch of the longest bucket, `mask` included: `Spec.batch`. Arguments as in `bucketed`."""
  split = _with_mask(split)
  number = len(next(iter(limits.values()))) - 1
  longest = _cut(split, times, np.zeros(0, np.int64), limits, number)
  return {name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype) for name, x in longest.items()}


def _with_mask(split: Arrays) -> Arrays:
  return {"mask": np.ones(len(next(iter(split.values()))), np.float32), **split}


def _buckets(split: Arrays, limits: Edges) -> np.ndarray:
  """[N] the first bucket that a sequence fits into by all its lengths; those of other splits may fit none."""
  fits = [np.searchsorted(list(limit), split[name], side="left") for name, limit in limits.items()]
  return np.max(fits, axis=0)


def _cut(split: Arrays, times: Lengths, rows: np.ndarray, limits: Edges, number: int) -> Arrays:
  """The rows, as long as their bucket; beyond the last bucket, as long as they are stored."""

  def picked(name, array):
    limit = limits[times[name]] if name in times else ()
    return array[rows, : limit[number]] if number < len(limit) else array[rows]

  return {name: picked(name, array) for name, array in split.items()}
