"""Submits a training to Slurm through submitit (pip install submitit), one process for each GPU.

  .venv/bin/python launch/submitit_job.py --nodes=2 --gpus=8 train --experiment=cnn.lenet5

Preempted, or a little before its time is over, it saves and is queued again. What each process says is kept in
the folder --logs, which has to be one that all nodes see.
"""

import argparse
import os
import signal
import subprocess
import sys
import time

PREEMPTED = 42  # exit code of dlcourse that has saved
GRACE = 60  # seconds to save in


class Training:
  """What submitit calls in every process: dlcourse in a process of its own, which saves while this waits."""

  def __init__(self, arguments: list[str]):
    """Nothing starts before it is called."""
    self.arguments = arguments
    self.process: subprocess.Popen | None = None

  def __call__(self) -> None:
    """Trains.

    Raises:
      CalledProcessError: it ended badly.
    """
    command = [sys.executable, "-u", "-m", "dlcourse", *self.arguments]
    # Deaf to the signal of submitit, which Slurm may send to all processes there are.
    self.process = subprocess.Popen(["sh", "-c", """trap "" USR2; exec "$@" """, "dlcourse", *command])
    code = self.process.wait()
    while code == PREEMPTED:  # by Slurm itself: submitit shall queue it again, and ends this
      os.kill(os.getpid(), signal.SIGUSR2)
      time.sleep(GRACE)
    if code:
      raise subprocess.CalledProcessError(code, command)

  def checkpoint(self):
    """Lets all processes of the run save; returns what is queued."""
    from submitit.helpers import DelayedSubmission

    if self.process and self.process.returncode is None:
      self.process.terminate()
      # Not by `wait`, in the middle of which this was called, and which holds a lock.
      ended, deadline = os.WEXITED | os.WNOHANG | os.WNOWAIT, time.monotonic() + GRACE
      while not os.waitid(os.P_PID, self.process.pid, ended) and time.monotonic() < deadline:
        time.sleep(0.1)
    return DelayedSubmission(Training(self.arguments))


def main() -> None:
  """Submits, and says how the job is called."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--nodes", type=int, default=1, help="how many nodes (default: 1)")
  parser.add_argument("--gpus", type=int, default=8, help="GPUs of each (default: 8)")
  parser.add_argument("--processes", type=int, help="processes of each (default: one for each GPU)")
  parser.add_argument("--hours", type=int, default=24, help="after which it is queued again (default: 24)")
  parser.add_argument("--partition", help="of Slurm (default: what Slurm takes)")
  parser.add_argument("--logs", default="logs", help="folder (default: logs)")
  parser.add_argument("arguments", nargs=argparse.REMAINDER, help="verb and flags of dlcourse")
  options = parser.parse_args()
  try:
    import submitit
  except ImportError:
    parser.error("this needs a package: pip install submitit")
  if not options.arguments:
    parser.error("no verb; for example: train --experiment=cnn.lenet5")
  executor = submitit.AutoExecutor(options.logs, slurm_max_num_timeout=1000)
  executor.update_parameters(
    name="dlcourse",
    nodes=options.nodes,
    gpus_per_node=options.gpus,
    tasks_per_node=options.processes or max(options.gpus, 1),
    timeout_min=60 * options.hours,
    slurm_partition=options.partition,
    slurm_srun_args=["--kill-on-bad-exit=1"],
  )
  job = executor.submit(Training(options.arguments))
  print(f"job {job.job_id}; what it says: {options.logs}/{job.job_id}_*")


if __name__ == "__main__":
  main()
