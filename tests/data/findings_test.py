import numpy as np
import pytest
from PIL import Image

from dlcourse.data.findings import inspect
from dlcourse.data.image_lists import list_folder, list_table


def save(path, colour, size=(6, 4), mode="RGB"):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, colour).save(path)


@pytest.fixture
def messy(tmp_path):
  for number in range(4):
    save(tmp_path / f"cat/{number}.png", (number, 0, 0), size=(10 + number, 20))
  save(tmp_path / "cat/again.png", (0, 0, 0), size=(10, 20))
  save(tmp_path / "dog/clear.png", (9, 9, 9, 9), mode="RGBA")
  save(tmp_path / "dog/both.png", "black")
  save(tmp_path / "cat/both.png", "black")
  (tmp_path / "dog/text.jpg").write_text("no image")
  Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(tmp_path / "dog/deep.png")
  return tmp_path


def test_every_kind_of_mess_is_found(messy):
  found = inspect(list_folder(str(messy)))
  assert found.counts == {"all": {"cat": 6, "dog": 3}}
  assert [row["file"] for row in found.broken] == ["dog/text.jpg"]
  assert "cannot" in found.broken[0]["reason"]
  assert str(messy) not in found.broken[0]["reason"]
  assert found.repeated == [["cat/0.png", "cat/again.png"]]
  assert found.contradictions == [["cat/both.png", "dog/both.png"]]
  assert found.leaks == []
  assert found.unusual == {"transparency": 1, "16 bits": 1}
  assert not found.grey
  assert found.sides == ((4, 6), (20, 10), (20, 13))


def test_what_is_said_of_it_names_numbers_and_files(messy):
  said = " / ".join(inspect(list_folder(str(messy))).remarks())
  for part in (
    "'dog' (3)",
    "cannot be read: 1, dog/text.jpg",
    "another: 1, such as cat/again.png, which is cat/0.png",
  ):
    assert part in said
  assert "several classes: cat/both.png, dog/both.png" in said
  assert "unequal" not in said  # 6 to 3


def test_unequal_classes_are_said(tmp_path):
  for number in range(9):
    save(tmp_path / f"a/{number}.png", (number, 0, 0))
  for number in range(3):
    save(tmp_path / f"b/{number}.png", (number, 9, 0))
  assert "classes are unequal: 'a' has 9 images, 'b' 3" in inspect(list_folder(str(tmp_path))).remarks()


def test_a_leak_between_published_splits_is_found(tmp_path):
  for place in ("train/a/1.png", "test/a/7.png"):
    save(tmp_path / place, 5, mode="L")
  save(tmp_path / "train/b/1.png", 6, mode="L")
  found = inspect(list_folder(str(tmp_path)))
  assert found.leaks == [["train/a/1.png", "test/a/7.png"]]
  assert found.grey
  assert found.classes == {"a": 2, "b": 1}
  assert any("more than one split" in remark for remark in found.remarks())


def test_a_table_that_names_a_file_twice_is_found_out(tmp_path):
  for number in range(3):
    save(tmp_path / f"{number}.png", (number, 0, 0))
  table = tmp_path / "images.csv"
  table.write_text(
    "file,label,split\n0.png,a,train\n1.png,b,train\n0.png,a,test\n2.png,a,train\n2.png,b,train\n"
  )
  found = inspect(list_table(str(table)))
  assert (found.leaks, found.contradictions, found.repeated) == ([["0.png"] * 2], [["2.png"] * 2], [])
  assert "the same image is in several classes: 2.png" in found.remarks()
