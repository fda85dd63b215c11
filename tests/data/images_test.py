import itertools

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dlcourse.data import images
from dlcourse.data.augment import Flip, Shift
from dlcourse.data.images import Images
from dlcourse.data.source import ImageSet
from dlcourse.errors import UserError

SPLITS = ("train", "validation", "test")


def whole(data, split):
  """(images, labels) of a split without padding."""
  parts = list(data.eval_batches(split))
  mask = np.concatenate([part["mask"] for part in parts]) > 0
  return tuple(np.concatenate([part[name] for part in parts])[mask] for name in ("image", "label"))


@pytest.fixture(scope="module")
def folds():
  return [Images("digits", batch_size=64, size=8, fold=fold).build() for fold in range(5)]


def rows(array):
  return sorted(image.tobytes() for image in array)


def test_the_splits_are_the_whole_source_without_overlap(folds):
  source = np.round(load_digits().images / 16 * 255).astype(np.uint8)[..., None]
  parts = [whole(folds[0], split)[0] for split in SPLITS]
  assert [len(part) for part in parts] == [folds[0].sizes[split] for split in SPLITS]
  assert sum(map(len, parts)) == 1797
  assert rows(np.concatenate(parts)) == rows(source)  # as a multiset: nothing twice, nothing lost
  names = [{image.tobytes() for image in part} for part in parts]
  assert all(a.isdisjoint(b) for a, b in itertools.combinations(names, 2))


def test_the_test_folds_partition_the_source_with_equal_class_counts(folds):
  tests = [whole(data, "test") for data in folds]
  everything = np.concatenate([whole(folds[0], split)[0] for split in SPLITS])
  assert rows(np.concatenate([test[0] for test in tests])) == rows(everything)
  counts = np.array([np.bincount(labels, minlength=10) for _, labels in tests])
  assert np.all(counts.max(axis=0) - counts.min(axis=0) <= 1)
  shares = np.bincount(whole(folds[0], "validation")[1]) / np.bincount(whole(folds[0], "train")[1])
  assert np.all(np.abs(shares - 1 / 9) < 0.01)


def test_labels_stay_with_their_images(folds):
  digits = load_digits()
  label_of = dict(zip((i.astype(np.uint8).tobytes() for i in digits.images), digits.target, strict=True))
  found, labels = whole(folds[0], "validation")
  back = np.round(found[..., 0] / 255 * 16).astype(np.uint8)
  assert [label_of[image.tobytes()] for image in back] == labels.tolist()


def test_the_split_does_not_depend_on_the_run(folds):
  again = Images("digits", batch_size=64, size=8).build()
  np.testing.assert_array_equal(whole(again, "test")[0], whole(folds[0], "test")[0])
  other = Images("digits", batch_size=64, size=8, split_seed=1).build()
  assert rows(whole(other, "test")[0]) != rows(whole(folds[0], "test")[0])


def test_training_batches_come_from_the_training_split(folds):
  batch = folds[0].batch(0, 0)
  train = {image.tobytes() for image in whole(folds[0], "train")[0]}
  assert all(image.tobytes() in train for image in batch["image"])
  shapes = {name: (x.shape, x.dtype) for name, x in batch.items()}
  assert shapes == {name: (x.shape, x.dtype) for name, x in folds[0].spec.batch.items()}
  assert folds[0].spec.num_classes == 10
  assert folds[0].spec.image_shape == (8, 8, 1)


@pytest.mark.parametrize("validation", [0.1, 0.2, 0.4])
def test_the_validation_split_has_its_share(validation):
  sizes = Images("digits", size=8, validation=validation).build().sizes
  assert sizes["validation"] / (sizes["validation"] + sizes["train"]) == pytest.approx(validation, abs=0.02)


@pytest.mark.parametrize(
  ("scale", "low", "high"),
  [("unit", 0, 1), ("symmetric", -1, 1), ("efficientnet_lite", -127 / 128, 1)],
)
def test_scales_reach_their_ends_and_unscale_undoes_them(scale, low, high):
  spec = Images("digits", batch_size=64, size=8, scale=scale).build().spec
  pixels = np.array([0, 128, 255], np.uint8).reshape(1, 1, 3, 1)
  scaled = np.asarray(spec.prepare(None, {"image": pixels})["image"])
  np.testing.assert_allclose(scaled.ravel()[[0, 2]], [low, high], atol=1e-6)
  np.testing.assert_allclose(spec.unscale(scaled), pixels / 255, atol=1e-6)


