"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from dlcourse.errors import UserError, first_line


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A name beside `path` to write to, which becomes `path` when all is written.

  Raises:
    UserError: it cannot be written; what was at `path` before stays.
  """
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    yield temporary
    os.replace(temporary, path)
  except UserError:
    raise
  except Exception as error:  # the libraries have kinds of their own for a full disk, for an array of objects …
    raise UserError(f"{path} cannot be written: {first_line(error)}") from error
  finally:
    with contextlib.suppress(OSError):  # it is `path` by now, or was never there
      temporary.unlink()
