import pytest

from dlcourse.data.text_sources import load_corpus
from dlcourse.errors import UserError


@pytest.mark.data
def test_shakespeare_is_complete():
  corpus = load_corpus("shakespeare")
  assert len(corpus.documents) == 42
  assert sum(map(len, corpus.documents.values())) == 5_057_198
  assert len(set("".join(corpus.documents.values()))) == 84
  assert corpus.documents["hamlet"].startswith("HAMLET, PRINCE OF DENMARK\n")
  assert "twelfth night" in corpus.documents


def test_one_file(tmp_path):
  path = tmp_path / "poem.txt"
  path.write_bytes("\ufeffÄpfel\r\nund Birnen\r\n".encode())
  assert dict(load_corpus(f"file:{path}").documents) == {"poem": "Äpfel\nund Birnen\n"}


def test_a_folder_of_files(tmp_path):
  (tmp_path / "b.txt").write_text("zwei")
  (tmp_path / "a.txt").write_text("eins")
  (tmp_path / "c.md").write_text("drei")
  assert list(load_corpus(f"file:{tmp_path}").documents.items()) == [("a", "eins"), ("b", "zwei")]


def test_bad_files_are_reported_in_one_line(tmp_path):
  (tmp_path / "latin.txt").write_bytes("abcä".encode("latin-1"))
  (tmp_path / "empty.txt").write_text(" \n")
  (tmp_path / "folder").mkdir()
  for name, reason in {
    "latin.txt": r"is not UTF-8 \(byte 3\)",
    "empty.txt": "is empty",
    "folder": "holds no .txt file",
    "gone": "no such file or folder",
  }.items():
    with pytest.raises(UserError, match=reason) as info:
      load_corpus(f"file:{tmp_path / name}")
    assert str(tmp_path / name) in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["shakespear", "file:", "file", ""])
def test_unknown_names(name):
  with pytest.raises(UserError, match="unknown corpus"):
    load_corpus(name)
