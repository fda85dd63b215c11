"""Several real processes of one run: they train, report, and refuse together."""

import json
import os

import pytest
from processes import start

TRAIN = [
  *("train", "--experiment=cnn.mlp", "--data.source=digits", "--data.size=8", "--data.batch_size=32"),
  *("--task.model.hidden_dims", "8", "--steps=4"),
]


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
