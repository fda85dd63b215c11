import io
import resource

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image
from sklearn.datasets import load_digits

from dlcourse.data import streamed
from dlcourse.data.augment import Flip, Shift
from dlcourse.data.streamed import AreaCrop, SideCrop, Stored, StreamedImages
from dlcourse.errors import UserError

COUNT, HELD_OUT, TESTED = 12, 5, 2  # images of train and validation; of train that then validate


def photo(label: int) -> Image.Image:
  """An image of its own size whose red is its label, 10 times, and whose other channels are ramps."""
  width, height = 20 + 3 * (label % 5), 34 - label
  pixels = np.empty((height, width, 3), np.uint8)
  pixels[..., 0] = 10 * label
  pixels[..., 1] = np.linspace(0, 255, width)
  pixels[..., 2] = np.linspace(0, 255, height)[:, None]
  return Image.fromarray(pixels)


def prepare(folder, splits, file_format="array_record", name="photos"):
  class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(num_classes=COUNT + HELD_OUT),
      }
      return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(examples) for split, examples in splits.items()}

    def _generate_examples(self, examples):
      for index, (label, image) in enumerate(examples):
        yield index, {"image": image, "label": label}

  Photos.name = name
  Photos(data_dir=folder, file_format=file_format).download_and_prepare()


def photos(labels):
  return [(label, photo(label)) for label in labels]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("prepared")
  hidden = [(-1, photo(0))]  # as the test split of ImageNet is published
  train, validation = photos(range(COUNT)), photos(range(COUNT, COUNT + HELD_OUT))
  prepare(folder, {"train": train, "validation": validation, "test": hidden})
  return folder


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(folder))


def recipe(**fields):
  return StreamedImages(**{"source": "tfds:photos", "batch_size": 4, "size": 8, "validation": 0.16} | fields)


def labels_in_red(batch):
  return np.round(batch["image"][:, 4, 4, 0] / 10).astype(int).tolist()


def assert_equal(batch, other):
  jax.tree.map(np.testing.assert_array_equal, batch, other)


def test_a_batch_is_the_same_in_every_build_order_and_number_of_threads():
  first = recipe().build()
  batches = [first.batch(3, step) for step in range(6)]
  for fields in ({"workers": 1, "ahead": 0}, {"workers": 7, "ahead": 5}):
    other = recipe(**fields).build()
    for step in (5, 0, 1, 0, 3, 2, 4):
      assert_equal(other.batch(3, step), batches[step])
  assert np.any(first.batch(4, 0)["image"] != batches[0]["image"])


def test_every_image_comes_once_an_epoch_with_its_label_cut_out_anew():
  data = recipe(batch_size=5).build()
  assert data.sizes == {"train": 10, "validation": 2, "test": 5}
  seen = {}
  for epoch in range(3):
    batches = [data.batch(0, 2 * epoch + half) for half in range(2)]
    labels = np.concatenate([batch["label"] for batch in batches])
    assert np.concatenate([labels_in_red(batch) for batch in batches]).tolist() == labels.tolist()
    assert len(set(labels.tolist())) == 10
    seen[epoch] = dict(zip(labels, np.concatenate([batch["image"] for batch in batches]), strict=True))
  assert seen[0].keys() == seen[1].keys() == seen[2].keys()
  assert all(np.any(seen[0][label] != seen[1][label]) for label in seen[0])


def test_a_batch_over_the_end_of_an_epoch_draws_from_both():
  data, whole = recipe(batch_size=4).build(), recipe(batch_size=10).build()
  stream = np.concatenate([data.batch(0, step)["image"] for step in range(5)])
  np.testing.assert_array_equal(stream, np.concatenate([whole.batch(0, step)["image"] for step in range(2)]))