def test_the_standard_scale_is_that_of_the_training_split():
  data = Images("digits", batch_size=64, size=8, scale="standard").build()
  train = data.spec.prepare(None, {"image": whole(data, "train")[0]})["image"]
  assert float(train.mean()) == pytest.approx(0, abs=1e-4)
  assert float(train.std()) == pytest.approx(1, abs=1e-4)
  test = np.asarray(data.spec.prepare(None, {"image": whole(data, "test")[0]})["image"])
  assert abs(test.mean()) > 10 * abs(train.mean())  # its own mean has not been used
  np.testing.assert_allclose(data.spec.unscale(test), whole(data, "test")[0] / 255, atol=1e-5)


def test_augmentation_acts_before_the_scale_and_only_with_a_key():
  plain = Images("digits", batch_size=8, size=8, scale="symmetric").build()
  data = Images("digits", batch_size=8, size=8, scale="symmetric", augment=(Shift(7), Flip())).build()
  batch = plain.batch(0, 0)
  expected = plain.spec.prepare(None, batch)["image"]
  np.testing.assert_array_equal(data.spec.prepare(None, batch)["image"], expected)
  key = jax.random.key(0)
  changed = data.spec.prepare(key, batch)["image"]
  assert np.any(changed != expected)
  assert changed.min() == -1  # what comes in from outside is black, not grey
  again = Flip()(
    jax.random.fold_in(key, 1), Shift(7)(jax.random.fold_in(key, 0), batch["image"] / np.float32(255))
  )
  np.testing.assert_allclose(changed, again * 2 - 1, atol=1e-6)


def test_small_images_are_padded_and_large_ones_resized():
  small = Images("digits", size=8).build().batch(0, 0)["image"]
  padded = Images("digits", size=11).build().batch(0, 0)["image"]
  np.testing.assert_array_equal(padded[:, 1:9, 1:9], small)
  assert padded.sum(dtype=np.int64) == small.sum(dtype=np.int64)
  resized = Images("digits", size=4).build().batch(0, 0)["image"]
  assert resized.shape[1:] == (4, 4, 1)
  blocks = small.reshape(-1, 4, 2, 4, 2, 1).mean(axis=(2, 4))
  assert np.corrcoef(resized.ravel(), blocks.ravel())[0, 1] > 0.95


def test_small_images_are_enlarged_where_that_is_asked_for():
  small = Images("digits", size=8).build().batch(0, 0)["image"]
  enlarged = Images("digits", size=16, fit="resize").build().batch(0, 0)["image"]
  assert enlarged.shape[1:] == (16, 16, 1)
  blocks = enlarged.reshape(-1, 8, 2, 8, 2, 1).mean(axis=(2, 4))
  assert np.corrcoef(small.ravel(), blocks.ravel())[0, 1] > 0.95
  np.testing.assert_array_equal(Images("digits", size=8, fit="resize").build().batch(0, 0)["image"], small)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("batch_size", 0),
    ("size", 0),
    ("folds", 1),
    ("fold", -1),
    ("split_seed", -1),
    ("starved_images", 0),
    ("validation", 0.0),
    ("validation", 1.0),
  ],
)
def test_a_number_that_fits_no_source_is_refused(field, value):
  with pytest.raises(UserError, match=f"--data.{field}={value} (is|has to be)"):
    Images("digits", **{field: value})


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"fold": 5}, "--data.fold=5 is outside 0 … 4"),
    ({"source": "digit"}, "perhaps you meant 'digits'"),
    ({"left_out": "33"}, "unknown class of --data.left_out '33'; perhaps you meant '3'"),
    ({"starved": "33"}, "unknown class of --data.starved '33'; perhaps you meant '3'"),
    ({"starved": "3", "starved_images": 900}, "--data.starved_images=900 cannot be left of the 1.. images"),
    ({"augment": (Shift(8),)}, "pixels=8 leaves nothing of an image of 8x8"),
    ({"scale": "imagenet"}, "--data.scale=imagenet is for colour images; these have 1"),
  ],
)
def test_fields_that_do_not_fit_are_refused(fields, said):
  with pytest.raises(UserError, match=said):
    Images(**{"source": "digits", "size": 8} | fields).build()


