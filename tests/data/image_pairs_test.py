import numpy as np
import pytest

from dlcourse.data import images
from dlcourse.data.image_pairs import ImagePairs, cluttered, downscaled, edges, luma, undersampled
from dlcourse.data.images import Images
from dlcourse.data.source import ImageSet
from dlcourse.errors import UserError

SPLITS = ("train", "validation", "test")


def random_images(count, side=12, channels=3, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels)).astype(np.uint8)


@pytest.fixture
def colours(monkeypatch):
  """60 colour images of 12 x 12."""
  part = {"image": random_images(60), "label": (np.arange(60) % 2).astype(np.int32)}
  source = ImageSet({"all": part}, ("a", "b"), "noise", "none", "none")
  monkeypatch.setattr(images, "load_once", lambda name, size: source)


def whole(data, split):
  batches = [*data.eval_batches(split)]
  return {
    name: np.concatenate([batch[name][batch["mask"] > 0] for batch in batches])
    for name in ("image", "source", "label")
  }


def test_downscaled_pixels_are_means_of_squares():
  x = random_images(2)
  small = downscaled(x)
  assert small.dtype == np.uint8
  expected = [x[1, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4, 2].mean() for i in range(3) for j in range(3)]
  np.testing.assert_allclose(small[1, :, :, 2].ravel(), expected, atol=0.5)


def test_luma_of_pure_colours_and_of_grey():
  pure = np.zeros((1, 1, 5, 3), np.uint8)
  pure[0, 0, 0, 0] = pure[0, 0, 1, 1] = pure[0, 0, 2, 2] = 255
  pure[0, 0, 3] = 255
  pure[0, 0, 4] = 77
  assert luma(pure).ravel().tolist() == [76, 150, 29, 255, 77]
  grey = random_images(2, channels=1)
  np.testing.assert_array_equal(luma(grey), grey)


def test_edges_stand_on_both_sides_of_a_step_and_nowhere_else():
  for axis in (1, 2):
    step = np.zeros((1, 8, 8, 1), np.uint8)
    step[0, 4:] = 255
    found = edges(step if axis == 1 else step.swapaxes(1, 2))
    lines = found.min(axis=3 - axis)[0, :, 0]
    np.testing.assert_array_equal(lines, found.max(axis=3 - axis)[0, :, 0])
    assert lines.tolist() == [0, 0, 0, 255, 255, 0, 0, 0]
  assert not edges(np.full((1, 8, 8, 3), 200, np.uint8)).any()


def test_edges_are_where_the_brightness_changes_by_a_quarter_of_the_range():
  for height, seen in ((60, False), (68, True)):
    step = np.zeros((1, 8, 8, 1), np.uint8)
    step[0, :, 4:] = height
    assert edges(step).any() == seen


def test_a_digit_is_before_patches_of_others():
  x = np.zeros((40, 16, 16, 1), np.uint8)
  x[:, 6:10, 6:10] = np.arange(200, 240, dtype=np.uint8)[:, None, None, None]
  scenes = cluttered(x, np.random.default_rng(0))
  assert scenes.shape == x.shape
  assert np.all(scenes >= x)
  own = x.max((1, 2, 3))
  behind = [scene[(scene >= 200) & (scene != value)] for scene, value in zip(scenes, own, strict=True)]
  assert sum(len(found) > 0 for found in behind) > 30  # of sixteen patches some hold ink
  assert len(set(np.concatenate(behind).tolist())) > 20  # of digits of all kinds
  noise = scenes[scenes < 200]
  assert noise.max() < 64
  assert len(np.unique(noise)) == 64
  outside = scenes.copy()
  outside[:, 6:10, 6:10] = 0
  assert np.mean(outside >= 200) > 0.02  # as bright as the digit


def test_undersampled_images_have_the_coefficients_that_are_kept_and_no_others():
  x = (128 + 12 * np.random.default_rng(0).normal(size=(60, 32, 32, 1))).clip(40, 215).astype(np.uint8)
  sources = undersampled(x, 0.25, np.random.default_rng(1)).astype(float)
  spectrum = np.abs(np.fft.fft2(sources[..., 0], axes=(1, 2))).mean(axis=1)  # [N, S]
  there = spectrum > 0.1 * np.abs(np.fft.fft2(x[..., 0], axes=(1, 2))).mean(axis=1)
  assert there[:, [0, 1, 31]].all()  # three of eight are the lowest frequencies
  np.testing.assert_array_equal(there[:, 1:], there[:, :0:-1])  # of a real image, opposite ones come together
  assert there.sum(axis=1).max() <= 3 + 2 * 5
  assert len(np.unique(there, axis=0)) > 50  # other columns for each image
  share = there[:, 2:31].mean(axis=0)
  assert np.all((share > 0.1) & (share < 0.6))  # all of them at some time: 1 - (24 / 29) (23 / 28) = 0.32


