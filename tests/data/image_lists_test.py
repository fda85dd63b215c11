import os

import numpy as np
import pytest
from absl import logging
from PIL import Image

from dlcourse.data import image_lists
from dlcourse.data.image_lists import list_folder, list_table, same_files
from dlcourse.data.image_sources import load_images
from dlcourse.errors import UserError


@pytest.fixture
def warnings_of(monkeypatch):
  messages = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: messages.append(text % args))
  image_lists._say.cache_clear()
  return messages


def save(path, colour, size=(6, 4), mode="RGB"):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, colour).save(path)


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
  save(tmp_path / "b/1.png", "blue", size=(40, 30))
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


def test_every_suffix_has_a_decoder(tmp_path):
  suffixes = sorted(image_lists.IMAGE_SUFFIXES)
  for number, suffix in enumerate(suffixes):
    save(tmp_path / f"a/x{suffix}", (0, 0, 20 * number))
    save(tmp_path / f"b/x{suffix}", (255, 0, 20 * number))
  assert len(load_images(f"folder:{tmp_path}").splits["all"]["label"]) == 2 * len(suffixes)


def test_files_are_the_same_by_their_contents(tmp_path):
  for name, text in {"a": "one", "b": "two", "c": "one", "d": "three", "e": "one"}.items():
    (tmp_path / name).write_text(text)
  assert same_files(sorted(tmp_path.iterdir())) == [[0, 2, 4]]
  assert same_files([tmp_path / name for name in "bab"]) == [[0, 2]]


def test_repeats_count_once_and_contradictions_not_at_all(tmp_path, warnings_of):
  save(tmp_path / "a/1.png", "red")
  save(tmp_path / "a/2.png", "red")
  save(tmp_path / "a/3.png", "green")
  save(tmp_path / "b/1.png", "blue")
  save(tmp_path / "b/2.png", "black")
  save(tmp_path / "a/4.png", "black")
  split = load_images(f"folder:{tmp_path}").splits["all"]
  np.testing.assert_array_equal(split["label"], [0, 0, 1])
  np.testing.assert_array_equal(split["image"][:, 0, 0], [[255, 0, 0], [0, 128, 0], [0, 0, 255]])
  assert any("left out 1 that repeat" in message and "a/2.png" in message for message in warnings_of)
  assert any("a/4.png" in message and "in the classes a, b" in message for message in warnings_of)


def test_splits_that_are_published_stay_as_they_are(tmp_path):
  for place in ("train/a/1.png", "train/a/2.png", "test/a/1.png"):
    save(tmp_path / place, "red")
  save(tmp_path / "train/b/1.png", "blue")
  splits = load_images(f"folder:{tmp_path}").splits
  assert {name: len(split["label"]) for name, split in splits.items()} == {"train": 3, "test": 1}


def table(tmp_path, text):
  path = tmp_path / "labels.csv"
  path.write_text(text)
  return str(path)


def test_a_table_names_files_labels_and_splits(tmp_path):
  for name, colour in {"x": "red", "y": "blue", "z": "green"}.items():
    save(tmp_path / f"pictures/{name}.png", colour)
  rows = "label,file,split\n10,pictures/x.png,train\n9,pictures/y.png,train\n9,pictures/z.png,val\n"
  images = load_images("csv:" + table(tmp_path, rows))
  assert images.classes == ("9", "10")
  np.testing.assert_array_equal(images.splits["train"]["label"], [1, 0])
  np.testing.assert_array_equal(images.splits["validation"]["image"][0, 0, 0], [0, 128, 0])


def test_a_table_without_splits_is_one_set(tmp_path):
  listed = list_table(table(tmp_path, "file,label\nx.png,cat\ny.png,dog\n"))
  assert [(image.path, image.label) for image in listed.splits["all"]] == [
    (tmp_path / "x.png", 0),
    (tmp_path / "y.png", 1),
  ]


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("name,label\nx.png,a\ny.png,b\n", "of which file and label are needed"),
    ("file,label\nx.png,a\ny.png,a\n", "has one label, 'a'"),
    ("file,label,split\nx.png,a,training\ny.png,b,train\n", "'training' is no split"),
    ("file,label,split\nx.png,a,test\ny.png,b,val\n", "no image of the split train"),
    ("file,label\nx.png\n", "1 fields"),
    ("", "is empty"),
  ],
)
def test_wrong_tables_are_reported_in_one_line(tmp_path, text, reason):
  with pytest.raises(UserError, match=reason) as info:
    list_table(table(tmp_path, text))
  assert "\n" not in str(info.value)


def test_a_folder_is_listed_without_being_read(tmp_path):
  save(tmp_path / "a/1.png", "red")
  (tmp_path / "b").mkdir()
  (tmp_path / "b/1.jpg").write_text("no image")
  listed = list_folder(str(tmp_path))
  assert listed.classes == ("a", "b")
  assert [image.label for image in listed.splits["all"]] == [0, 1]


def test_a_class_whose_images_lie_deeper_is_named(tmp_path, warnings_of):
  for name in ("a/0.png", "b/0.png", "c/more/0.png", "c/more/1.png"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  assert list_folder(str(tmp_path)).classes == ("a", "b")
  assert f"left out {tmp_path}/c: it holds no image itself, but 2 in folders; move them up" in warnings_of


def test_a_class_whose_name_cannot_be_written_is_refused(tmp_path):
  for name in (b"caf\xe9", b"tea"):
    folder = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(folder)
    open(os.path.join(folder, b"0.png"), "w").close()
  with pytest.raises(UserError, match=r"'caf\\udce9', which is not UTF-8"):
    list_folder(str(tmp_path))
