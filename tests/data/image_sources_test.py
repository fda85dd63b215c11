import gzip
import struct
import zlib

import numpy as np
import pytest
from absl import logging
from PIL import Image

from dlcourse.data import image_sources
from dlcourse.data.image_sources import load_images
from dlcourse.errors import UserError


@pytest.fixture
def warnings_of(monkeypatch):
  messages = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
  return messages


def save(path, colour, size=(6, 4), mode="RGB"):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, colour).save(path)


@pytest.mark.data
def test_mnist_5k_has_500_of_each_class():
  images = load_images("mnist_5k")
  split = images.splits["all"]
  assert split["image"].shape == (5000, 28, 28, 1)
  assert split["image"].dtype == np.uint8
  assert split["label"].dtype == np.int32
  np.testing.assert_array_equal(np.bincount(split["label"]), [500] * 10)
  assert zlib.crc32(split["image"].tobytes()) == 3_663_709_680
  assert zlib.crc32(split["label"].astype(np.uint8).tobytes()) == 1_736_751_662
  assert images.classes == tuple("0123456789")


def test_digits_are_scaled_to_bytes():
  images = load_images("digits")
  split = images.splits["all"]
  assert split["image"].shape == (1797, 8, 8, 1)
  # The first image as published: row 0 is 0 0 5 13 9 1 0 0 of 16.
  np.testing.assert_array_equal(split["image"][0, 0, :, 0], [0, 0, 80, 207, 143, 16, 0, 0])
  np.testing.assert_array_equal(split["label"][:5], [0, 1, 2, 3, 4])
  assert split["image"].max() == 255
  assert split["label"].dtype == np.int32


@pytest.fixture
def idx(tmp_path):
  """An IDX folder: train plain, test compressed, pixel value = its index."""
  for prefix, count in (("train", 3), ("t10k", 2)):
    pixels = struct.pack(">IIII", 0x803, count, 2, 3) + bytes(range(6 * count))
    labels = struct.pack(">II", 0x801, count) + bytes([2, 0, 1][:count])
    images_name, labels_name = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    if prefix == "train":
      (tmp_path / images_name).write_bytes(pixels)
      (tmp_path / labels_name).write_bytes(labels)
    else:
      (tmp_path / f"{images_name}.gz").write_bytes(gzip.compress(pixels))
      (tmp_path / f"{labels_name}.gz").write_bytes(gzip.compress(labels))
  return tmp_path


def test_idx_folder(idx):
  images = load_images(f"idx:{idx}")
  assert list(images.splits) == ["train", "test"]
  np.testing.assert_array_equal(images.splits["train"]["image"][1, ..., 0], [[6, 7, 8], [9, 10, 11]])
  np.testing.assert_array_equal(images.splits["train"]["label"], [2, 0, 1])
  assert images.splits["test"]["image"].shape == (2, 2, 3, 1)
  assert images.classes == ("0", "1", "2")


def test_idx_folder_with_class_names(idx):
  (idx / "classes.txt").write_text("Shirt\nT-shirt/top\nBag\n")
  assert load_images(f"idx:{idx}").classes == ("Shirt", "T-shirt/top", "Bag")
  (idx / "classes.txt").write_text("Shirt\nBag\n")
  with pytest.raises(UserError, match="names 2 classes, the labels need 3"):
    load_images(f"idx:{idx}")
  (idx / "classes.txt").write_text("Shirt\nBag\nShoe\nBag\n")
  with pytest.raises(UserError, match="names a class twice: 'Bag'"):
    load_images(f"idx:{idx}")


def test_idx_folder_that_does_not_fit(idx):
  labels = idx / "train-labels-idx1-ubyte"
  labels.write_bytes(struct.pack(">II", 0x801, 2) + b"\0\1")
  with pytest.raises(UserError, match="3 images and 2 labels"):
    load_images(f"idx:{idx}")
  labels.write_bytes(struct.pack(">II", 0x801, 3) + b"\0\1")
  with pytest.raises(UserError, match="should hold 3 bytes"):
    load_images(f"idx:{idx}")
  labels.unlink()
  with pytest.raises(UserError, match=r"lacks train-labels-idx1-ubyte"):
    load_images(f"idx:{idx}")


def test_folder_with_splits(tmp_path):
  save(tmp_path / "train/cat/1.png", "red")
  save(tmp_path / "train/dog/1.PNG", "blue")
  save(tmp_path / "val/dog/1.png", "blue")
  save(tmp_path / "test/cat/1.bmp", "red")
  save(tmp_path / "train/dog/deep/2.png", "green")  # nested deeper: ignored
  save(tmp_path / "train/loose.png", "green")
  (tmp_path / "train/cat/notes.txt").write_text("not an image")
  (tmp_path / "train/empty").mkdir()
  images = load_images(f"folder:{tmp_path}")
  assert images.classes == ("cat", "dog")
  assert {name: len(split["label"]) for name, split in images.splits.items()} == {
    "train": 2,
    "validation": 1,
    "test": 1,
  }
  np.testing.assert_array_equal(images.splits["train"]["label"], [0, 1])
  np.testing.assert_array_equal(images.splits["validation"]["label"], [1])
  assert images.splits["train"]["image"].shape == (2, 4, 6, 3)  # one common size is kept
  np.testing.assert_array_equal(images.splits["train"]["image"][1, 0, 0], [0, 0, 255])


