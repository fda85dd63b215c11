import numpy as np
import pytest

from dlcourse.data import series_sources
from dlcourse.data.pens import FARTHEST, NEAREST, PenStrings, movements, resampled
from dlcourse.data.series_sources import SeriesSet
from dlcourse.errors import UserError

SPLITS = ("train", "validation", "test")


@pytest.fixture
def digits(monkeypatch):
  """400 straight strokes to the right: the height of each tells which digit it is."""
  x, height = np.linspace(0, 100, 8), np.arange(400) / 4
  paths = np.stack([np.broadcast_to(x, (400, 8)), height[:, None] * np.linspace(0, 1, 8)], axis=-1)
  part = {
    "inputs": paths.astype(np.float32),
    "lengths": np.full(400, 8, np.int32),
    "label": (np.arange(400) % 10).astype(np.int32),
  }
  source = SeriesSet({"all": part}, tuple("0123456789"), "strokes", "none", "none")
  monkeypatch.setitem(series_sources._NAMED, "penbased", lambda: source)


def strings(data, split):
  for batch in data.eval_batches(split):
    for row in np.flatnonzero(batch["mask"]):
      yield {name: array[row] for name, array in batch.items()}


def test_equal_steps_along_the_path_with_both_ends():
  corner = np.array([[[0, 0], [3, 0], [3, 1]], [[0, 0], [0, 2], [0, 2]]], float)
  points = resampled(corner, np.array([5, 3]))
  np.testing.assert_allclose(points[:5], [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]], atol=1e-12)
  np.testing.assert_allclose(points[5:], [[0, 0], [0, 1], [0, 2]], atol=1e-12)


def test_a_path_of_no_length_stays_where_it_is():
  np.testing.assert_array_equal(resampled(np.ones((1, 8, 2)), np.array([4])), np.ones((4, 2)))


def test_movements_add_up_to_the_digits_each_to_the_right_of_the_last():
  rng = np.random.default_rng(0)
  paths, points, spaces = rng.uniform(size=(9, 8, 2)), rng.integers(5, 15, 9), rng.uniform(0.1, 0.4, 9)
  starts = np.array([0, 4, 5])
  moves, alone = movements(paths, points, spaces, starts), resampled(paths, points)
  ends = np.cumsum(points)
  for first, last in zip(starts, [4, 5, 9], strict=True):
    begin = ends[first] - points[first]
    np.testing.assert_array_equal(moves[begin], 0)
    path = np.cumsum(moves[begin : ends[last - 1]], axis=0)
    border = None
    for digit in range(first, last):
      place = ends[digit] - points[digit] - begin
      own = path[place : place + points[digit]]
      expected = alone[ends[digit] - points[digit] : ends[digit]]
      np.testing.assert_allclose(own - own[0], expected - expected[0], atol=1e-9)
      np.testing.assert_allclose(own[:, 1] - path[0, 1], expected[:, 1] - alone[begin, 1], atol=1e-9)
      if border is not None:
        assert own[:, 0].min() - border == pytest.approx(spaces[digit])
      border = own[:, 0].max()


def test_strings_keep_the_contract(digits):
  data = PenStrings(batch_size=16, strings=40).build()
  assert data.spec.classes == ("<blank>", *"0123456789")
  for batch in (data.batch(0, 0), *data.eval_batches("test")):
    assert {k: (x.shape, x.dtype) for k, x in batch.items()} == {
      k: (x.shape, x.dtype) for k, x in data.spec.batch.items()
    }
    for row in np.flatnonzero(batch["mask"]):
      length, labels = batch["lengths"][row], batch["labels"][row]
      count = batch["label_lengths"][row]
      assert 3 <= count <= 8
      assert 5 * count <= length <= 14 * count
      assert labels[:count].min() >= 1
      assert not labels[count:].any()
      assert not batch["inputs"][row, length:].any()
      assert labels.max() <= 10


def test_labels_name_the_digits_and_no_digit_is_in_two_splits(digits):
  data = PenStrings(batch_size=16, strings=60, most_points=8).build()
  seen = {split: set() for split in SPLITS}

  def read(string):
    """The digits that the strokes show; none where one of height 0 cannot be seen."""
    count = string["label_lengths"]
    rise = string["inputs"][: string["lengths"], 1]
    tops = np.append(np.cumsum(rise)[np.flatnonzero(rise < -1e-6) - 1], rise.sum())
    if len(tops) != count:
      return set()
    found = np.round(400 * tops).astype(int)
    np.testing.assert_array_equal(found % 10 + 1, string["labels"][:count])
    return set(found.tolist())

  for split in SPLITS:
    for string in strings(data, split):
      seen[split] |= read(string)
  for step in range(20):
    batch = data.batch(3, step)
    for row in range(16):
      seen["train"] |= read({name: array[row] for name, array in batch.items()})
  assert all(len(found) > 20 for found in seen.values())
  assert not seen["train"] & seen["test"]
  assert not seen["train"] & seen["validation"]
  assert not seen["validation"] & seen["test"]


def test_training_is_a_function_of_seed_and_step_and_evaluation_is_fixed(digits):
  one, other = PenStrings(strings=20).build(), PenStrings(strings=20).build()
  for step in (3, 0):
    for name, array in one.batch(1, step).items():
      np.testing.assert_array_equal(array, other.batch(1, step)[name])
  assert not np.array_equal(one.batch(1, 0)["inputs"], one.batch(1, 1)["inputs"])
  assert not np.array_equal(one.batch(1, 0)["inputs"], one.batch(2, 0)["inputs"])
  assert one.digest == other.digest != PenStrings(strings=20, most_points=13).build().digest
  for mine, theirs in zip(one.eval_batches("test"), other.eval_batches("test"), strict=True):
    np.testing.assert_array_equal(mine["inputs"], theirs["inputs"])


def test_lengths_of_digits_vary_so_that_counting_does_not_segment(digits):
  batch = PenStrings(shortest=1, longest=1).build().batch(0, 0)
  assert set(batch["lengths"]) == set(range(5, 15))


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"shortest": 0}, "--data.shortest=0"),
    ({"longest": 2}, "--data.longest=2"),
    ({"fewest_points": 1}, "--data.fewest_points=1"),
    ({"most_points": 4}, "--data.most_points=4"),
    ({"strings": 0}, "--data.strings=0"),
    ({"test": 1.0}, "--data.test=1.0"),
  ],
)
def test_a_number_that_fits_no_string_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    PenStrings(**fields)


@pytest.mark.data
def test_the_real_digits():
  data = PenStrings().build()
  assert "7,702 to train, 1,095 to validation, 2,195 to test" in data.description
  assert data.sizes == dict.fromkeys(SPLITS, 1000)
  batch = data.batch(0, 0)
  assert np.abs(batch["inputs"]).max() < 2 + FARTHEST
  assert NEAREST > 0
