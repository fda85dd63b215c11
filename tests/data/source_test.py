import pytest

from dlcourse.data.source import absolute


@pytest.mark.parametrize("kind", ["folder", "idx", "npz", "file", "csv", "tsv", "conll"])
@pytest.mark.parametrize("flag", ["", "--data.source="])
def test_files_become_absolute_with_and_without_their_flag(kind, flag, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert absolute(f"{flag}{kind}:a/../b") == f"{flag}{kind}:{tmp_path}/b"
  assert absolute(f"{flag}{kind}:{tmp_path}/b") == f"{flag}{kind}:{tmp_path}/b"


@pytest.mark.parametrize("text", ["mnist_5k", "tfds:cifar10", "--steps=3", "folder:", "a file:b"])
def test_everything_else_stays(text):
  assert absolute(text) == text
