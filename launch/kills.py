"""Kills a training at random moments, starts it again, and compares how it ends: not one bit may differ.

  .venv/bin/python launch/kills.py --experiment=cnn.lenet5 --kills=20 --steps=300 --eval_every=20

Every other kill waits for a moment at which a checkpoint is being written. Fields of the experiment are
changed as for `dlcourse train`. Exit code 0: every run ended bit-identical to the one left alone.
"""

import argparse
import hashlib
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from dlcourse import platform
from dlcourse.experiment import Options, load
from dlcourse.train import train
from dlcourse.trained import open_trained


def child(experiment: str, overrides: list[str], path: pathlib.Path) -> subprocess.Popen:
  """Starts the training in a process of its own."""
  command = [sys.executable, __file__, "--experiment", experiment, "--child", str(path), *overrides]
  return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def digest(path: pathlib.Path) -> str:
  """SHA-256 over every array of the last checkpoint, with its path, type and shape."""
  state, total = open_trained(path, "last", devices=1).state, hashlib.sha256()
  for where, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(state)):
    array = np.asarray(leaf)
    total.update(f"{jax.tree_util.keystr(where)} {array.dtype} {array.shape}".encode() + array.tobytes())
  return total.hexdigest()


def kill_once(process: subprocess.Popen, path: pathlib.Path, seconds: float, in_save: bool) -> bool:
  """Waits a random part of a training's length, then for a save if asked, and kills; False: it was over."""
  await_first_step(process, path)
  deadline = time.monotonic() + random.uniform(0, seconds)
  while process.poll() is None:
    saving = any(path.glob("checkpoints/*tmp*"))
    if time.monotonic() >= deadline and (saving or not in_save):
      process.kill()
      process.wait()
      return True
    time.sleep(0.001)
  return False


def await_first_step(process: subprocess.Popen, path: pathlib.Path) -> None:
  """Waits until the training opens its log, or has ended."""
  while process.poll() is None and not (path / "metrics.jsonl").exists():
    time.sleep(0.001)


def main() -> None:
  """Runs the trials and prints a line for each."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--experiment", required=True, help="what to train")
  parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
  parser.add_argument("--child", help=argparse.SUPPRESS)
  options, overrides = parser.parse_known_args()
  platform.enable_compilation_cache()
  if options.child:
    experiment = load(options.experiment, overrides)
    train(options.experiment, overrides, experiment, pathlib.Path(options.child), Options(devices=1))
    return
  with tempfile.TemporaryDirectory() as folder:
    sys.exit(trials(options.experiment, overrides, options.kills, pathlib.Path(folder)))


def trials(experiment: str, overrides: list[str], kills: int, folder: pathlib.Path) -> int:
  """Returns 0 where every killed run ended as the one left alone did."""
  for name in ("warm", "alone"):  # the second start compiles nothing, as all later ones
    process = child(experiment, overrides, folder / name)
    await_first_step(process, folder / name)
    started = time.monotonic()
    if process.wait():
      print(f"{experiment} does not train; see dlcourse train --experiment={experiment}", file=sys.stderr)
      return 2
  seconds, expected = time.monotonic() - started, digest(folder / "alone")
  same = killed = 0
  while killed < kills:
    path, in_save = folder / f"{killed}-{time.monotonic_ns()}", killed % 2 == 1
    if not kill_once(child(experiment, overrides, path), path, seconds, in_save):
      continue  # it ended before its moment came: no kill, no trial
    killed += 1
    steps = sorted(int(p.name) for p in path.glob("checkpoints/*") if p.name.isdigit())
    child(experiment, overrides, path).wait()
    equal = digest(path) == expected
    same += equal
    where = "inside a save" if in_save else "anywhere"
    print(f"kill {killed} {where}, checkpoints then {steps}: {'equal' if equal else 'DIFFERS'}", flush=True)
  print(f"{experiment}: {same} of {killed} bit-identical")
  return 0 if same == killed else 1


if __name__ == "__main__":
  main()
