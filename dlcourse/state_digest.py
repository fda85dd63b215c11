"""A digest of a state that does not depend on how it is spread over devices and processes.

Of each array the sum of (2i + 1) · bits_i over its elements, in their order i, modulo 2⁶⁴: every device adds up
what it holds. A factor that is odd has an inverse there, so that no change of one element leaves the sum alone;
of other changes one in about 2⁶⁴ does. It finds damage, not forgery.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_AT_ONCE = 1 << 20  # elements, so that what is computed stays in the cache


def state_digest(tree: Any) -> str:
  """SHA-256 over the path, type, shape and sum of every array, as hexadecimal digits.

  Every process of a run has to call it, and all get the same.

  Args:
    tree: of JAX arrays, on any devices.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  sums = np.array([_own_sum(leaf) for _, leaf in leaves], np.uint64)
  if jax.process_count() > 1:
    halves = multihost_utils.process_allgather(sums.view(np.uint32))  # JAX has 64 bits only if it is told
    sums = np.ascontiguousarray(halves).view(np.uint64).sum(axis=0, dtype=np.uint64)
  total = hashlib.sha256()
  for (path, leaf), number in zip(leaves, sums, strict=True):
    total.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} {number}\n".encode())
  return total.hexdigest()


def _own_sum(array: jax.Array) -> int:
  """Of those elements of which this process holds the first copy."""
  shards = (shard for shard in array.addressable_shards if shard.replica_id == 0)
  return sum(_sum(np.asarray(shard.data), shard.index, array.shape) for shard in shards) % 2**64


def _sum(part: np.ndarray, index: Sequence[slice], shape: Sequence[int]) -> int:
  """Of a part of an array of a shape, a few rows at a time."""
  rows, *others = _offsets(index, shape) or [np.zeros(1, np.uint64)]
  within = np.zeros((), np.uint64)
  for offsets in others:
    within = within[..., None] + offsets
  bits = np.ascontiguousarray(part).view(f"u{part.dtype.itemsize}").reshape(len(rows), within.size)
  count, total = max(_AT_ONCE // max(within.size, 1), 1), 0
  for start in range(0, len(rows), count):
    places = rows[start : start + count, None] + within.ravel()
    weighted = (2 * places + np.uint64(1)) * bits[start : start + count].astype(np.uint64)
    total += int(weighted.sum(dtype=np.uint64))
  return total


def _offsets(index: Sequence[slice], shape: Sequence[int]) -> list[np.ndarray]:
  """What each axis adds to the place of an element in the whole array."""
  strides = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
  return [
    np.arange(*where.indices(size), dtype=np.uint64) * np.uint64(stride)
    for where, size, stride in zip(index, shape, strides, strict=True)
  ]
