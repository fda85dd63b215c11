"""Reads HDF5 files in a process of its own, which one may crash, hold up or fill without harm to this one.

What comes back is plain: numbers and texts. An array is written as it is in memory, and no pickle is read.
"""

import contextlib
import json
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile

import numpy as np

from dlcourse.errors import UserError, first_line
from dlcourse.interop.h5_file import read_h5, read_texts

_MEMORY = 2**30  # bytes, and as many times the size of the file:
_SHARE = 40  # `read_h5` refuses what would be more than half of that
_SECONDS = 10  # of one core, and one more for so many bytes:
_BYTES_A_SECOND = 10**7
_RESULT = "result.json"


def read_h5_limited(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """The arrays and the texts of a file by somebody else: see `read_h5` and `read_texts`.

  Raises:
    UserError: as those, and if the library ended or hung on the file.
  """
  with tempfile.TemporaryDirectory(prefix="dlcourse-") as folder:
    # -P: a module is never taken from the current folder, which may be that of the file.
    command = [sys.executable, "-P", "-m", __name__, str(path), folder]
    child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if child.returncode < 0:
      ended = signal.Signals(-child.returncode)
      said = "finds no end" if ended == signal.SIGXCPU else f"is ended by {ended.name}"
      raise UserError(f"{path} is damaged: the library of HDF5 {said} when it reads it")
    if child.returncode:
      raise RuntimeError(f"{path} was not read: {child.stderr[-2000:]}")
    result = json.loads((pathlib.Path(folder) / _RESULT).read_text(encoding="utf-8"))
    if "error" in result:
      raise UserError(result["error"])
    files = (pathlib.Path(folder) / f"{index}.npy" for index in range(len(result["names"])))
    arrays = (np.load(file, allow_pickle=False) for file in files)
    return dict(zip(result["names"], arrays, strict=True)), result["texts"]


def _limit(size: int) -> None:
  """Gives this process an end and a bound."""
  _lower(resource.RLIMIT_CPU, _SECONDS + size // _BYTES_A_SECOND)
  _lower(resource.RLIMIT_CORE, 0)
  with contextlib.suppress(OSError):  # only Linux says how much it has now, and only there it is bounded
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + _MEMORY + _SHARE * size)


def _lower(kind: int, most: int) -> None:
  hard = resource.getrlimit(kind)[1]
  resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _main(path: pathlib.Path, folder: pathlib.Path) -> None:
  """What the other process does."""
  try:
    _limit(path.stat().st_size)
    arrays = read_h5(path)
    result = {"names": list(arrays), "texts": read_texts(path)}
    for index, array in enumerate(arrays.values()):
      np.save(folder / f"{index}.npy", array, allow_pickle=False)
  except UserError as error:
    result = {"error": str(error)}
  except (OSError, MemoryError) as error:
    result = {"error": f"{path} cannot be read as HDF5: {first_line(error)}"}
  (folder / _RESULT).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
  _main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
