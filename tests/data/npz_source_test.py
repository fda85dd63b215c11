"""`.npz` files in the manner of MedMNIST, good and bad."""

import contextlib
import zipfile

import numpy as np
import pytest

from dlcourse.data.image_sources import load_images
from dlcourse.errors import UserError

RNG = np.random.default_rng(0)
GOOD = {
  "train_images": RNG.integers(0, 256, (6, 5, 4, 3), np.uint8),
  "train_labels": np.array([[0], [1], [2], [0], [1], [2]]),
  "val_images": RNG.integers(0, 256, (3, 5, 4, 3), np.uint8),
  "val_labels": np.array([[0], [1], [2]]),
  "test_images": RNG.integers(0, 256, (2, 5, 4, 3), np.uint8),
  "test_labels": np.array([2, 1]),
}


@pytest.fixture
def save(tmp_path):
  def write(**changes):
    np.savez_compressed(tmp_path / "set.npz", **{k: v for k, v in (GOOD | changes).items() if v is not None})
    return f"npz:{tmp_path / 'set.npz'}"

  return write


def test_published_splits_are_kept(save):
  images = load_images(save())
  assert set(images.splits) == {"train", "validation", "test"}
  np.testing.assert_array_equal(images.splits["train"]["image"], GOOD["train_images"])
  np.testing.assert_array_equal(images.splits["validation"]["label"], [0, 1, 2])
  assert images.splits["test"]["label"].dtype == np.int32
  assert images.classes == ("0", "1", "2")


def test_grey_images_get_a_channel_and_classes_their_names(save):
  grey = {name: GOOD[name][..., 0] for name in GOOD if name.endswith("images")}
  images = load_images(save(**grey, classes=np.array(["a", "b", "c"])))
  assert images.splits["train"]["image"].shape == (6, 5, 4, 1)
  assert images.classes == ("a", "b", "c")


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"train_images": None}, "has no train_images"),
    ({"train_labels": None}, "not one number from 0 for each of 6"),
    ({"test_labels": np.array([0, 1, 2])}, "for each of 2"),
    ({"val_labels": np.array([0, -1, 2])}, "not one number from 0"),
    ({"test_images": np.zeros((2, 4, 4, 3), np.uint8)}, "differ in size"),
    ({"train_images": np.zeros((6, 5, 4, 3), np.float32)}, "not uint8"),
    ({"train_labels": np.array([0, 1, 2, 0, 1, 2_000_000_000])}, "go up to 2,000,000,000"),
    ({"train_images": np.zeros((6, 5, 4, 7), np.uint8)}, "7 channels"),
    ({"classes": np.array(["a"])}, "names 1 classes, the labels need 3"),
    ({"train_images": np.array([{}] * 6, dtype=object)}, "cannot be read as .npz"),
  ],
)
def test_bad_arrays_are_one_clear_line(changes, words, save):
  with pytest.raises(UserError, match=words) as error:
    load_images(save(**changes))
  assert "\n" not in str(error.value)


def test_damaged_files_are_one_clear_line(save, tmp_path):
  file = tmp_path / "set.npz"
  save()
  whole = file.read_bytes()
  for damaged in (whole[: len(whole) // 2], b"", b"no zip", whole[:200] + bytes(50) + whole[250:]):
    file.write_bytes(damaged)
    with pytest.raises(UserError, match="cannot be read as"):
      load_images(f"npz:{file}")
  with pytest.raises(UserError, match="no such file"):
    load_images(f"npz:{tmp_path / 'other.npz'}")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
  monkeypatch.setattr("dlcourse.data.npz_source.MAX_BYTES", 1000)
  with zipfile.ZipFile(tmp_path / "set.npz", "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("train_images.npy", bytes(2000))
  with pytest.raises(UserError, match="declares 2,000 bytes of arrays; a file of its size is read up to 1,000"):
    load_images(f"npz:{tmp_path / 'set.npz'}")


def test_a_bomb_is_known_by_the_size_of_its_file(save, tmp_path, monkeypatch):
  monkeypatch.setattr("dlcourse.data.npz_source._SMALL", 1000)
  for height, refused in ((50, False), (5000, True)):  # some 80 and some 500 times as large as the file
    images = np.zeros((6, height, 4000), np.uint8)
    images[0, :3] = RNG.integers(0, 256, (3, 4000))
    save(train_images=images, val_images=None, test_images=None)
    with pytest.raises(UserError, match=r"declares 120,000,\d{3} by") if refused else contextlib.nullcontext():
      load_images(f"npz:{tmp_path / 'set.npz'}")


@pytest.mark.parametrize(
  "header", ["{'descr': '|u1', 'shape': (", "(" * 99, "{'descr': ('|u1', 3, 4, 5)}", "7"]
)
def test_a_header_that_says_anything_is_one_line(tmp_path, header):
  text = header.encode().ljust(118) + b"\n"
  with zipfile.ZipFile(tmp_path / "set.npz", "w") as file:
    file.writestr("train_images.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text)
  with pytest.raises(UserError, match=r"cannot be read as \.npz") as refused:
    load_images(f"npz:{tmp_path / 'set.npz'}")
  assert "\n" not in str(refused.value)
