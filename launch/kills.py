"""Kills trainings at random moments, starts them again, and compares how they end: not one bit may differ.

  .venv/bin/python launch/kills.py --kills=13
  .venv/bin/python launch/kills.py --experiment=cnn.lenet5 --kills=20 --steps=300 --eval_every=20

The first kills a classifier, a GAN, a VAE and a language model that carries its state, so often each, and looks
whether it would notice two faults that are planted: a key that no checkpoint has, and batches that begin again.
Every other kill waits for a moment at which a checkpoint is being written. Exit code 0: every run ended
bit-identical to the one left alone, and no run with a fault did.
"""

import argparse
import hashlib
import multiprocessing
import os
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np

from dlcourse import platform, train
from dlcourse.checkpoint import Checkpoints
from dlcourse.experiment import Options, load
from dlcourse.trained import open_trained
from dlcourse.workdir import read_record

Fault = Literal["key", "order"]
KINDS = {
  "cnn.lenet5": ["--steps=60", "--eval_every=6"],
  "gan.dcgan": ["--steps=20", "--eval_every=4"],
  "vae.mlp": ["--steps=60", "--eval_every=6"],
  "recurrent.char_lstm": ["--steps=60", "--eval_every=6"],
}
FAULTS = get_args(Fault)
# Processes are forked from one that has imported this file and never starts XLA, which would not survive that.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__, "orbax.checkpoint", "tensorboardX"])


def child(name: str, overrides: list[str], path: pathlib.Path, fault: Fault | None = None):
  """Starts a training in a process of its own."""
  process = _PROCESSES.Process(target=_train, args=(name, overrides, path, fault))
  process.start()
  return process


def _train(name: str, overrides: list[str], path: pathlib.Path, fault: Fault | None) -> None:
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
  if fault:
    plant(fault)
  train.train(name, overrides, load(name, overrides), path, Options(devices=1))


def plant(fault: Fault) -> None:
  """Breaks what makes a training go on exactly, in this process."""
  if fault == "key":
    resume = Checkpoints.resume

    def with_own_key(self, state):
      saved = resume(self, state)
      return saved and (saved[0].replace(rng=saved[0].rng + np.uint32(os.getpid())), saved[1])

    Checkpoints.resume = with_own_key
  else:
    assemble = train.assemble

    def from_the_beginning(experiment, options):
      data, program = assemble(experiment, options)
      asked = []

      def batch(seed, step):
        asked.append(step)
        return data.batch(seed, step - asked[0])

      return data._replace(batch=batch), program

    train.assemble = from_the_beginning


def digest(path: pathlib.Path) -> str:
  """SHA-256 over every array of the last checkpoint, with its path, type and shape."""
  sender, receiver = _PROCESSES.Pipe()
  process = _PROCESSES.Process(target=_digest, args=(path, sender))
  process.start()
  said = receiver.recv()
  process.join()
  return said


def _digest(path: pathlib.Path, answer) -> None:
  own = read_record(path)["experiment"]  # perhaps a FILE.py:FUNCTION that this process has not run yet
  state, total = open_trained(path, "last", devices=1, recipe=own).state, hashlib.sha256()
  for where, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(state)):
    array = np.asarray(leaf)
    total.update(f"{jax.tree_util.keystr(where)} {array.dtype} {array.shape}".encode() + array.tobytes())
  answer.send(total.hexdigest())


def kill_once(process, path: pathlib.Path, seconds: float, in_save: bool) -> bool:
  """Waits a random part of a training's length, then for a save if asked, and kills; False: it was over."""
  await_first_step(process, path)
  deadline = time.monotonic() + random.uniform(0, seconds)
  while process.is_alive():
    saving = any(path.glob("checkpoints/*tmp*"))
    if time.monotonic() >= deadline and (saving or not in_save):
      process.kill()
      process.join()
      return True
    time.sleep(0.001)
  return False


def await_first_step(process, path: pathlib.Path) -> None:
  """Waits until the training opens its log, or has ended."""
  while process.is_alive() and not (path / "metrics.jsonl").exists():
    time.sleep(0.001)


class Alone(NamedTuple):
  """A training that was left alone: how long it stepped, in seconds, and the digest of how it ended."""

  seconds: float
  digest: str


def left_alone(name: str, overrides: list[str], folder: pathlib.Path) -> Alone | None:
  """Trains in a folder, undisturbed; None: it does not train."""
  for run in ("warm", "alone"):  # the second start compiles nothing, as all later ones
    process = child(name, overrides, folder / run)
    await_first_step(process, folder / run)
    started = time.monotonic()
    process.join()
    if process.exitcode:
      print(f"{name} does not train; see dlcourse train --experiment={name}", file=sys.stderr)
      return None
  return Alone(time.monotonic() - started, digest(folder / "alone"))


def trials(
  name: str, overrides: list[str], folder: pathlib.Path, alone: Alone, kills: int, fault: Fault | None = None
) -> int:
  """How many killed trainings ended as the one left alone did; every other is killed inside a save."""
  same, killed, last = 0, 0, load(name, overrides).steps
  while killed < kills:
    path, in_save = folder / str(time.monotonic_ns()), killed % 2 == 1
    if not kill_once(child(name, overrides, path, fault), path, alone.seconds, in_save):
      continue  # it ended before its moment came: no kill, no trial
    steps = sorted(int(p.name) for p in path.glob("checkpoints/*") if p.name.isdigit())
    if fault and (not steps or last in steps):
      continue  # it begins again, or has nothing left to do: nothing can go wrong
    killed += 1
    child(name, overrides, path, fault).join()
    equal = digest(path) == alone.digest
    same += equal
    where = ("inside a save" if in_save else "anywhere") + (f", fault {fault}" if fault else "")
    said = "equal" if equal else "DIFFERS"
    print(f"{name}: kill {killed} {where}, checkpoints then {steps}: {said}", flush=True)
  return same


def tiny(name: str) -> list[str]:
  """Overrides that make a training small, but for its length."""
  return [override for override in load(name).small if not override.startswith("--steps")]


def all_kinds(kills: int, folder: pathlib.Path) -> bool:
  """Whether every kind of training survived so many kills, and both faults were seen."""
  same, unseen = 0, []
  for name, flags in KINDS.items():
    overrides, own = [*tiny(name), *flags], folder / name
    alone = left_alone(name, overrides, own)
    if alone is None:
      return False
    same += trials(name, overrides, own, alone, kills)
    faults = FAULTS if name == "vae.mlp" else ()  # which draws random numbers, and its batches in an order
    unseen += [fault for fault in faults if trials(name, overrides, own, alone, 1, fault)]
  count = kills * len(KINDS)
  print(f"{same} of {count} bit-identical, {kills // 2 * len(KINDS)} of them killed inside a save")
  print(f"planted faults that were not seen: {', '.join(unseen) or 'none of two'}")
  return same == count and not unseen


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--experiment", help="what to train, in place of the four kinds")
  parser.add_argument("--kills", type=int, default=2, help="how many of each (default: 2)")
  options, overrides = parser.parse_known_args(arguments)
  platform.enable_compilation_cache()
  if options.experiment is None and overrides:
    parser.error(f"{overrides[0]} changes an --experiment, and none is named")
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    if options.experiment is None:
      return 0 if all_kinds(options.kills, folder) else 1
    alone = left_alone(options.experiment, overrides, folder)
    if alone is None:
      return 2
    same = trials(options.experiment, overrides, folder, alone, options.kills)
  print(f"{options.experiment}: {same} of {options.kills} bit-identical")
  return 0 if same == options.kills else 1


if __name__ == "__main__":
  sys.exit(main())
