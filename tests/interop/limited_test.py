"""HDF5 files in another process: what comes back is what is in them, and nothing of it ends this process."""

import resource
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.interop import limited
from dlcourse.interop.h5_file import write_model
from dlcourse.interop.limited import read_h5_limited

ARRAYS = {
  "params/a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
  "params/a/file": np.arange(3, dtype=">f8"),
  "params/ü/mask": np.array([True, False]),
  "step": np.int64(7),
  "empty": np.zeros((0, 3), np.float16),
}


def test_arrays_and_texts_come_back_as_they_are(tmp_path):
  write_model(tmp_path / "m.h5", ARRAYS, {"about": "café\n" * 3})
  arrays, texts = read_h5_limited(tmp_path / "m.h5")
  assert texts == {"about": "café\n" * 3}
  assert set(arrays) == {f"dlcourse/{name}" for name in ARRAYS}
  for name, array in ARRAYS.items():
    found = arrays[f"dlcourse/{name}"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


def test_what_the_reader_refuses_is_refused_here_with_its_words(tmp_path):
  with h5py.File(tmp_path / "w.h5", "w") as file:
    file["x"] = h5py.ExternalLink("/etc/passwd", "x")
  with pytest.raises(UserError, match=r"w\.h5: x points elsewhere"):
    read_h5_limited(tmp_path / "w.h5")
  with pytest.raises(UserError, match=r"gone\.h5 cannot be read as HDF5"):
    read_h5_limited(tmp_path / "gone.h5")


@pytest.mark.parametrize(
  ("name", "said"), [("SEGV", "is ended by SIGSEGV"), ("ABRT", "is ended by SIGABRT"), ("XCPU", "finds no end")]
)
def test_a_library_that_ends_or_hangs_is_one_line(tmp_path, monkeypatch, name, said):
  (tmp_path / "python").write_text(f"#!/bin/sh\nkill -{name} $$\n")
  (tmp_path / "python").chmod(0o755)
  monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
  with pytest.raises(UserError, match=rf"w\.h5 is damaged: the library of HDF5 {said} when it reads it$"):
    read_h5_limited(tmp_path / "w.h5")


def limited_to(program):
  """How a process ends that has these limits, for a small file of which a second is enough."""
  code = f"from dlcourse.interop import limited; limited._SECONDS = 1; limited._limit(1000)\n{program}"
  return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_time_and_memory_of_the_other_process_are_bounded():
  assert limited_to("while True: pass").returncode == -signal.SIGXCPU
  assert limited_to("bytearray(2**31)").stderr.endswith("MemoryError\n")
  assert limited_to("bytearray(2**26)").returncode == 0
  assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_no_module_is_taken_from_the_folder_of_the_file(tmp_path, monkeypatch):
  write_model(tmp_path / "m.h5", ARRAYS, {})
  for module in ("h5py", "json", "dlcourse"):
    (tmp_path / f"{module}.py").write_text("raise SystemExit('it was run')")
  monkeypatch.chdir(tmp_path)
  assert read_h5_limited(limited.pathlib.Path("m.h5"))[0].keys() == {f"dlcourse/{name}" for name in ARRAYS}
