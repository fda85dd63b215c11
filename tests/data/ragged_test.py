import numpy as np
import pytest

from dlcourse.data.ragged import bucketed, by_length, edges, shapes_of, side_by_side

TIMES = {"inputs": "lengths", "tags": "lengths", "mask": "lengths", "targets": "target_lengths"}
B = 4


def split(count=53, seed=0, longest=40):
  """Sequences that tell their number and their place at every step."""
  rng = np.random.default_rng(seed)
  lengths, target_lengths = rng.integers(1, longest + 1, count), rng.integers(1, 12, count)
  inputs, lengths = side_by_side([1000 * (i + 1) + np.arange(n) for i, n in enumerate(lengths)], longest)
  targets, target_lengths = side_by_side([np.full(n, i + 1) for i, n in enumerate(target_lengths)])
  mask = (np.arange(longest) < lengths[:, None]).astype(np.float32)
  return {
    "inputs": inputs,
    "tags": -inputs,
    "mask": mask,
    "lengths": lengths,
    "targets": targets,
    "target_lengths": target_lengths,
    "number": np.arange(1, count + 1),
  }


def epoch(batch, seed, count, number=0):
  steps = -(-count // B)
  return [batch(seed, number * steps + step) for step in range(steps)]


def test_sequences_side_by_side():
  padded, lengths = side_by_side([np.ones((2, 3)), np.ones((5, 3)), np.ones((1, 3))], longest=4)
  assert padded.shape == (3, 4, 3)
  np.testing.assert_array_equal(lengths, [2, 4, 1])
  np.testing.assert_array_equal(padded.sum(axis=(1, 2)), 3 * lengths)
  np.testing.assert_array_equal(padded[0, 2:], 0)
  assert side_by_side([np.arange(2), np.arange(7)])[0].shape == (2, 7)


@pytest.mark.parametrize("buckets", [1, 3, 5])
def test_every_sequence_comes_once_an_epoch_each_in_its_own_order(buckets):
  data = split()
  batch = bucketed(data, TIMES, B, edges(data, TIMES, buckets))
  orders = []
  for number in range(3):
    parts = epoch(batch, 7, 53, number)
    seen = np.concatenate([part["number"][part["number"] > 0] for part in parts])
    assert sorted(seen) == list(range(1, 54))
    orders.append(tuple(seen))
  assert len(set(orders)) == 3


def test_rows_stay_together_and_nothing_is_cut():
  data = split()
  batch = bucketed(data, TIMES, B, edges(data, TIMES, 4))
  for part in epoch(batch, 0, 53):
    for row, number in enumerate(part["number"]):
      length, target_length = part["lengths"][row], part["target_lengths"][row]
      if not number:  # a row that fills up the batch
        assert not part["mask"][row].any()
        assert length == 0
        continue
      assert (length, target_length) == (data["lengths"][number - 1], data["target_lengths"][number - 1])
      np.testing.assert_array_equal(part["inputs"][row, :length], 1000 * number + np.arange(length))
      np.testing.assert_array_equal(part["tags"][row], -part["inputs"][row])
      np.testing.assert_array_equal(np.flatnonzero(part["mask"][row]), np.arange(length))
      np.testing.assert_array_equal(part["targets"][row, :target_length], number)
      assert not part["inputs"][row, length:].any()


def test_a_batch_is_a_function_of_seed_and_step_alone():
  data = split()
  limits = edges(data, TIMES, 3)
  one, other = (bucketed(data, TIMES, B, limits) for _ in range(2))
  for step in (30, 0, 14, 30):
    expected = other(1, step)
    for name, array in one(1, step).items():
      np.testing.assert_array_equal(array, expected[name])
  assert any(not np.array_equal(one(1, s)["number"], one(2, s)["number"]) for s in range(5))


def test_shapes_are_as_many_as_buckets_and_save_padding():
  data = split(400)
  limits = edges(data, TIMES, 4)
  assert all(len(limit) <= 4 and list(limit) == sorted(limit) for limit in limits.values())
  parts = epoch(bucketed(data, TIMES, B, limits), 0, 400)
  shapes = {(part["inputs"].shape, part["targets"].shape) for part in parts}
  assert len(shapes) == len(limits["lengths"])
  assert all(part["inputs"].shape == part["tags"].shape == part["mask"].shape for part in parts)
  assert sum(part["inputs"].size for part in parts) < 0.85 * data["inputs"].size
  spec = shapes_of(data, TIMES, B, limits)
  longest = max(shapes)
  assert (spec["inputs"].shape, spec["targets"].shape) == longest
  assert {name: x.dtype for name, x in spec.items()} == {name: x.dtype for name, x in parts[0].items()}


def test_sequences_of_one_length_have_one_bucket():
  data = {"inputs": np.ones((10, 7)), "lengths": np.full(10, 7, np.int32)}
  limits = edges(data, {"inputs": "lengths"}, 5)
  assert limits == {"lengths": (7,)}
  first = bucketed(data, {"inputs": "lengths"}, B, limits)(0, 0)
  np.testing.assert_array_equal(first["mask"], np.ones(B))


def test_evaluation_has_everything_once_and_what_is_longer_than_any_bucket_whole():
  limits = edges(split(longest=20), TIMES, 3)
  data = split(23, seed=1)  # longer than those the buckets were made for
  assert data["lengths"].max() > limits["lengths"][-1]
  parts = list(by_length(data, TIMES, B, limits))
  assert all(len(part["number"]) == B for part in parts)
  numbers = np.concatenate([part["number"] for part in parts])
  assert sorted(numbers[numbers > 0]) == list(range(1, 24))
  assert sum(part["mask"].sum() for part in parts) == data["lengths"].sum()
  for part in parts:
    assert part["inputs"].shape[1] >= part["lengths"].max()
  assert len(parts[0]["inputs"][0]) < len(parts[-1]["inputs"][0])


def test_without_a_mask_of_its_own_rows_are_counted():
  data = {name: array for name, array in split(10).items() if name != "mask"}
  times = {name: lengths for name, lengths in TIMES.items() if name != "mask"}
  parts = list(by_length(data, times, B, edges(data, times, 2)))
  assert sum(part["mask"].sum() for part in parts) == 10
  np.testing.assert_array_equal(parts[-1]["mask"], [1, 1, 0, 0])
