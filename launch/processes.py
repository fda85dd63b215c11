"""Several processes of one run on this host, to try what a cluster will do.

  .venv/bin/python launch/processes.py --processes=2 --devices=4 --restarts=3 train --experiment=cnn.lenet5

Every process gets the arguments after its own flags. On a CPU, `--devices` virtual devices each stand in for
real ones; of several GPUs, each process takes the one of its number. When one process ends badly the others are
ended too, and with --restarts the whole run starts again, from its last checkpoint: after a crash that many
times, after 42 (saved and preempted) without counting, after 2 (it cannot be carried out) never. SIGTERM and
SIGINT are passed on, and end it. The exit code is that of the process that ended badly, or 0.
"""

import argparse
import contextlib
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

REFUSED, PREEMPTED = 2, 42  # exit codes of dlcourse; any other but 0 is a crash
GRACE = 60  # seconds in which processes that are asked to end save and leave


def free_port() -> int:
  """A port of this host that nothing listens on."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def start(
  arguments: list[str], processes: int, devices: int, logs: pathlib.Path | None = None
) -> list[subprocess.Popen]:
  """Starts the processes of one run; what each says goes behind what its own file in `logs` holds."""
  flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
  coordinator, running = f"127.0.0.1:{free_port()}", []
  for index in range(processes):
    command = [sys.executable, "-u", "-m", "dlcourse", *arguments, f"--coordinator={coordinator}"]
    command += [f"--processes={processes}", f"--process_id={index}"]
    own = os.environ | {"XLA_FLAGS": flags, "JAX_LOCAL_DEVICE_IDS": str(index)}
    with open(logs / f"process-{index}.log", "ab") if logs else contextlib.nullcontext() as log:
      # In a group of its own, so that Ctrl-C reaches this process alone, which passes it on.
      running.append(subprocess.Popen(command, env=own, stdout=log, stderr=log, process_group=0))
  return running


def wait(running: list[subprocess.Popen], asked: Sequence[int] = ()) -> int:
  """Waits for all, and passes signals on as they come into `asked`; ends the rest as soon as one crashes.

  Returns the exit code of the run: the first bad one (128 + N where signal N has ended a process), or 0.
  """
  passed_on, deadline = 0, math.inf
  while True:
    codes = [process.poll() for process in running]
    bad = [code for code in codes if code]
    if None not in codes or time.monotonic() >= deadline:
      break
    for process, number in [(process, number) for number in asked[passed_on:] for process in running]:
      process.send_signal(number)
    passed_on = len(asked)
    if bad or asked:
      deadline = min(deadline, time.monotonic() + (GRACE if asked or PREEMPTED in bad else 0))
    time.sleep(0.1)
  for process in running:
    process.kill()
  codes = [process.wait() for process in running]
  bad = bad or [code for code in codes if code] or [0]
  code = next((code for code in (REFUSED, PREEMPTED) if code in bad), bad[0])  # a crash may be what followed
  return 128 - code if code < 0 else code


def supervise(options: argparse.Namespace, asked: Sequence[int]) -> int:
  """Starts the run, again and again where its exit code and `--restarts` ask for it."""
  crashes = 0
  while True:
    code = wait(start(options.arguments, options.processes, options.devices, options.logs), asked)
    crashes += code != PREEMPTED
    if code in (0, REFUSED) or asked or not options.restarts or crashes > options.restarts:
      return code
    print(f"processes: ended with {code}, starting again", file=sys.stderr, flush=True)


def main() -> None:
  """Parses the flags before the verb; the verb and what follows it belong to dlcourse."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--processes", type=int, default=2, help="how many processes (default: 2)")
  parser.add_argument("--devices", type=int, default=1, help="CPU devices of each (default: 1)")
  parser.add_argument("--restarts", type=int, default=0, help="after how many crashes (default: 0)")
  parser.add_argument("--logs", type=pathlib.Path, help="folder that keeps what each process says")
  parser.add_argument("arguments", nargs=argparse.REMAINDER, help="verb and flags of dlcourse")
  options = parser.parse_args()
  if options.processes < 1 or options.devices < 1 or options.restarts < 0:
    parser.error("--processes and --devices have to be at least 1, --restarts at least 0")
  if not options.arguments:
    parser.error("no verb; for example: train --experiment=cnn.lenet5")
  if options.logs:
    options.logs.mkdir(parents=True, exist_ok=True)
  asked: list[int] = []
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: asked.append(number))
  sys.exit(supervise(options, asked))


if __name__ == "__main__":
  main()
