import gzip
import struct
import zlib

import numpy as np
import pytest
from absl import logging
from PIL import Image

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


@pytest.mark.parametrize("name", ["mnist_5", "mnist_5k:x", "folder:", "cifar", ""])
def test_unknown_names(name):
  with pytest.raises(UserError, match="unknown data set"):
    load_images(name)
