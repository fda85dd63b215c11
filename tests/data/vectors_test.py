import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from dlcourse.data.batches import unbatched
from dlcourse.data.vectors import Vectors
from dlcourse.errors import UserError


def every(data, split):
  return unbatched(data.eval_batches(split), ("point", "label"))


def test_splits_are_stratified_disjoint_and_all_there_is():
  data = Vectors("breast_cancer").build()
  parts = {name: every(data, name) for name in data.sizes}
  together = np.concatenate([part["point"] for part in parts.values()])
  published = load_breast_cancer().data.astype(np.float32)
  np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(published, axis=0))
  assert data.sizes["test"] == 115  # 212 // 5 and 357 // 5, rounded up
  shares = [part["label"].mean() for part in parts.values()]
  assert np.ptp(shares) < 0.02
  other = every(Vectors("breast_cancer", fold=1).build(), "test")
  assert not {row.tobytes() for row in other["point"]} & {row.tobytes() for row in parts["test"]["point"]}


def test_training_points_have_mean_0_and_deviation_1_and_can_be_scaled_back():
  data = Vectors("breast_cancer").build()
  part = every(data, "train")
  scaled = data.spec.prepare(None, part)["point"]
  np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
  np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-4)
  np.testing.assert_allclose(data.spec.unscale(scaled), part["point"], rtol=1e-3, atol=1e-3)


def test_one_class_trains_and_all_test():
  data = Vectors("breast_cancer", only="benign").build()
  benign = data.spec.classes.index("benign")
  for split in ("train", "validation"):
    assert set(every(data, split)["label"]) == {benign}
  assert set(every(data, "test")["label"]) == {0, 1}
  np.testing.assert_array_equal(
    every(data, "test")["point"], every(Vectors("breast_cancer").build(), "test")["point"]
  )


@pytest.mark.data
def test_heartbeats_keep_the_published_test_split():
  data = Vectors("ecg5000", only="normal").build()
  assert data.sizes == {"train": 263, "validation": 29, "test": 4_500}
  assert data.spec.batch["point"].shape == (64, 140)
  counts = np.bincount(every(data, "test")["label"])
  assert tuple(counts) == (2627, 1590, 86, 175, 22)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"only": "bening"}, "perhaps you meant 'benign'"),
    ({"fold": 5}, "outside"),
    ({"validation": 1.0}, "share"),
  ],
)
def test_what_fits_no_source_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    Vectors("breast_cancer", **fields).build()