def test_all_coefficients_give_the_image_and_one_column_its_means():
  x = random_images(3, side=16)
  np.testing.assert_array_equal(undersampled(x, 1.0, np.random.default_rng(0)), x)
  rows = undersampled(x, 0.01, np.random.default_rng(0))
  np.testing.assert_allclose(rows, np.broadcast_to(x.mean(axis=2, keepdims=True), x.shape), atol=0.51)


def test_sources_of_an_autoencoder_are_in_the_unit_interval_and_the_same_each_time(colours):
  one, again, other = (
    ImagePairs("noise", "undersampled", size=12, scale="unit", split_seed=seed).build() for seed in (0, 0, 1)
  )
  assert one.digest == again.digest != other.digest
  test = whole(one, "test")
  assert test["source"].shape == test["image"].shape
  prepared = one.spec.prepare(None, test)
  np.testing.assert_allclose(prepared["source"], test["source"] / 255, atol=1e-6)
  np.testing.assert_allclose(prepared["image"], test["image"] / 255, atol=1e-6)


@pytest.mark.parametrize(
  ("kind", "derive", "shape"),
  [("downscaled", downscaled, (3, 3, 3)), ("grey", luma, (12, 12, 1)), ("edges", edges, (12, 12, 1))],
)
def test_every_image_comes_with_what_is_derived_from_it(colours, kind, derive, shape):
  data = ImagePairs("noise", kind, batch_size=8, size=12, folds=3).build()
  plain = Images("noise", batch_size=8, size=12, folds=3).build()
  assert data.sizes == plain.sizes
  for split in SPLITS:
    part = whole(data, split)
    assert part["source"].dtype == np.uint8
    assert part["source"].shape[1:] == shape
    np.testing.assert_array_equal(part["source"], derive(part["image"]))
  for ours, theirs in zip(data.eval_batches("test"), plain.eval_batches("test"), strict=True):
    for name in ("image", "label", "mask"):
      np.testing.assert_array_equal(ours[name], theirs[name])
  batch = data.batch(3, 5)
  np.testing.assert_array_equal(batch["image"], plain.batch(3, 5)["image"])
  np.testing.assert_array_equal(batch["source"], derive(batch["image"]))
  assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
    name: (x.shape, x.dtype) for name, x in data.spec.batch.items()
  }
  assert data.spec.image_shape == (12, 12, 3)


def test_both_arrays_reach_minus_one_and_one(colours):
  spec = ImagePairs("noise", batch_size=8, size=12).build().spec
  ends = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
  prepared = spec.prepare(None, {"image": ends, "source": ends[:, :, ::-1], "label": np.zeros(1)})
  np.testing.assert_allclose(np.ravel(prepared["image"]), [-1, 1], atol=1e-6)
  np.testing.assert_allclose(np.ravel(prepared["source"]), [1, -1], atol=1e-6)
  np.testing.assert_allclose(spec.unscale(prepared["image"]), ends / 255, atol=1e-6)


def test_what_is_made_from_clutter_is_the_mask_of_the_digit():
  data = ImagePairs("digits", "cluttered", batch_size=64, size=16, fit="resize").build()
  plain = Images("digits", batch_size=64, size=16, fit="resize").build()
  clean = next(plain.eval_batches("test"))["image"]
  test = next(data.eval_batches("test"))
  np.testing.assert_array_equal(test["image"], np.where(clean >= 128, 255, 0))
  assert np.all(test["source"] >= clean)
  assert np.mean((test["source"] >= 128) & (test["image"] == 0)) > 0.05


def test_the_clutter_of_an_example_is_always_the_same():
  def built(seed):
    return ImagePairs("digits", "cluttered", batch_size=64, size=16, fit="resize", split_seed=seed).build()

  one, again, other = built(0), built(0), built(1)
  np.testing.assert_array_equal(whole(one, "test")["source"], whole(again, "test")["source"])
  assert one.digest == again.digest != other.digest
  train = whole(one, "train")
  scenes = {scene.tobytes(): image for scene, image in zip(train["source"], train["image"], strict=True)}
  for step in (0, 30):  # of two epochs
    batch = one.batch(0, step)
    for scene, image in zip(batch["source"], batch["image"], strict=True):
      np.testing.assert_array_equal(scenes[scene.tobytes()], image)


