"""Damages files of every kind that people hand over, and reads them: each is refused in one line, or read.

  .venv/bin/python launch/fuzz.py --images=4000 --weights=2000 --tables=1000 --seed=0

Each file is a small valid one with flipped bits, pieces that are overwritten, cut out, doubled or of another
file, or numbers that lie. They are read in other processes, so that a crash is one of a file. Prints a row for
each kind, and what went wrong. Exit code 1: a reader crashed, found no end, raised something else than a
`UserError` of one line that names the file, took more memory than its bound, or gave other values where there
is a digest.
"""

import argparse
import collections
import contextlib
import hashlib
import itertools
import json
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from fuzz_kinds import KINDS

from dlcourse.errors import UserError

GROUPS = {"images": 4000, "weights": 2000, "tables": 1000}  # files of each, unless it is said otherwise
SECONDS = 10  # of one core for a file, all of them small
WAITING = 100  # seconds for a file, whatever is waited for
MEMORY = {"images": 1024, "weights": 256, "tables": 512}  # MiB that reading a file may take
_ROOM = 2**32  # bytes of address space, so that a bomb ends a process and not the machine
_LIES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
OUTCOMES = ("refused", "right", "other", "silent", "escaped", "memory", "crash", "hang")
_READING = "reading"
FAILURES = frozenset({"silent", "escaped", "memory", "crash", "hang"})


def damaged(kind: str, seeds: Sequence[bytes], index: int, seed: int) -> bytes:
  """A file of a kind, made of its seeds: the same for the same numbers."""
  draw = random.Random(f"{kind} {index} {seed}")
  data = bytearray(draw.choice(seeds))
  for _ in range(draw.choice((1, 1, 2, 4))):
    if data:
      draw.choice(_DAMAGES)(draw, data, draw.choice(seeds))
  return KINDS[kind].sealed(bytes(data)) if index % 2 else bytes(data)


def _place(draw: random.Random, data: bytearray) -> int:
  """Where something is changed: at the beginning, where headers are, as often as anywhere."""
  return draw.randrange(min(len(data), draw.choice((64, 512, len(data)))))


def _flip(draw: random.Random, data: bytearray, other: bytes) -> None:
  for _ in range(draw.choice((1, 1, 3, 8))):
    data[_place(draw, data)] ^= 1 << draw.randrange(8)


def _overwrite(draw: random.Random, data: bytearray, other: bytes) -> None:
  start, count = _place(draw, data), draw.choice((1, 2, 8, 40))
  byte = draw.choice((0, 255, None))
  for place in range(start, min(start + count, len(data))):
    data[place] = draw.randrange(256) if byte is None else byte


def _lie(draw: random.Random, data: bytearray, other: bytes) -> None:
  size, place = draw.choice((1, 2, 4, 4, 8)), _place(draw, data)
  lie = (draw.choice(_LIES) % 2 ** (8 * size)).to_bytes(size, draw.choice(("little", "big")))
  data[place : place + size] = lie[: len(data) - place]


def _cut_off(draw: random.Random, data: bytearray, other: bytes) -> None:
  del data[draw.randrange(len(data)) :]


def _cut_out(draw: random.Random, data: bytearray, other: bytes) -> None:
  start = _place(draw, data)
  del data[start : start + draw.choice((1, 4, 30))]


def _double(draw: random.Random, data: bytearray, other: bytes) -> None:
  start, count = _place(draw, data), draw.choice((4, 30, 200))
  data[start:start] = data[start : start + count] * draw.choice((1, 2, 20))


def _splice(draw: random.Random, data: bytearray, other: bytes) -> None:
  data[draw.randrange(len(data)) :] = other[draw.randrange(len(other)) :]


_DAMAGES = (_flip, _flip, _overwrite, _lie, _lie, _cut_off, _cut_out, _double, _splice)


def _values(arrays: Sequence[np.ndarray]) -> str:
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
  return digest.hexdigest()


def _outcome(kind: str, path: pathlib.Path, right: frozenset[str]) -> tuple[str, str]:
  """What became of a file, and in words why."""
  try:
    found = _values(KINDS[kind].read(path))
  except UserError as error:
    said = str(error)
    return ("refused", said) if path.parent.name in said and "\n" not in said else ("escaped", said)
  except (Exception, SystemExit) as error:
    return "escaped", f"{type(error).__name__}: {error}"
  if found in right:
    return "right", ""
  return ("silent" if KINDS[kind].digest else "other"), "other values"


