"""Runs handed-in models again on images that their makers have not seen (Practical Work, 8).

Nothing in an archive is trusted. Its members are read into memory by their names, up to a size; nothing is
unpacked to a path that it names; no code of it is run; and each archive has a process of its own, which it may
crash or fill without harm to the others. The manifest finds damage and careless edits: whoever rewrites the
manifest as well is found only by what the model is worth on the held-back images.
"""

import csv
import hashlib
import io
import json
import math
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlcourse import platform
from dlcourse.classifier import Classifier, open_classifier
from dlcourse.data.image_files import BadImage
from dlcourse.data.image_lists import ImageList, is_table, list_folder, list_table
from dlcourse.data.single_images import read_single
from dlcourse.errors import UserError, described
from dlcourse.evaluators.intervals import proportion
from dlcourse.exported import read_exported
from dlcourse.handin import MANIFEST, MODEL, RESULT
from dlcourse.whole_file import whole_file

LARGEST = 2**29  # bytes of a member, and of all together
_MOST_MEMBERS = 1_000
_DIRECTORY = 2**20  # bytes of the list of members
_LONGEST = 2**20  # bytes of the manifest and of the result
_PIECE = 2**16  # bytes that are unpacked at once
_SECONDS = 1_200  # for an archive
_PIXELS = 2**22  # of a batch
_BATCH = 64  # images of it, at most
_SHOWN = 5  # of what is wrong
_KEPT = (MODEL, RESULT)
_BROKEN = (  # what `zipfile` raises on archives that are none
  *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError),
  *(NotImplementedError, OverflowError, MemoryError),
)


class Grade(NamedTuple):
  """What is found of an archive.

  Attributes:
    archive: its file.
    verdict: "whole", "tampered: …" or "unreadable: …", with what was measured nowhere.
    claimed: accuracy on the test split, as the archive says.
    measured: accuracy on the held-back images.
    low: end of its 95 % interval (Wilson, 1927).
    high: the other end.
    images: how many there were.
    parameters: of the model.
  """

  archive: str
  verdict: str
  claimed: float | None = None
  measured: float | None = None
  low: float | None = None
  high: float | None = None
  images: int = 0
  parameters: int | None = None


class Contents(NamedTuple):
  """What an archive holds.

  Attributes:
    kept: the members that are needed.
    wrong: what the manifest says otherwise, a line each.
  """

  kept: Mapping[str, bytes]
  wrong: Sequence[str]


def grade(archives: Sequence[Path], held_back: Path, recipe: str | None = None) -> Iterator[Grade]:
  """Grades archives, one after the other, each in a process of its own.

  Args:
    archives: files that `dlcourse submit` has written, perhaps.
    held_back: folder of images, one sub-folder a class, or a CSV of files and labels.
    recipe: FILE.py:FUNCTION of the lecturer, for models that were trained with a recipe of somebody's own.

  Raises:
    UserError: there are no classes of images.
  """
  _listed(held_back)
  for archive in archives:
    yield _apart(archive, held_back, recipe)


def _listed(held_back: Path) -> ImageList:
  return (list_table if is_table(str(held_back)) else list_folder)(str(held_back))


def check_table(file: Path) -> None:
  """Refuses a place for the grades, before any is found, that would cost a file or could not be written.

  Raises:
    UserError: it is no CSV, or its folder is not there.
  """
  if file.suffix != ".csv" or file.is_dir():
    raise UserError(f"--output={file} is no table; name a file that ends in .csv")
  if not file.parent.is_dir():
    raise UserError(f"--output={file}: there is no folder {file.parent}")