def test_unpaired_sources_are_of_other_images_than_those_that_are_seen(colours):
  paired, data = (
    ImagePairs("noise", "grey", batch_size=11, size=12, unpaired=on).build() for on in (False, True)
  )
  count = paired.sizes["train"]
  assert data.sizes == paired.sizes | {"train": count // 2}
  for split in ("validation", "test"):
    for name, array in whole(paired, split).items():
      np.testing.assert_array_equal(whole(data, split)[name], array)

  known = whole(paired, "train")
  numbers = {
    name: {row.tobytes(): number for number, row in enumerate(known[name])} for name in ("image", "source")
  }

  def shown(name, batches):
    return [numbers[name][row.tobytes()] for batch in batches for row in batch[name]]

  assert count == 44  # so that an epoch has two batches
  batches = [data.batch(0, step) for step in range(4)]
  images, sources = shown("image", batches), shown("source", batches)
  assert not set(images) & set(sources)
  assert len(set(images)) == len(set(sources)) == count // 2  # nothing is left out
  met = {*zip(images, sources, strict=True)}
  assert len(met) > count // 2  # others meet in the second epoch
  assert [known["label"][number] for number in images] == [
    label for batch in batches for label in batch["label"]
  ]
  assert data.digest != paired.digest
  assert "grey pairs, parted for training, of noise" in data.description


def test_unpaired_batches_are_functions_of_seed_and_step(colours):
  data = ImagePairs("noise", "edges", batch_size=6, size=12, unpaired=True).build()
  for name in ("image", "source", "mask"):
    np.testing.assert_array_equal(data.batch(1, 3)[name], data.batch(1, 3)[name])
  assert np.any(data.batch(1, 3)["source"] != data.batch(2, 3)["source"])
  assert {name: (x.shape, x.dtype) for name, x in data.batch(0, 0).items()} == {
    name: (x.shape, x.dtype) for name, x in data.spec.batch.items()
  }


def test_a_single_training_image_has_no_halves(monkeypatch):
  one, two = ({"image": random_images(n), "label": np.zeros(n, np.int32)} for n in (1, 2))
  source = ImageSet({"train": one, "validation": two, "test": two}, ("a",), "noise", "none", "none")
  monkeypatch.setattr(images, "load_once", lambda name, size: source)
  with pytest.raises(UserError, match=r"--data\.unpaired needs two training images or more, not 1"):
    ImagePairs("noise", "grey", size=12, unpaired=True).build()


def test_the_digest_and_the_description_tell_the_kinds_apart(colours):
  found = [ImagePairs("noise", kind, batch_size=8, size=12).build() for kind in ("grey", "edges")]
  assert found[0].digest != found[1].digest
  assert "grey pairs of noise" in found[0].description


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"size": 30}, r"--data\.size=30 cannot be divided by 4; --data\.size=28 can"),
    ({"size": 3}, r"--data\.size=3 is too small"),
    ({"batch_size": 0}, r"--data\.batch_size=0"),
    ({"validation": 1.0}, r"--data\.validation=1\.0"),
    ({"kept": 1.5}, r"--data\.kept=1\.5 has to be between 0 and 1"),
    ({"kind": "cluttered"}, r"--data\.kind=cluttered needs images of 1 channel\(s\); those of noise have 3"),
  ],
)
def test_fields_that_do_not_fit_are_refused(colours, fields, said):
  with pytest.raises(UserError, match=said):
    ImagePairs(**{"source": "noise", "size": 12} | fields).build()


def test_grey_images_have_no_colour_to_restore():
  with pytest.raises(
    UserError, match=r"--data\.kind=grey needs images of 3 channel\(s\); those of digits have 1"
  ):
    ImagePairs("digits", "grey", size=8).build()


def test_an_unknown_split_is_refused(colours):
  with pytest.raises(UserError, match="unknown split 'tests'; perhaps you meant 'test'"):
    ImagePairs("noise", size=12).build().eval_batches("tests")


@pytest.mark.data
def test_the_digits_of_mnist_are_cluttered():
  data = ImagePairs("mnist_5k", "cluttered", batch_size=32).build()
  assert data.sizes == {"train": 3600, "validation": 400, "test": 1000}
  assert data.spec.batch["source"].shape == data.spec.batch["image"].shape == (32, 32, 32, 1)