def test_evaluation_sees_the_middle_of_every_image_once():
  data = recipe().build()
  for split, count in data.sizes.items():
    batches = list(data.eval_batches(split))
    assert all(batch["image"].shape == (4, 8, 8, 3) for batch in batches)
    mask = np.concatenate([batch["mask"] for batch in batches]) > 0
    assert mask.sum() == count
    assert len(mask) == 4 * -(-count // 4)
    labels = np.concatenate([batch["label"] for batch in batches])[mask].tolist()
    assert np.concatenate([labels_in_red(batch) for batch in batches])[mask].tolist() == labels
    assert_equal(batches, list(data.eval_batches(split)))
  assert sorted(labels) == list(range(COUNT, COUNT + HELD_OUT))  # the published validation split is the test
  seen = photo(labels[0])
  side = 0.875 * min(seen.size)
  columns = (seen.width - side) / 2 + (np.arange(8) + 0.5) * side / 8
  ramp = 255 * (columns - 0.5) / (seen.width - 1)
  np.testing.assert_allclose(batches[0]["image"][0, 4, :, 1], ramp, atol=2)


def test_the_held_out_share_does_not_depend_on_the_run_and_changes_the_digest():
  def held_out(data):
    return [label for batch in data.eval_batches("validation") for label in batch["label"][batch["mask"] > 0]]

  data, again, other = recipe().build(), recipe().build(), recipe(split_seed=3).build()
  assert (held_out(data), data.digest) == (held_out(again), again.digest)
  assert held_out(data) != held_out(other)
  assert data.digest != other.digest
  trained = {label for step in range(3) for label in data.batch(0, step)["label"].tolist()}
  assert trained | set(held_out(data)) == set(range(COUNT))
  assert not trained & set(held_out(data))


def test_the_specification_is_that_of_the_batches():
  data = recipe(augment=(Flip(),)).build()
  batch = data.batch(0, 0)
  assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
    name: (x.shape, x.dtype) for name, x in data.spec.batch.items()
  }
  assert data.spec.num_classes == COUNT + HELD_OUT
  plain = data.spec.prepare(None, batch)["image"]
  expected = (batch["image"] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  np.testing.assert_allclose(plain, expected, atol=1e-5)
  np.testing.assert_allclose(data.spec.unscale(plain), batch["image"] / 255, atol=1e-6)
  flipped = data.spec.prepare(jax.random.key(1), batch)["image"]
  mirrored = [np.allclose(a, b[:, ::-1], atol=1e-5) for a, b in zip(plain, flipped, strict=True)]
  assert any(mirrored)
  assert not all(mirrored)


def test_broken_images_are_masked_and_named_once(tmp_path, monkeypatch):
  warned = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: warned.append(text % args))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  torn = [(label, io.BytesIO(b"\xff\xd8 no image")) for label in (6, 7)]
  prepare(tmp_path, {"train": [*photos([0, 1, 2, 3]), torn[0]], "test": [*photos([5]), torn[1]]})
  data = recipe(batch_size=4, validation=0.1, split_seed=1).build()
  for batch in (*(data.batch(0, step) for step in range(4)), *data.eval_batches("test")):
    sound = batch["mask"] > 0
    assert not {6, 7} & set(batch["label"][sound].tolist())
    assert np.all(batch["image"][sound].any(axis=(1, 2, 3)))
    assert not np.any(batch["image"][~sound])
  assert sum(data.batch(0, step)["mask"].sum() for step in range(4)) == 12  # 4 epochs of 4 images, one torn
  assert len(warned) == 2
  assert "label 6" in warned[0]
  assert "label 7" in warned[1]


def test_a_batch_without_any_sound_image_is_refused(monkeypatch):
  rows = [{"image": b"broken", "label": 0}] * 9
  stored = Stored({"train": rows}, ("a",), "d", "l", "c", "0")
  monkeypatch.setattr(streamed, "open_images", lambda name, size: stored)
  with pytest.raises(UserError, match="none of the 4 images of batch 0 can be decoded"):
    recipe().build().batch(0, 0)


def test_a_damaged_set_is_reported(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  prepare(tmp_path, {"train": photos(range(9))})
  (path,) = tmp_path.glob("photos/1.0.0/*array_record*")
  path.write_bytes(path.read_bytes()[:-40_000])
  with pytest.raises(UserError, match=r"cannot be read .* prepare it again") as refused:
    recipe().build().batch(0, 0)
  assert "\n" not in str(refused.value)


def test_files_for_all_shards_are_allowed_or_the_limit_is_named(monkeypatch):
  limits = [(1024, 4096)]
  monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
  monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append(limit))
  for count in (1000, 1600, 1500):
    streamed._allow_open_files(count)
  assert limits == [(1024, 4096), (1600, 4096)]
  with pytest.raises(UserError, match="needs 5000 open files, and 4096 are allowed"):
    streamed._allow_open_files(5000)


