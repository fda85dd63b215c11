import numpy as np
import pytest

from dlcourse.data.batches import in_order, shuffled, unbatched

ARRAYS = {"x": np.arange(10), "y": np.arange(20).reshape(10, 2)}


@pytest.mark.parametrize("size", [1, 3, 4, 10, 23])
def test_every_epoch_covers_every_example_exactly_once(size):
  batch = shuffled(ARRAYS, size)
  stream = np.concatenate([batch(0, step)["x"] for step in range(30)])
  epochs = stream[: len(stream) // 10 * 10].reshape(-1, 10)
  assert np.all(np.sort(epochs, axis=1) == np.arange(10))
  assert len({tuple(epoch) for epoch in epochs}) == len(epochs)  # each in its own order


def test_a_batch_is_a_function_of_seed_and_step_alone():
  one, other = shuffled(ARRAYS, 4), shuffled(ARRAYS, 4)
  for step in (7, 0, 3, 7):
    expected = other(1, step)
    for name, array in one(1, step).items():
      np.testing.assert_array_equal(array, expected[name])
  assert np.any(one(1, 0)["x"] != one(2, 0)["x"])


def test_rows_stay_together_and_all_count():
  batch = shuffled(ARRAYS, 7)(0, 5)
  np.testing.assert_array_equal(batch["y"], ARRAYS["y"][batch["x"]])
  np.testing.assert_array_equal(batch["mask"], np.ones(7, np.float32))


def test_evaluation_keeps_the_order_and_masks_the_padding():
  batches = list(in_order(ARRAYS, 4))
  assert [len(batch["x"]) for batch in batches] == [4, 4, 4]
  mask = np.concatenate([batch["mask"] for batch in batches])
  np.testing.assert_array_equal(mask, [1.0] * 10 + [0.0] * 2)
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches])[mask > 0], array)


def test_a_full_last_batch_is_not_followed_by_an_empty_one():
  assert len(list(in_order(ARRAYS, 5))) == 2


def test_a_mask_of_the_data_is_kept_and_padded():
  arrays = {"x": np.arange(3), "mask": np.array([[1, 1], [1, 0], [0, 1]], np.float32)}
  first, last = in_order(arrays, 2)
  np.testing.assert_array_equal(first["mask"], [[1, 1], [1, 0]])
  np.testing.assert_array_equal(last["mask"], [[0, 1], [0, 0]])


def test_examples_come_back_from_batches_in_their_order_and_without_padding():
  arrays = {"x": np.arange(14.0).reshape(7, 2), "label": np.arange(7), "unwanted": np.zeros(7)}
  found = unbatched(in_order(arrays, 3), ("x", "label"))
  assert set(found) == {"x", "label"}
  for name, array in found.items():
    np.testing.assert_array_equal(array, arrays[name])