def test_an_unknown_split_is_refused(folds):
  with pytest.raises(UserError, match="unknown split 'tests'; perhaps you meant 'test'"):
    folds[0].eval_batches("tests")


def test_published_splits_are_kept(monkeypatch):
  def part(value, count):
    return {"image": np.full((count, 8, 8, 1), value, np.uint8), "label": np.arange(count, dtype=np.int32) % 2}

  source = ImageSet({"train": part(1, 40), "test": part(2, 7)}, ("a", "b"), "d", "l", "c")
  monkeypatch.setattr(images, "load_once", lambda name, size: source)
  data = Images("published", size=8, validation=0.25).build()
  assert data.sizes == {"train": 30, "test": 7, "validation": 10}
  assert np.all(whole(data, "test")[0] == 2)
  assert np.all(whole(data, "validation")[0] == 1)


@pytest.mark.data
def test_mnist_is_split_evenly_by_class():
  data = Images("mnist_5k").build()
  assert data.sizes == {"train": 3600, "validation": 400, "test": 1000}
  assert np.bincount(whole(data, "test")[1]).tolist() == [100] * 10
  assert data.spec.image_shape == (32, 32, 1)


def test_per_class_keeps_as_many_of_each_class_and_leaves_the_test_split_alone(folds):
  few = Images("digits", batch_size=64, size=8, per_class=20).build()
  np.testing.assert_array_equal(np.bincount(whole(few, "train")[1]), [18] * 10)
  np.testing.assert_array_equal(np.bincount(whole(few, "validation")[1]), [2] * 10)
  assert rows(whole(few, "test")[0]) == rows(whole(folds[0], "test")[0])
  assert set(rows(whole(few, "train")[0])) <= set(
    rows(np.concatenate([whole(folds[0], s)[0] for s in SPLITS[:2]]))
  )


def test_a_class_that_is_left_out_is_in_the_test_split_alone(folds):
  data = Images("digits", batch_size=64, size=8, left_out="3").build()
  for split in ("train", "validation"):
    (all_images, all_labels), (known, labels) = whole(folds[0], split), whole(data, split)
    assert 3 in all_labels
    np.testing.assert_array_equal(labels, all_labels[all_labels != 3])
    np.testing.assert_array_equal(known, all_images[all_labels != 3])
  for mine, all_of_it in zip(whole(data, "test"), whole(folds[0], "test"), strict=True):
    np.testing.assert_array_equal(mine, all_of_it)
  assert data.spec.classes == folds[0].spec.classes
  assert data.digest != folds[0].digest


def test_a_starved_class_keeps_few_images_and_the_same_share_to_validate_on(folds):
  data = Images("digits", batch_size=64, size=8, starved="3", starved_images=20).build()
  for split, left in (("train", 20), ("validation", 2)):
    (all_images, all_labels), (kept, labels) = whole(folds[0], split), whole(data, split)
    assert np.sum(labels == 3) == left
    assert rows(kept[labels != 3]) == rows(all_images[all_labels != 3])
    assert set(rows(kept[labels == 3])) <= set(rows(all_images[all_labels == 3]))
  for mine, all_of_it in zip(whole(data, "test"), whole(folds[0], "test"), strict=True):
    np.testing.assert_array_equal(mine, all_of_it)
  other = Images("digits", batch_size=64, size=8, starved="3", starved_images=20, validation=0.3).build()
  few = Images("digits", batch_size=64, size=8, starved="3", starved_images=1).build()
  assert np.sum(whole(other, "validation")[1] == 3) == pytest.approx(20 * 0.3 / 0.7, abs=1)
  assert [np.sum(whole(few, split)[1] == 3) for split in ("train", "validation")] == [1, 1]
