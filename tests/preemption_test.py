"""A training that is asked to end saves first, leaves with its own code, and loses no step."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from dlcourse.preemption import Notice
from dlcourse.trained import open_trained

TRAIN = [
  *("--experiment=cnn.mlp", "--data.source=digits", "--data.size=8", "--data.batch_size=32"),
  *("--task.model.hidden_dims", "8", "--task.optimizer.schedule=constant"),
  *("--eval_every=1000000", "--log_every=1000000", "--devices=1"),
]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_is_as_ever(number):
  heard = []
  before = signal.signal(number, lambda *_: heard.append(number))
  try:
    with Notice() as notice:
      assert not notice.given()
      signal.raise_signal(number)
      assert notice.given()
      assert not heard
      signal.raise_signal(number)
      assert heard == [number]
    with Notice() as notice:
      pass
    signal.raise_signal(number)
    assert heard == [number] * 2
    assert not notice.given()
  finally:
    signal.signal(number, before)


def test_other_threads_are_given_no_notice():
  given = []

  def turn():
    with Notice() as notice:
      given.append(notice.given())

  thread = threading.Thread(target=turn)
  thread.start()
  thread.join()
  assert given == [False]


def started(path, steps):
  command = [sys.executable, "-m", "dlcourse", "train", *TRAIN, f"--steps={steps}", f"--workdir={path}"]
  return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def state_of(path):
  return jax.device_get(open_trained(path, "last", devices=1).state)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_is_asked_to_end_saves_and_loses_no_step(tmp_path, number):
  running = started(tmp_path / "run", 10**6)
  while not (tmp_path / "run" / "metrics.jsonl").exists():  # opened just before the first step
    assert running.poll() is None
    time.sleep(0.01)
  time.sleep(1)
  running.send_signal(number)
  said = running.communicate(timeout=60)[1]
  assert running.returncode == 42
  (step,) = (int(name) for name in os.listdir(tmp_path / "run" / "checkpoints"))
  assert f"dlcourse: asked to end: saved at step {step}; the same command goes on" in said
  logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert [row["step"] for row in logged] == [step]
  assert started(tmp_path / "alone", step).wait(timeout=120) == 0
  here, alone = state_of(tmp_path / "run"), state_of(tmp_path / "alone")
  jax.tree.map(np.testing.assert_array_equal, (here.step, here.params), (alone.step, alone.params))
