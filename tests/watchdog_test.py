"""A process that gets nowhere ends, even where it holds Python's lock; one that gets on is left alone."""

import subprocess
import sys
import time

import pytest

TURN = """
import ctypes, time
from dlcourse.watchdog import Watchdog
with Watchdog({seconds}) as watchdog:
  watchdog.all_is_well(compiling={compiling})
  {what}
print("well")
"""
STUCK = {
  "asleep": "time.sleep(60)",
  "in a library that keeps the lock": "ctypes.PyDLL(None).sleep(60)",
}
WELL = {
  "in time": "time.sleep(0.1)",
  "told again": "[(time.sleep(0.5), watchdog.all_is_well()) for _ in range(4)]",
}


def run(what, seconds=1.0, compiling=False):
  code, started = TURN.format(what=what, seconds=seconds, compiling=compiling), time.monotonic()
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
  return done, time.monotonic() - started


@pytest.mark.parametrize("what", STUCK.values(), ids=STUCK)
def test_a_stuck_process_ends_and_says_where_it_was(what):
  done, _ = run(what)
  assert done.returncode == 1
  assert "Timeout" in done.stderr
  assert 'File "<string>", line 6' in done.stderr
  assert "well" not in done.stdout


@pytest.mark.parametrize("what", WELL.values(), ids=WELL)
def test_a_process_that_gets_on_is_left_alone(what):
  done, _ = run(what)
  assert (done.returncode, done.stdout) == (0, "well\n")


def test_there_is_more_time_to_compile_and_no_end_to_it_where_nothing_is_watched():
  for seconds, compiling in ((0.5, True), (None, False)):
    assert run("time.sleep(1)", seconds, compiling)[0].returncode == 0
