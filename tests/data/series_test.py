import numpy as np
import pytest

from dlcourse.data import series_sources
from dlcourse.data.series import Series
from dlcourse.data.series_sources import SeriesSet, load_series
from dlcourse.errors import UserError

SPLITS = ("train", "validation", "test")


def whole(data, split):
  """A split without padding; inputs by sequence."""
  found = {"inputs": [], "lengths": [], "label": []}
  for batch in data.eval_batches(split):
    real = batch["mask"] > 0
    found["inputs"] += list(batch["inputs"][real])
    found["lengths"] += list(batch["lengths"][real])
    found["label"] += list(batch["label"][real])
  return found


def write(path, rng, count=60, steps=20, channels=2, **more):
  """Every sequence begins with its own number; its label is that number modulo 3."""
  number = np.arange(count)
  inputs = rng.normal(size=(count, steps, channels)) * [3.0, 0.1] + [5.0, -2.0]
  inputs[:, 0, 0] = number
  lengths = rng.integers(2, steps + 1, count)
  np.savez(path, train_inputs=inputs, train_labels=number % 3, train_lengths=lengths, **more)
  return inputs, lengths


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "own.npz"
  return path, *write(path, np.random.default_rng(0))


def test_the_splits_are_the_whole_source_with_labels_and_lengths(file):
  path, inputs, lengths = file
  data = Series(f"npz:{path}", batch_size=8, scale="none", validation=0.2).build()
  parts = [whole(data, split) for split in SPLITS]
  numbers = [int(x[0, 0]) for part in parts for x in part["inputs"]]
  assert sorted(numbers) == list(range(60))  # nothing twice, nothing lost
  assert data.sizes == {split: len(part["label"]) for split, part in zip(SPLITS, parts, strict=True)}
  for part in parts:
    for x, length, label in zip(part["inputs"], part["lengths"], part["label"], strict=True):
      number = int(x[0, 0])
      assert (label, length) == (number % 3, lengths[number])
      np.testing.assert_allclose(x[:length], inputs[number, :length], rtol=1e-6)
      assert not x[length:].any()
  assert data.spec.num_classes == 3


def test_folds_partition_the_source_with_equal_class_counts(file):
  tests = [whole(Series(f"npz:{file[0]}", fold=fold).build(), "test") for fold in range(5)]
  assert sorted(int(x[0, 0]) for test in tests for x in test["inputs"]) == list(range(60))
  assert {tuple(np.bincount(test["label"])) for test in tests} == {(4, 4, 4)}