def test_another_file_format_is_refused(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  prepare(tmp_path, {"train": photos([0])})
  info = tmp_path / "photos" / "1.0.0" / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match="is not stored as array_record"):
    recipe().build()


def test_a_set_that_is_not_there_says_where_to_put_it(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  with pytest.raises(UserError, match=r"prepare it elsewhere with tfds.builder\('imagenet2012'") as refused:
    StreamedImages().build()
  assert "\n" not in str(refused.value)


def test_sources_in_memory_are_enlarged_and_become_colour():
  data = StreamedImages("digits", batch_size=4, size=16, validation=0.1).build()
  assert data.sizes == {"train": 1437, "validation": 180, "test": 180}
  splits = [
    np.concatenate([batch["image"][batch["mask"] > 0] for batch in data.eval_batches(split)])
    for split in ("validation", "test")
  ]
  assert all(np.array_equal(images[..., 0], images[..., 2]) for images in splits)
  assert {image.tobytes() for image in splits[0]}.isdisjoint(image.tobytes() for image in splits[1])
  assert splits[0].std(axis=0).max() > 40
  assert load_digits().images.shape[1:] == (8, 8)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (80, 300), (1000, 20)])
def test_area_crops_have_their_share_and_ratio_inside_the_image(width, height):
  rng = np.random.default_rng(0)
  boxes = np.array([AreaCrop().box(rng, width, height, 224) for _ in range(2000)])
  left, top, right, bottom = boxes.T
  assert left.min() >= 0
  assert top.min() >= 0
  assert right.max() <= width + 1e-6
  assert bottom.max() <= height + 1e-6
  across, down = right - left, bottom - top
  assert np.all(np.abs(np.log(across / down)) <= np.log(4 / 3) + 1e-6)
  if (width, height) == (500, 375):
    share = across * down / (width * height)
    assert share.min() == pytest.approx(0.08, abs=0.01)
    assert share.max() == pytest.approx(1, abs=0.05)
    assert np.abs(np.mean(left + right) / 2 - width / 2) < 10


def test_side_crops_are_size_pixels_of_the_scaled_image():
  rng = np.random.default_rng(0)
  boxes = np.array([SideCrop(256, 512).box(rng, 640, 480, 224) for _ in range(2000)])
  sides = boxes[:, 2:] - boxes[:, :2]
  np.testing.assert_allclose(sides[:, 0], sides[:, 1])
  lengths = 480 * 224 / sides[:, 0]  # of the shorter side when it was cut
  assert lengths.min() == pytest.approx(256)
  assert lengths.max() == pytest.approx(512)
  assert np.mean(lengths) == pytest.approx(384, abs=6)
  assert boxes.min() >= 0
  assert np.all(boxes.max(axis=0) <= [640, 480, 640, 480])


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"batch_size": 0}, "--data.batch_size=0 has to be"),
    ({"size": 0}, "--data.size=0 has to be"),
    ({"workers": 0}, "--data.workers=0 has to be"),
    ({"ahead": -1}, "--data.ahead=-1 is too small"),
    ({"validation": 1.0}, "--data.validation=1.0 is a share"),
    ({"validation": 0.99}, "too few training images"),
    ({"crop": SideCrop(7, 9)}, "--data.crop.shortest=7 leaves no 8 pixels"),
    ({"augment": (Shift(8),)}, "pixels=8 leaves nothing"),
    ({"source": "digit"}, "perhaps you meant 'digits'"),
  ],
)
def test_fields_that_do_not_fit_are_refused(fields, said):
  with pytest.raises(UserError, match=said):
    recipe(**fields).build()


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda: AreaCrop(smallest=0), "--data.crop.smallest=0 is a share"),
    (lambda: AreaCrop(aspect=0.5), "--data.crop.aspect=0.5 is too small"),
    (lambda: SideCrop(256, 255), "--data.crop.longest=255 is too small"),
  ],
)
def test_crops_that_cannot_be_are_refused(make, said):
  with pytest.raises(UserError, match=said):
    make()


def test_an_unknown_split_is_refused():
  with pytest.raises(UserError, match="unknown split 'tests'; perhaps you meant 'test'"):
    recipe().build().eval_batches("tests")
