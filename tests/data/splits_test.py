import numpy as np
import pytest

from dlcourse.data.splits import held_out, published_or_stratified, ranks, stratified
from dlcourse.errors import UserError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), (600, 300, 100)))
WHOLE = {"number": np.arange(1000), "label": LABELS}


def test_ranks_count_within_a_class():
  np.testing.assert_array_equal(ranks(np.array([2, 0, 2, 2, 0])), [0, 0, 1, 2, 1])


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_the_share_of_every_class_is_held_out(share):
  chosen = np.bincount(LABELS[held_out(LABELS, share)], minlength=3)
  assert np.all(np.abs(chosen - share * np.bincount(LABELS)) <= 1)


def test_the_splits_partition_the_set_with_equal_shares_of_every_class():
  splits = stratified(WHOLE, validation=0.1, test=0.2, seed=3)
  numbers = np.concatenate([part["number"] for part in splits.values()])
  np.testing.assert_array_equal(np.sort(numbers), np.arange(1000))
  for name, share in {"train": 0.7, "validation": 0.1, "test": 0.2}.items():
    found = np.bincount(splits[name]["label"], minlength=3)
    assert np.all(np.abs(found - share * np.array([600, 300, 100])) <= 2)
    np.testing.assert_array_equal(splits[name]["label"], LABELS[splits[name]["number"]])


def test_the_splits_depend_on_the_seed_alone():
  first, again, other = (stratified(WHOLE, 0.1, 0.1, seed)["test"]["number"] for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert set(first) != set(other)


def test_a_split_without_an_example_is_refused():
  few = {"label": np.zeros(5, np.int32)}
  with pytest.raises(UserError, match="the split 'validation' would be empty"):
    stratified(few, 0.1, 0.3, 0)


def test_published_splits_stay_and_only_what_is_missing_is_cut_off():
  published = np.repeat(["test", "train"], (300, 700)).tolist()
  splits = published_or_stratified(WHOLE, published, validation=0.1, test=0.5, seed=0)
  np.testing.assert_array_equal(splits["test"]["number"], np.arange(300))
  held = np.concatenate([splits["train"]["number"], splits["validation"]["number"]])
  np.testing.assert_array_equal(np.sort(held), np.arange(300, 1000))
  assert len(splits["validation"]["number"]) == pytest.approx(70, abs=3)
  published[500] = "validation"
  splits = published_or_stratified(WHOLE, published, validation=0.1, test=0.5, seed=0)
  assert splits["validation"]["number"].tolist() == [500]
  assert len(splits["train"]["number"]) == 699
  with pytest.raises(UserError, match="the split 'train' would be empty"):
    published_or_stratified(WHOLE, ["test"] * 1000, 0.1, 0.1, 0)