def test_training_batches_come_from_the_training_split_in_a_few_lengths(file):
  data = Series(f"npz:{file[0]}", batch_size=4, buckets=2).build()
  train = {int(x[0, 0]) for x in whole(data, "train")["inputs"]}
  batches = [data.batch(0, step) for step in range(-(-len(train) // 4))]
  seen = [int(x[0, 0]) for b in batches for x in b["inputs"][b["mask"] > 0]]
  assert sorted(seen) == sorted(train)
  assert {b["inputs"].shape for b in batches} <= {(4, 16, 2), (4, 20, 2), (4, 8, 2)}
  assert data.spec.batch["inputs"].shape == (4, 20, 2)


def test_the_standard_scale_is_that_of_the_counted_training_steps(file):
  data = Series(f"npz:{file[0]}", batch_size=64, scale="standard").build()
  for split, close in (("train", True), ("test", False)):
    (batch,) = data.eval_batches(split)
    scaled = np.asarray(data.spec.prepare(None, batch)["inputs"])
    counts = np.arange(scaled.shape[1]) < batch["lengths"][:, None]
    assert not scaled[~counts].any()
    mean, deviation = scaled[counts].mean(axis=0), scaled[counts].std(axis=0)
    assert np.allclose(mean, 0, atol=1e-4) == close
    assert np.allclose(deviation, 1, atol=1e-4) == close


def test_the_scale_of_a_sequence_ignores_its_padding(file):
  data = Series(f"npz:{file[0]}", batch_size=64, scale="sequence").build()
  (batch,) = data.eval_batches("test")
  scaled = np.asarray(data.spec.prepare(None, batch)["inputs"])
  assert np.isfinite(scaled).all()
  for x, length in zip(scaled, batch["lengths"], strict=True):
    if length > 1:
      np.testing.assert_allclose(x[:length].mean(axis=0), 0, atol=1e-4)
      np.testing.assert_allclose(x[:length].std(axis=0), 1, atol=1e-2)
    assert not x[length:].any()


def test_no_group_is_in_two_splits(monkeypatch):
  count = 200
  arrays = {
    "inputs": np.repeat(np.arange(count) % 10, 3).reshape(count, 3, 1).astype(np.float32),
    "lengths": np.full(count, 3, np.int32),
    "label": (np.arange(count) % 2).astype(np.int32),
    "group": (np.arange(count) % 10).astype(np.int32),
  }
  monkeypatch.setitem(
    series_sources._NAMED, "people", lambda: SeriesSet({"all": arrays}, ("a", "b"), "", "", "")
  )
  tested = []
  for fold in range(5):
    data = Series("people", fold=fold, scale="none").build()
    groups = [{int(x[0, 0]) for x in whole(data, split)["inputs"]} for split in SPLITS]
    assert [len(group) for group in groups] == [7, 1, 2]
    assert len(set.union(*groups)) == 10
    tested += groups[2]
  assert sorted(tested) == list(range(10))


def test_a_published_test_split_is_kept(tmp_path):
  more = {"test_inputs": np.full((4, 20, 2), -7.0), "test_labels": np.array([0, 1, 2, 1])}
  write(tmp_path / "own.npz", np.random.default_rng(0), **more)
  data = Series(f"npz:{tmp_path / 'own.npz'}", scale="none").build()
  assert data.sizes == {"train": 54, "validation": 6, "test": 4}
  assert np.all(np.array(whole(data, "test")["inputs"]) == -7)


@pytest.mark.parametrize(
  ("arrays", "said"),
  [
    ({"train_inputs": np.array(["a"])}, "not numbers"),
    ({"train_inputs": np.zeros((2, 3)), "train_labels": np.array([0, -1])}, "whole number from 0"),
    ({"train_inputs": np.zeros((2, 3)), "train_labels": np.zeros(2)}, "train_labels is float64"),
    ({"train_inputs": np.zeros((2, 3))}, "train_labels is float64"),
    (
      {"train_inputs": np.zeros((2, 3)), "train_labels": np.zeros(2, int), "train_lengths": np.array([4, 1])},
      "from 1 to 3 for each of 2",
    ),
    ({"train_inputs": np.full((2, 3), np.nan), "train_labels": np.zeros(2, int)}, "NaN or infinity"),
    ({"inputs": np.zeros(2)}, "has no train_inputs"),
    (
      {
        f"{split}_{name}": np.zeros(shape, int)
        for split, steps in (("train", 3), ("test", 4))
        for name, shape in (("inputs", (2, steps)), ("labels", 2))
      },
      "differ in steps or channels",
    ),
  ],
)
def test_bad_files_are_reported_in_one_line(tmp_path, arrays, said):
  np.savez(tmp_path / "bad.npz", **arrays)
  with pytest.raises(UserError, match=said) as info:
    load_series(f"npz:{tmp_path / 'bad.npz'}")
  assert "\n" not in str(info.value)


def test_nan_after_the_end_does_no_harm(tmp_path):
  inputs = np.array([[1.0, np.nan], [1.0, 2.0]])
  np.savez(tmp_path / "x.npz", train_inputs=inputs, train_labels=[0, 1], train_lengths=[1, 2])
  loaded = load_series(f"npz:{tmp_path / 'x.npz'}").splits["train"]
  np.testing.assert_array_equal(loaded["inputs"][..., 0], [[1, 0], [1, 2]])


def test_gaps_are_interpolated_and_missing_ends_shorten():
  row = np.array([[np.nan, 1.0, np.nan, 3.0, np.nan, np.nan], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
  short, full = series_sources._without_gaps(row)
  np.testing.assert_array_equal(short[:, 0], [1, 1, 2, 3])
  np.testing.assert_array_equal(full[:, 0], row[1])


def test_a_pickle_that_holds_more_than_arrays_is_refused(tmp_path):
  class Bomb:
    def __reduce__(self):
      return print, ("boom",)

  array = np.empty((), object)
  array[()] = {"X": Bomb()}
  np.save(tmp_path / "bad.npy", array, allow_pickle=True)
  with pytest.raises(UserError, match=r"builtins.print, which is no part of an array; nothing was run"):
    series_sources._read_pickled(tmp_path / "bad.npy")


def test_a_pickled_dict_of_arrays_is_read(tmp_path):
  kept = {"X": [np.ones((3, 2)), np.zeros((1, 2))], "y": np.array([4, 5]), "names": ["a"]}
  np.save(tmp_path / "good.npy", np.array(kept), allow_pickle=True)
  found = series_sources._read_pickled(tmp_path / "good.npy")
  np.testing.assert_array_equal(found["X"][0], kept["X"][0])
  np.testing.assert_array_equal(found["y"], kept["y"])
  assert found["names"] == ["a"]


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"batch_size": 0}, "--data.batch_size=0"),
    ({"folds": 1}, "--data.folds=1"),
    ({"fold": 5}, "--data.fold=5 has to be between 0 and 4"),
    ({"validation": 1.0}, "--data.validation=1.0 is"),
    ({"split_seed": -1}, "--data.split_seed=-1"),
  ],
)
def test_a_number_that_fits_no_source_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    Series("ecg5000", **fields)


@pytest.mark.parametrize(
  ("source", "said"),
  [
    ("ecg500", "perhaps you meant 'ecg5000'"),
    ("npz:", "unknown data set"),
    ("npz:/no/where.npz", "no such file"),
  ],
)
def test_unknown_sources_are_refused(source, said):
  with pytest.raises(UserError, match=said):
    Series(source).build()


def test_a_file_too_small_to_split_is_refused(tmp_path):
  np.savez(tmp_path / "x.npz", train_inputs=np.zeros((2, 3)), train_labels=np.arange(2))
  with pytest.raises(UserError, match="too few sequences"):
    Series(f"npz:{tmp_path / 'x.npz'}").build()


@pytest.mark.data
@pytest.mark.parametrize(
  ("source", "sizes", "shape", "classes"),
  [
    ("ecg5000", (452, 48, 4500), (140, 1), 5),
    ("ecg200", (91, 9, 100), (96, 1), 2),
    ("penbased", (7916, 875, 2201), (8, 2), 10),
    ("activity", (2448, 418, 739), (128, 6), 7),
  ],
)
def test_the_real_sources_are_complete(source, sizes, shape, classes):
  data = Series(source).build()
  assert tuple(data.sizes[split] for split in SPLITS) == sizes
  assert data.spec.batch["inputs"].shape == (64, *shape)
  assert data.spec.num_classes == classes
  assert "Licence" in data.description


@pytest.mark.data
def test_pen_digits_look_like_their_labels():
  """A centroid of each class finds most digits: labels belong to their rows, x and y are not mixed up."""
  data = Series("penbased", scale="none").build()
  train, test = (whole(data, split) for split in ("train", "test"))
  x, labels = np.array(train["inputs"]).reshape(-1, 16), np.array(train["label"])
  centres = np.stack([x[labels == digit].mean(axis=0) for digit in range(10)])
  asked = np.array(test["inputs"]).reshape(-1, 16)
  guessed = np.linalg.norm(asked[:, None] - centres, axis=-1).argmin(axis=1)
  assert np.mean(guessed == test["label"]) > 0.75
  ones = centres[1].reshape(8, 2)
  assert ones[:4, 1].max() > ones[-1, 1] + 40  # y grows upwards: a 1 ends at the foot