def write_grades(grades: Sequence[Grade], file: Path) -> None:
  """Writes a CSV.

  Raises:
    UserError: it cannot be written.
  """
  with whole_file(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as opened:
    writer = csv.writer(opened)
    writer.writerow(Grade._fields)
    writer.writerows([_plain(value) for value in row] for row in grades)


def _plain(value: Any) -> Any:
  """No text that a spreadsheet would take for a formula."""
  return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _apart(archive: Path, held_back: Path, recipe: str | None) -> Grade:
  # -P: a module is never taken from the current folder, which may be that of the archives.
  command = [sys.executable, "-P", "-m", __name__, str(archive), str(held_back), *([recipe] if recipe else [])]
  try:
    done = subprocess.run(
      command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS
    )
  except subprocess.TimeoutExpired:
    return Grade(str(archive), f"unreadable: it takes more than {_SECONDS} s")
  if done.returncode < 0:
    return Grade(str(archive), f"unreadable: its process was ended by signal {-done.returncode}")
  if done.returncode:
    (*_, last) = done.stderr.strip().splitlines() or ["no word"]
    return Grade(str(archive), f"unreadable: its process ended with {last[:200]}")
  sys.stderr.write(done.stderr)
  return Grade(*json.loads(done.stdout.splitlines()[-1]))


def graded(archive: Path, held_back: Path, recipe: str | None = None) -> Grade:
  """Grades one archive, in this process; see `grade`."""
  try:
    contents = read_archive(archive)
  except UserError as error:
    return Grade(str(archive), f"unreadable: {error}")
  more = f" and {len(contents.wrong) - _SHOWN} more" if len(contents.wrong) > _SHOWN else ""
  verdict = f"tampered: {'; '.join(contents.wrong[:_SHOWN])}{more}" if contents.wrong else "whole"
  found = Grade(str(archive), verdict, claimed=_claimed(contents.kept.get(RESULT, b"")))
  if MODEL not in contents.kept:
    return found
  with tempfile.TemporaryDirectory(prefix="dlcourse-") as place:
    model = Path(place) / MODEL
    model.write_bytes(contents.kept[MODEL])
    try:
      return _measured(found, model, _listed(held_back), recipe)
    except UserError as error:
      reason = str(error).replace(f"{model}", MODEL)
      return found._replace(verdict=f"{found.verdict}; not run: {reason}")


def read_archive(path: Path) -> Contents:
  """Reads an archive and compares it with its manifest.

  Raises:
    UserError: it is no zip, too large, or without a manifest.
  """
  if path.exists() and not path.is_file():
    raise UserError("it is no file, but a folder or a pipe")  # whose reading may never end
  try:
    with _Careful(path) as file, zipfile.ZipFile(file) as archive:
      entries = [entry for entry in archive.infolist() if not entry.is_dir()]
      if len(entries) > _MOST_MEMBERS or sum(entry.file_size for entry in entries) > LARGEST:
        raise UserError(f"it declares {len(entries)} members of {sum(e.file_size for e in entries):,} bytes")
      manifest = _manifest(archive)
      return _compared(archive, entries, manifest)
  except FileNotFoundError:
    raise UserError("there is no such file") from None
  except _BROKEN as error:
    raise UserError(f"it is no zip that can be read ({described(error)})") from error


class _Careful(io.FileIO):
  """A file of which nothing asks for very much at once, such as a list of millions of members."""

  def read(self, size: int | None = -1) -> bytes:
    most = _DIRECTORY + 1
    data = super().read(most if size is None or size < 0 else min(size, most))
    if len(data) > _DIRECTORY:
      raise ValueError("its list of members is too long")
    return data


def _manifest(archive: zipfile.ZipFile) -> dict[str, str]:
  """Name of a member -> its SHA-256."""
  if MANIFEST not in archive.namelist():
    raise UserError(f"it has no {MANIFEST}: `dlcourse submit` writes one")
  try:
    table = json.loads(_unpacked(archive, archive.getinfo(MANIFEST), _LONGEST)[1])
    digests = {name: str(member["sha256"]) for name, member in table["members"].items()}
  except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
    raise UserError(f"its {MANIFEST} says nothing that can be read") from error
  for name in _KEPT:
    if name not in digests:
      raise UserError(f"its {MANIFEST} names no {name}")
  return digests


def _compared(
  archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo], manifest: Mapping[str, str]
) -> Contents:
  names = [entry.filename for entry in entries]
  wrong = [f"{_shown(name)} is missing" for name in manifest if name not in names]
  wrong += [f"{_shown(name)} is there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
  wrong += [
    f"{_shown(n)} is not in the manifest" for n in dict.fromkeys(names) if n not in (*manifest, MANIFEST)
  ]
  kept, room = {}, LARGEST
  for name, expected in manifest.items():
    if name not in names:
      continue
    try:
      digest, data = _unpacked(archive, archive.getinfo(name), room, keep=name in _KEPT)
    except _BROKEN as error:
      wrong.append(f"{_shown(name)} cannot be unpacked ({described(error)})")
      continue
    room -= len(data)
    kept |= {name: data} if name in _KEPT else {}
    wrong += [] if digest == expected else [f"{_shown(name)} was changed (another SHA-256)"]
  return Contents(kept, wrong)


def _unpacked(
  archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int, keep: bool = True
) -> tuple[str, bytes]:
  """The SHA-256 of a member, and if it is to be kept its contents."""
  hashed, pieces, size = hashlib.sha256(), [], 0
  with archive.open(entry) as file:
    while piece := file.read(_PIECE):
      size += len(piece)
      if size > most:
        raise ValueError(f"more than {most:,} bytes")
      hashed.update(piece)
      pieces += [piece] if keep else []
  return hashed.hexdigest(), b"".join(pieces)


def _shown(name: str) -> str:
  """A name of the archive's, as far as a terminal bears it."""
  return "".join(letter if letter.isprintable() else "�" for letter in name[:80])


def _claimed(data: bytes) -> float | None:
  try:
    claimed = json.loads(data[:_LONGEST])["test"]["accuracy"]
    return float(claimed) if math.isfinite(claimed) else None
  except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
    return None


def _measured(found: Grade, model: Path, images: ImageList, recipe: str | None) -> Grade:
  """The grade with what the model is worth.

  Raises:
    UserError: the model cannot be opened, knows other classes, or there is no image.
  """
  arrays, facts = read_exported(model)
  parameters = sum(array.size for name, array in arrays.items() if name.startswith("params/"))
  found = found._replace(parameters=parameters)
  said = (facts.test or {}).get("accuracy")
  if found.verdict == "whole" and said is not None and said != found.claimed:
    found = found._replace(verdict=f"tampered: {RESULT} claims another accuracy than {MODEL} ({said:.4f})")
  asked = open_classifier(model, recipe=recipe if ".py:" in facts.experiment else None)
  strange = [name for name in images.classes if name not in asked.classes]
  if strange:
    raise UserError(f"it knows no class {strange[0]!r}, of which there are images")
  right = _right(asked, images)
  if not len(right):
    raise UserError("none of the images can be read")
  row = proportion("accuracy", right)
  return found._replace(measured=row["value"], low=row["low"], high=row["high"], images=row["n"])


def _right(asked: Classifier, images: ImageList) -> np.ndarray:
  """bool [N]: whether each image that can be read is recognised; of the others standard error tells."""
  height, width, _ = asked.image_shape
  size = max(1, min(_BATCH, _PIXELS // (height * width)))
  found, pixels, labels = [], [], []
  listed = [image for split in images.splits.values() for image in split]
  for number, (path, label) in enumerate(listed, 1):
    try:
      pixels.append(read_single(path, asked.image_shape, asked.fit))
      labels.append(asked.classes.index(images.classes[label]))
    except BadImage as error:
      sys.stderr.write(f"dlcourse: left out: {error}\n")
    if pixels and (len(pixels) == size or number == len(listed)):
      padding = [np.zeros_like(pixels[0])] * (size - len(pixels))  # one shape is one compilation
      guessed = asked.probabilities(np.stack([*pixels, *padding])).argmax(axis=-1)[: len(pixels)]
      found.append(guessed == np.asarray(labels))
      pixels, labels = [], []
  return np.concatenate(found) if found else np.zeros(0, bool)


if __name__ == "__main__":
  platform.enable_compilation_cache()
  print(json.dumps(graded(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])))
