"""What starts from a workdir alone: the right checkpoint, on any devices, without touching the folder."""

import shutil

import jax
import numpy as np
import pytest

from dlcourse import trained as module
from dlcourse.checkpoint import Gone, Progress
from dlcourse.errors import UserError
from dlcourse.evaluators.samples import Request
from dlcourse.experiment import Options, load
from dlcourse.train import train
from dlcourse.trained import evaluate, open_trained, report, sample

OVERRIDES = ["--data.source=digits", "--data.size=8", "--data.batch_size=12", "--steps=6", "--eval_every=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A VAE of 6 steps whose best checkpoint is its first: later ones reward distance from the prior."""
  path = tmp_path_factory.mktemp("trained") / "run"
  overrides = [*OVERRIDES, "--task.model.hidden_dim=8", "--best.mode=max"]
  train("vae.mlp", overrides, load("vae.mlp", overrides), path, Options(devices=1))
  return path


@pytest.fixture
def run(finished, tmp_path):
  """A copy to do harm to."""
  return shutil.copytree(finished, tmp_path / "run")


def test_best_and_last_are_what_they_say(run):
  best, last = open_trained(run, "best", devices=1), open_trained(run, "last", devices=1)
  assert (int(best.state.step), int(last.state.step)) == (2, 6)
  assert best.progress == last.progress
  assert best.progress.best_step == 2


def test_devices_that_cannot_share_a_batch_stay_idle(run):
  assert jax.device_count() == 8
  assert open_trained(run).program.devices == 6  # the batch is 12
  one = evaluate(open_trained(run, devices=1), "validation")
  six = evaluate(open_trained(run), "validation")
  assert six == pytest.approx(one, rel=1e-5)


def test_a_lost_best_checkpoint_names_the_way_out(run):
  shutil.rmtree(run / "checkpoints" / "2")
  with pytest.raises(
    UserError, match=r"the best checkpoint of .* is gone; .dlcourse report .* --checkpoint=last."
  ):
    open_trained(run, devices=1)
  assert int(open_trained(run, "last", devices=1).state.step) == 6


def test_a_damaged_last_checkpoint_does_not_hide_the_best(run):
  shutil.rmtree(run / "checkpoints" / "6" / "state")
  assert int(open_trained(run, devices=1).state.step) == 2
  with pytest.raises(UserError, match="damaged"):
    open_trained(run, "last", devices=1)


def test_a_checkpoint_that_vanishes_while_it_is_read_is_looked_for_again(run, monkeypatch):
  original, tries = module._restored, []

  def vanishing(*args):
    tries.append(args)
    if len(tries) == 1:
      raise Gone("a training replaced it")
    return original(*args)

  monkeypatch.setattr(module, "_restored", vanishing)
  assert int(open_trained(run, devices=1).state.step) == 2
  assert len(tries) == 2


def test_nothing_trained_yet_is_said(run):
  shutil.rmtree(run / "checkpoints")
  with pytest.raises(UserError, match="has no checkpoint yet"):
    open_trained(run, devices=1)


def test_reading_leaves_the_folder_as_it_is(run):
  before = sorted(run.rglob("*"))
  open_trained(run, devices=1)
  assert sorted(run.rglob("*")) == before


def test_samples_depend_on_the_seed_alone(run):
  opened = open_trained(run, devices=1)
  first, again, other = ([file.read_bytes() for file in sample(opened, Request(4), seed)] for seed in (0, 0, 1))
  assert first == again != other
  assert len(list((run / "samples").iterdir())) == 5  # the grid and four images


def test_the_result_holds_what_was_run(run):
  result = report(open_trained(run, devices=1))
  assert (result["experiment"], result["seed"], result["steps"], result["best_step"]) == ("vae.mlp", 0, 6, 2)
  assert result["test"]["elbo"] == pytest.approx(-result["test"]["loss"])
  assert np.isfinite(list(result["test"].values())).all()


def test_progress_is_the_newest_even_where_the_best_is_older(run):
  assert open_trained(run, devices=1).progress == Progress(
    best_step=2, best_value=open_trained(run, devices=1).progress.best_value, waited=2
  )
