"""Several processes of one run on this host, to try what a cluster will do.

  .venv/bin/python launch/processes.py --processes=2 --devices=4 train --experiment=cnn.lenet5

Every process gets the arguments after its own flags. On a CPU, `--devices` virtual devices each stand in for
real ones. When one process ends badly, the others are ended too, and its exit code is this command's.
"""

import argparse
import os
import socket
import subprocess
import sys
import time


def free_port() -> int:
  """A port of this host that nothing listens on."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def start(arguments: list[str], processes: int, devices: int) -> list[subprocess.Popen]:
  """Starts the processes of one run."""
  flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
  coordinator = f"127.0.0.1:{free_port()}"
  return [
    subprocess.Popen(
      [
        *(sys.executable, "-m", "dlcourse", *arguments),
        *(f"--coordinator={coordinator}", f"--processes={processes}", f"--process_id={index}"),
      ],
      env={**os.environ, "XLA_FLAGS": flags},
    )
    for index in range(processes)
  ]


def wait(running: list[subprocess.Popen]) -> int:
  """Waits for all; ends the rest as soon as one fails. Returns the first bad exit code, or 0."""
  try:
    while True:
      codes = [process.poll() for process in running]
      bad = [code for code in codes if code]
      if bad or None not in codes:
        return bad[0] if bad else 0
      time.sleep(0.1)
  finally:
    for process in running:
      process.kill()


def main() -> None:
  """Parses the flags before the verb; the verb and what follows it belong to dlcourse."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--processes", type=int, default=2, help="how many processes (default: 2)")
  parser.add_argument("--devices", type=int, default=1, help="CPU devices of each (default: 1)")
  parser.add_argument("arguments", nargs=argparse.REMAINDER, help="verb and flags of dlcourse")
  options = parser.parse_args()
  if options.processes < 1 or options.devices < 1:
    parser.error("--processes and --devices have to be at least 1")
  if not options.arguments:
    parser.error("no verb; for example: train --experiment=cnn.lenet5")
  sys.exit(wait(start(options.arguments, options.processes, options.devices)))


if __name__ == "__main__":
  main()
