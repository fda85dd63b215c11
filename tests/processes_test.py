"""Several real processes of one run: they train, report, and refuse together; how they are supervised."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import processes
import pytest
from processes import start

TRAIN = [
  *("train", "--experiment=cnn.mlp", "--data.source=digits", "--data.size=8", "--data.batch_size=32"),
  *("--task.model.hidden_dims", "8", "--steps=4"),
]
# In place of the package: does what the plan says for its attempt and its number.
STAND_IN = """
import json, os, pathlib, signal, sys, time
rank = int(next(word for word in sys.argv if word.startswith("--process_id="))[-1])
own, other = (pathlib.Path(f"attempts-{index}") for index in (rank, 1 - rank))
attempt = len(own.read_text()) if own.exists() else 0
def leave(number, frame):
  time.sleep(1)
  print("saved")
  sys.exit(42)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
print(f"attempt {attempt}, GPU {os.environ['JAX_LOCAL_DEVICE_IDS']}", *sys.argv[1:3])
own.write_text("x" * (attempt + 1))
while not other.exists() or len(other.read_text()) <= attempt:
  time.sleep(0.01)
act = json.loads(sys.argv[1])[attempt][rank]
if act == "late 42":
  time.sleep(1)
  print("left late")
  sys.exit(42)
if act == "kill":
  os.kill(os.getpid(), signal.SIGKILL)
if act == "stay":
  time.sleep(60)
sys.exit(act)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
  """Exit codes of two processes with these further flags; each ends by itself."""
  monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"))

  def run_both(*flags):
    running = start([*TRAIN, f"--workdir={tmp_path}", *flags], processes=2, devices=2)
    return [process.wait(timeout=120) for process in running]

  return run_both


def test_two_processes_train_and_refuse_another_run_together(run, tmp_path):
  assert run() == [0, 0]
  record = json.loads((tmp_path / "experiment.json").read_text())
  assert (record["devices"]["count"], record["how"]["processes"]) == (4, 2)
  assert json.loads((tmp_path / "result.json").read_text())["steps"] == 4
  assert (tmp_path / "report" / "learning_curves.png").exists()
  assert run("--seed=1") == [2, 2]


class Supervised:
  """The supervisor over two stand-ins."""

  def __init__(self, folder: pathlib.Path, plan: list[list], *flags: str):
    (folder / "dlcourse.py").write_text(STAND_IN)
    command = [sys.executable, processes.__file__, "--logs=logs", *flags, json.dumps(plan), "--steps=4"]
    self.folder, self.process = folder, subprocess.Popen(command, cwd=folder)

  def code(self) -> int:
    return self.process.wait(timeout=50)  # the stand-ins that stay would take longer

  def logs(self) -> list[str]:
    return [(self.folder / "logs" / f"process-{rank}.log").read_text() for rank in range(2)]

  def attempts(self) -> list[int]:
    return [log.count("attempt") for log in self.logs()]


def test_a_crash_ends_the_others_and_starts_all_again_up_to_a_cap(tmp_path):
  crash = Supervised(tmp_path, [[17, "stay"], ["stay", "kill"], ["stay", 1], [0, 0]], "--restarts=2")
  assert crash.code() == 1
  assert crash.attempts() == [3, 3]
  first = crash.logs()[0].splitlines()[0]
  assert first.startswith("attempt 0, GPU 0 [[")
  assert first.endswith("--steps=4")


def test_a_run_that_crashes_is_not_started_again_unless_asked_for(tmp_path):
  assert Supervised(tmp_path, [["stay", "kill"], [0, 0]]).code() == 128 + signal.SIGKILL


def test_preemptions_do_not_count_and_all_have_time_to_leave(tmp_path):
  plan = [[42, "late 42"], ["late 42", 42], [17, 17], [42, 42], [0, 0]]
  preempted = Supervised(tmp_path, plan, "--restarts=1")
  assert preempted.code() == 0
  assert preempted.attempts() == [5, 5]
  assert [log.count("left late") for log in preempted.logs()] == [1, 1]


@pytest.mark.parametrize(("code", "flags"), [(2, ["--restarts=3"]), (42, []), (0, ["--restarts=3"])])
def test_what_is_done_refused_or_preempted_without_restarts_ends(code, flags, tmp_path):
  ended = Supervised(tmp_path, [[code, code], [0, 0]], *flags)
  assert ended.code() == code
  assert ended.attempts() == [1, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_ends_the_supervisor_has_its_processes_save(number, tmp_path):
  plan = [["stay", "stay"], [0, 0]]
  asked = Supervised(tmp_path, plan, "--restarts=3")
  deadline = time.monotonic() + 40
  while not all((tmp_path / f"attempts-{rank}").exists() for rank in range(2)):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  asked.process.send_signal(number)
  assert asked.code() == 42
  assert asked.attempts() == [1, 1]
  assert all("saved" in log for log in asked.logs())
