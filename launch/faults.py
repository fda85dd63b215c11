"""What becomes of a training that is hit: by a full disk, by a signal, by what happens to one of its processes.

  .venv/bin/python launch/faults.py                                     # once each, within ten minutes
  .venv/bin/python launch/faults.py --disks=3 --signals=10 --deaths=10

Each training is hit at a random moment, started again where it has ended, and compared at its end with one that
was left alone: not one bit may differ. Exit code 0: none did, and every process ended as it should and in time.
Kills of single processes are in launch/kills.py. The disk is a small tmpfs, which only the superuser can mount.
"""

import argparse
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from kills import digest, tiny
from processes import start, wait

from dlcourse import platform

NAME = "cnn.lenet5"
TRAIN = [*tiny(NAME), "--steps=3000", "--eval_every=300", "--log_every=100", "--devices=1"]
TRAIN_TWO = [*tiny(NAME), "--steps=300", "--eval_every=50", "--log_every=10"]  # which wait for each other
PREEMPTED, CRASHED = 42, 17  # exit codes
OTHERS_END = {  # seconds within which the other process of a run has to notice, and what is done to the first
  "dead": (10, signal.SIGKILL),
  "frozen": (60, signal.SIGSTOP),
}
RAISES = """
import dataclasses, os, time
from dlcourse.data.images import Images
from dlcourse.experiment import Experiment
from dlcourse.experiments import cnn


@dataclasses.dataclass(frozen=True)
class Faulty(Images):
  def build(self):
    data = super().build()

    def batch(seed, step):
      if step == 50 and "1" in os.environ["JAX_LOCAL_DEVICE_IDS"]:
        {what}
      return data.batch(seed, step)

    return data._replace(batch=batch)


def net() -> Experiment:
  recipe = cnn.lenet5()
  fields = {{field.name: getattr(recipe.data, field.name) for field in dataclasses.fields(Images)}}
  return dataclasses.replace(recipe, data=Faulty(**fields))
"""
FAULTS = {"raising": (10, "raise RuntimeError('here')"), "stuck": (60, "time.sleep(1e6)")}
STUCK_AFTER = 20  # seconds


def alone(path: pathlib.Path) -> subprocess.Popen:
  """Starts the training in a folder as one process."""
  command = [sys.executable, "-m", "dlcourse", "train", NAME, f"--workdir={path}", *TRAIN]
  return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def two(path: pathlib.Path, name: str = NAME, *more: str, processes: int = 2) -> list[subprocess.Popen]:
  """Starts the training in a folder as two processes, or more, or fewer."""
  flags = ["train", f"--experiment={name}", f"--workdir={path}", *TRAIN_TWO, *more]
  return start(flags, processes, 1, path.parent)


def under_way(path: pathlib.Path, process: subprocess.Popen) -> None:
  """Waits until the training in a folder has logged something, or has ended."""
  log = path / "metrics.jsonl"
  while process.poll() is None and not (log.exists() and log.stat().st_size):
    time.sleep(0.01)
  time.sleep(random.uniform(0, 2))


def fill_disk(path: pathlib.Path, expected: str) -> tuple[bool, str]:
  """Fills the disk until a training says so, frees it, and lets the training end."""
  path.mkdir()
  subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path], check=True)
  try:
    training = alone(path / "run")
    under_way(path / "run", training)
    with open(path / "filler", "wb", buffering=0) as filler:
      try:
        while filler.write(bytes(2**16)):
          pass
      except OSError:
        pass
    said = next((line for line in training.stderr if "training goes on" in line), "")
    (path / "filler").unlink()
    training.communicate()
    same = bool(said) and training.returncode == 0 and digest(path / "run") == expected
    return same, f"exit {training.returncode}; it said: {said.strip() or 'nothing'}"
  finally:
    subprocess.run(["umount", "-l", path], check=True)


def ask_one(path: pathlib.Path, expected: str) -> tuple[bool, str]:
  """Asks a training that is one process to end, and starts it again."""
  training = alone(path)
  under_way(path, training)
  asked = time.monotonic()
  training.send_signal(signal.SIGTERM)
  training.communicate()
  seconds = time.monotonic() - asked
  again = alone(path)
  again.communicate()
  same = (training.returncode, again.returncode) == (PREEMPTED, 0) and digest(path) == expected
  return same, f"left after {seconds:.2f} s with {training.returncode}"