def _peak() -> int:
  """MiB that this process has had at most since `_forget_peak`, or a child of it ever."""
  child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
  with contextlib.suppress(OSError):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return max(child, next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024)
  return max(child, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def _forget_peak() -> None:
  with contextlib.suppress(OSError):  # elsewhere than on Linux the peak is that of all files so far
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def plan(totals: Mapping[str, int]) -> list[tuple[str, int]]:
  """(kind, index) of every file: so many of each group, of each of its kinds equally many."""
  files = []
  for group, total in totals.items():
    kinds = [kind for kind in KINDS if KINDS[kind].group == group]
    shares = [total * (i + 1) // len(kinds) - total * i // len(kinds) for i in range(len(kinds))]
    files += [(kind, index) for kind, share in zip(kinds, shares, strict=True) for index in range(share)]
  return files


def read_here(files: Sequence[tuple[str, int]], seed: int, folder: pathlib.Path) -> None:
  """Reads files, and prints a line before and one after each."""
  path, seeds, right = folder / "file", {}, {}
  for kind in dict.fromkeys(kind for kind, _ in files):
    seeds[kind], right[kind] = KINDS[kind].seeds(folder), set()
    for data in seeds[kind]:
      path.write_bytes(data)
      right[kind].add(_values(KINDS[kind].read(path)))
  resource.setrlimit(resource.RLIMIT_AS, (_ROOM, _ROOM))
  for kind, index in files:
    path.write_bytes(damaged(kind, seeds[kind], index, seed))
    print(_READING, flush=True)
    _forget_peak()
    before, started = _peak(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # whose signals nothing catches, not even a loop in C
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    outcome, said = _outcome(kind, path, frozenset(right[kind]))
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, memory = time.process_time() - started, _peak() - before
    if memory > MEMORY[KINDS[kind].group]:
      outcome, said = "memory", f"{memory} MiB: {said}"
    print(json.dumps({"outcome": outcome, "said": said, "seconds": seconds, "memory": memory}), flush=True)


def read_apart(totals: Mapping[str, int], seed: int) -> Iterator[dict[str, Any]]:
  """Reads the files of a plan in other processes, and says what became of each."""
  count, done = len(plan(totals)), 0
  while done < count:
    with tempfile.TemporaryDirectory(prefix="dlcourse-fuzz-") as folder, tempfile.TemporaryFile("w+") as noise:
      command = [sys.executable, __file__, f"--seed={seed}", f"--from={done}", f"--folder={folder}"]
      command += [f"--{group}={total}" for group, total in totals.items()]
      child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, text=True)
      reading = False
      for line in child.stdout:
        reading = line.strip() == _READING
        if not reading:
          yield json.loads(line)
          done += 1
      code = child.wait()
      if reading:
        hang = -code in (signal.SIGPROF, signal.SIGALRM)
        yield {"outcome": "hang" if hang else "crash", "said": f"exit code {code}"}
        done += 1
      elif code:
        noise.seek(0)
        raise RuntimeError(f"the files are not read: {noise.read()[-2000:]}")


def row(kind: str, found: Sequence[Mapping[str, Any]]) -> str:
  """A line of the table."""
  counts = collections.Counter(each["outcome"] for each in found)
  slowest = max(each.get("seconds", 0.0) for each in found)
  most = max(each.get("memory", 0) for each in found)
  numbers = "".join(f"{counts[outcome]:>9}" for outcome in OUTCOMES)
  return f"{kind:<22}{len(found):>7}{numbers}{1000 * slowest:>9.0f}{most:>8}"


def fuzz(totals: Mapping[str, int], seed: int) -> int:
  """Reads so many files of each group and prints what became of them; returns how many failed."""
  print(f"{'':<22}{'files':>7}{''.join(f'{name:>9}' for name in OUTCOMES)}{'ms':>9}{'MiB':>8}", flush=True)
  failures = []
  every = zip(plan(totals), read_apart(totals, seed), strict=True)
  for kind, files in itertools.groupby(every, lambda each: each[0][0]):
    found = [result for _, result in files]
    print(row(kind, found), flush=True)
    bad = [index for index, result in enumerate(found) if result["outcome"] in FAILURES]
    failures += [f"{kind}, file {i}: {found[i]['outcome']}, {found[i]['said'][:300]!r}" for i in bad]
  print("\n".join(failures), end="\n" if failures else "")
  return len(failures)


def main() -> None:
  """Parses the flags."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  for group, total in GROUPS.items():
    kinds = "; ".join(kind for kind in KINDS if KINDS[kind].group == group)
    parser.add_argument(f"--{group}", type=int, default=total, help=f"files ({kinds}); default: {total}")
  parser.add_argument("--seed", type=int, default=0, help="of the damages (default: 0)")
  parser.add_argument("--from", dest="done", type=int, help=argparse.SUPPRESS)
  parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
  options = parser.parse_args()
  totals = {group: getattr(options, group) for group in GROUPS}
  if options.folder:
    read_here(plan(totals)[options.done :], options.seed, options.folder)
    return
  started = time.monotonic()
  failed = fuzz(totals, options.seed)
  print(f"{failed} failures, {time.monotonic() - started:.0f} s")
  sys.exit(failed > 0)


if __name__ == "__main__":
  main()
