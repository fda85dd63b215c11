"""Damaged files of every kind are refused or read, and whoever could not tell would be found out."""

import sys

import fuzz
import pytest


def test_no_damaged_file_crashes_hangs_escapes_or_is_read_as_another(capfd):
  assert fuzz.fuzz({"images": 198, "weights": 90, "tables": 49}, seed=0) == 0, capfd.readouterr().out
  rows = capfd.readouterr().out.splitlines()[1:]
  assert [row[:22].strip() for row in rows] == list(fuzz.KINDS)
  refused = sum(int(row[29:38]) for row in rows)
  assert 200 < refused < 330  # neither too little is damaged nor too much


def test_damages_are_the_same_for_the_same_seed():
  seeds = [bytes(range(100)), b"other" * 30]
  files = [[fuzz.damaged("gif", seeds, index, seed) for index in range(50)] for seed in (0, 0, 1)]
  assert files[0] == files[1] != files[2]
  assert len(set(files[0])) > 45
  assert any(len(file) < 90 for file in files[0])
  assert any(len(file) > 160 for file in files[0])


PLANTED = """
import ctypes, os, sys, numpy as np
sys.path.insert(0, {launch!r})
import fuzz, fuzz_kinds
from dlcourse.errors import UserError

SEED = bytes(range(200))
kept = []

def refuse(said):
  raise UserError(said)

def planted(read, digest=False):
  # The seed, which is read before anything is damaged, is read right.
  def reader(path):
    return [np.zeros(1)] if path.read_bytes() == SEED else [np.asarray(read(path))]
  return fuzz_kinds.Kind("tables", lambda folder: [SEED], reader, digest)

fuzz.KINDS.clear()
fuzz.KINDS.update(
  refused=planted(lambda path: refuse(f"{{path}} is bad")),
  other=planted(lambda path: np.ones(1)),
  silent=planted(lambda path: np.ones(1), digest=True),
  escaped=planted(lambda path: int("x")),
  lines=planted(lambda path: refuse(f"{{path}} is\\nbad")),
  nameless=planted(lambda path: refuse("it is bad")),
  left=planted(lambda path: sys.exit(2)),
  memory=planted(lambda path: kept.append(np.ones(2**24)) or 0),
  crash=planted(lambda path: ctypes.string_at(8)),
  hang=planted(lambda path: all(iter(lambda: True, False))),
)
fuzz.SECONDS, fuzz.MEMORY = 1.5, {{"tables": 64}}
fuzz.main()
"""


def test_whoever_fails_is_found_and_named(tmp_path, monkeypatch, capfd):
  script = tmp_path / "planted.py"
  script.write_text(PLANTED.format(launch=str(fuzz.pathlib.Path(fuzz.__file__).parent)))
  monkeypatch.setattr(fuzz, "__file__", str(script))
  names = ["refused", "other", "silent", "escaped", "lines", "nameless", "left", "memory", "crash", "hang"]
  monkeypatch.setattr(fuzz, "KINDS", dict.fromkeys(names, fuzz.KINDS["wav"]))
  assert fuzz.fuzz({"images": 0, "weights": 0, "tables": 2 * len(names)}, seed=0) == 16
  said = capfd.readouterr().out
  for name in ("silent", "escaped", "memory", "crash", "hang"):
    assert f"{name}, file 0: {name}, " in said
    assert f"{name}, file 1: {name}, " in said
  for name in ("lines", "nameless", "left"):
    assert f"{name}, file 0: escaped, " in said
  assert "exit code -11" in said


def test_the_exit_code_says_whether_something_failed(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["fuzz.py", "--images=0", "--weights=0", "--tables=3"])
  for failed in (0, 2):
    monkeypatch.setattr(fuzz, "fuzz", lambda totals, seed, failed=failed: failed)
    with pytest.raises(SystemExit) as left:
      fuzz.main()
    assert left.value.code == (failed > 0)