def ask_two(path: pathlib.Path, expected: str) -> tuple[bool, str]:
  """Asks one of two processes to end, and starts both again."""
  running = two(path)
  under_way(path, running[0])
  asked = time.monotonic()
  random.choice(running).send_signal(signal.SIGTERM)
  codes = [process.wait() for process in running]
  seconds = time.monotonic() - asked
  again = wait(two(path))
  same = (codes, again) == ([PREEMPTED] * 2, 0) and digest(path) == expected
  return same, f"both left after {seconds:.2f} s with {codes}"


def kill_one_of_two(path: pathlib.Path, expected: str) -> tuple[bool, str]:
  """Kills one of two processes, waits for the other to notice, and starts both again."""
  running = two(path)
  under_way(path, running[0])
  rank = random.randrange(2)
  running[rank].kill()
  killed = time.monotonic()
  code = running[1 - rank].wait()
  seconds = time.monotonic() - killed
  again = wait(two(path))
  same = code not in (0, PREEMPTED) and again == 0 and digest(path) == expected
  return same, f"rank {rank} killed, the other left after {seconds:.2f} s with {code}"


def other_numbers(both: pathlib.Path) -> bool:
  """Prints how far the loss is off where one process, or four, go on with what two have begun."""
  loss, within = _test_loss(both), []
  for processes in (1, 4):
    path = both.with_name(f"both-{processes}")
    shutil.copytree(both, path)
    newest = max(path.glob("checkpoints/[0-9]*"), key=lambda step: int(step.name))
    shutil.rmtree(newest)
    code = wait(two(path, processes=processes))
    off = abs(_test_loss(path) / loss - 1)
    print(f"two processes, then {processes} from the step before {newest.name}: loss off by {off:.1e} (1e-5)")
    within.append(code == 0 and off < 1e-5)
  return all(within)


def _test_loss(path: pathlib.Path) -> float:
  return json.loads((path / "result.json").read_text())["test"]["loss"]


def bounds(folder: pathlib.Path) -> bool:
  """Prints after how long a process ends that waits for one which is dead, frozen, raising or stuck."""
  within = []
  for name, (bound, number) in OTHERS_END.items():
    running = two(folder / name)
    under_way(folder / name, running[0])
    running[1].send_signal(number)
    within.append(_timed(name, bound, running))
  for name, (bound, what) in FAULTS.items():
    file = folder / f"{name}.py"
    file.write_text(RAISES.format(what=what))
    running = two(folder / f"{name}1", f"{file}:net", f"--stuck_after={STUCK_AFTER}")
    under_way(folder / f"{name}1", running[0])
    within.append(_timed(name, bound + STUCK_AFTER * 6 * (name == "stuck"), running))
  return all(within)


def _timed(name: str, bound: float, running: list[subprocess.Popen]) -> bool:
  started = time.monotonic()
  code = running[0].wait()
  seconds = time.monotonic() - started
  running[1].kill()
  print(f"one process {name}: the other left after {seconds:.1f} s with {code} (bound {bound} s)", flush=True)
  return code != 0 and seconds <= bound


def main() -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--disks", type=int, default=1, help="how often the disk is filled (default: 1)")
  parser.add_argument(
    "--signals", type=int, default=1, help="how often SIGTERM is sent, to one process and to two"
  )
  parser.add_argument("--deaths", type=int, default=1, help="how often one of two processes is killed")
  options = parser.parse_args()
  platform.enable_compilation_cache()
  trials = (
    *(("disk", fill_disk, options.disks), ("asked to end", ask_one, options.signals)),
    *(("two asked to end", ask_two, options.signals), ("one of two killed", kill_one_of_two, options.deaths)),
  )
  good = True
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    alone(folder / "alone").communicate()
    wait(two(folder / "both"))
    expected = {True: digest(folder / "both"), False: digest(folder / "alone")}
    for name, hit, count in trials:
      for number in range(count):
        same, said = hit(folder / f"{name} {number}".replace(" ", "-"), expected["two" in name])
        print(f"{name}: {'equal' if same else 'WRONG'}; {said}", flush=True)
        good &= same
    good &= other_numbers(folder / "both")
    good &= bounds(folder)
  return 0 if good else 1


if __name__ == "__main__":
  sys.exit(main())