def test_folder_without_splits_of_different_sizes(tmp_path):
  save(tmp_path / "a/1.png", "red", size=(30, 10))
  save(tmp_path / "b/1.png", "blue", size=(7, 7))
  split = load_images(f"folder:{tmp_path}", size=5).splits["all"]
  assert split["image"].shape == (2, 5, 5, 3)
  np.testing.assert_array_equal(split["image"][:, 2, 2], [[255, 0, 0], [0, 0, 255]])


def test_folder_of_large_images_is_resized(tmp_path):
  save(tmp_path / "a/1.png", "red", size=(40, 30))
  save(tmp_path / "b/1.png", "red", size=(40, 30))
  assert load_images(f"folder:{tmp_path}", size=39).splits["all"]["image"].shape[1:3] == (39, 39)
  assert load_images(f"folder:{tmp_path}", size=40).splits["all"]["image"].shape[1:3] == (30, 40)


def test_folder_of_grey_images_has_one_channel(tmp_path):
  save(tmp_path / "a/1.png", 7, mode="L")
  save(tmp_path / "b/1.png", (9, 9, 9))
  split = load_images(f"folder:{tmp_path}").splits["all"]
  assert split["image"].shape == (2, 4, 6, 1)
  np.testing.assert_array_equal(split["image"][:, 0, 0, 0], [7, 9])
  save(tmp_path / "b/2.png", (9, 9, 10))
  assert load_images(f"folder:{tmp_path}").splits["all"]["image"].shape[-1] == 3


def test_folder_skips_broken_images_by_name(tmp_path, warnings_of):
  save(tmp_path / "a/1.png", "red")
  save(tmp_path / "a/2.png", "red")
  save(tmp_path / "b/1.png", "blue")
  (tmp_path / "a/no_header.jpg").write_bytes(b"rubbish")
  whole = (tmp_path / "a/2.png").read_bytes()
  (tmp_path / "a/2.png").write_bytes(whole[:45])  # the header is sound, the pixels are not
  split = load_images(f"folder:{tmp_path}").splits["all"]
  np.testing.assert_array_equal(split["label"], [0, 1])
  np.testing.assert_array_equal(split["image"][1, 0, 0], [0, 0, 255])
  load_images(f"folder:{tmp_path}")  # as the report of a run does
  assert len(warnings_of) == 2
  for name in ("a/no_header.jpg", "a/2.png"):
    assert sum(str(tmp_path / name) in message for message in warnings_of) == 1


def test_folder_with_nothing_readable(tmp_path, warnings_of):
  save(tmp_path / "train/a/1.png", "red")
  save(tmp_path / "train/b/1.png", "red")
  (tmp_path / "test/a").mkdir(parents=True)
  (tmp_path / "test/a/1.png").write_bytes(b"rubbish")
  with pytest.raises(UserError, match="split test has no image that can be read"):
    load_images(f"folder:{tmp_path}")


def test_wrong_folders_are_reported_in_one_line(tmp_path):
  save(tmp_path / "one/a/1.png", "red")
  save(tmp_path / "two/train/a/1.png", "red")
  save(tmp_path / "two/train/b/1.png", "red")
  save(tmp_path / "two/test/c/1.png", "red")
  save(tmp_path / "both/train/a/1.png", "red")
  save(tmp_path / "both/val/a/1.png", "red")
  save(tmp_path / "both/validation/a/1.png", "red")
  for folder, reason in {
    "none": "no such folder",
    "one": "holds 1 classes",
    "two": "has a class that train lacks: 'c'",
    "both": "both validation/ and val/",
  }.items():
    with pytest.raises(UserError, match=reason) as info:
      load_images(f"folder:{tmp_path / folder}")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["mnist_5", "mnist_5k:x", "folder:", "cifar", ""])
def test_unknown_names(name):
  with pytest.raises(UserError, match="unknown data set"):
    load_images(name)


def test_every_suffix_has_a_decoder(tmp_path):
  suffixes = sorted(image_sources.IMAGE_SUFFIXES)
  for suffix in suffixes:
    save(tmp_path / f"a/x{suffix}", "white")
    save(tmp_path / f"b/x{suffix}", "white")
  assert len(load_images(f"folder:{tmp_path}").splits["all"]["label"]) == 2 * len(suffixes)
