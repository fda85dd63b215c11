"""What starts from a workdir alone: the right checkpoint, on any devices, without touching the folder."""

import dataclasses
import shutil
import types

import jax
import numpy as np
import pytest
from PIL import Image

from dlcourse import trained as module
from dlcourse import watermark
from dlcourse.checkpoint import Gone, Progress
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.representation import Disentanglement, LinearProbe
from dlcourse.evaluators.samples import Request
from dlcourse.experiment import Options, load
from dlcourse.metrics_log import read_metrics
from dlcourse.report.layers import task_summary
from dlcourse.train import train
from dlcourse.trained import Trained, evaluate, open_trained, report, sample
from dlcourse.workdir import read_json

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
  assert int(open_trained(run, "last", devices=1).state.step) == 4


def test_what_an_evaluator_refuses_is_said_when_the_rest_is_written(run):
  trained = open_trained(run, devices=1)
  evaluators = (LinearProbe(per_class=1), Disentanglement())
  experiment = dataclasses.replace(trained.experiment, evaluators=evaluators)
  with pytest.raises(UserError, match=r"report is written, but without Disentanglement: .* known factors"):
    report(trained._replace(experiment=experiment))
  result = read_json(run / "result.json")
  assert "probe_accuracy" in result["test"]
  assert len(result["refused"]) == 1
  assert (run / "report" / "learning_curves.png").exists()


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


def test_marked_samples_say_so_and_can_be_read(tmp_path):
  drawn = np.random.default_rng(0).uniform(-0.1, 1.1, (3, 16, 16, 1))
  program = types.SimpleNamespace(conditional=False, generate=lambda state, key, request: {"image": drawn})
  data = types.SimpleNamespace(spec=Spec({"image": jax.ShapeDtypeStruct((1, 16, 16, 1), np.uint8)}))
  record = {"experiment": "gan.mine", "overrides": []}
  made = Trained(tmp_path, None, data, program, types.SimpleNamespace(step=1), None, record)
  for mark, right in ((False, False), (True, True)):
    _, *files = sample(made, Request(3), mark=mark)
    images = [Image.open(file) for file in files]
    pixels = np.stack([np.asarray(image)[..., None] for image in images])
    assert (watermark.read(pixels, 16) == watermark.PAYLOAD).all() == right
    assert ["Watermark" in image.text for image in images] == [mark] * 3
  assert images[0].text["Watermark"].startswith("0110010001101100,")
  program.generate = lambda state, key, request: {"point": np.zeros((3, 2))}
  with pytest.raises(UserError, match="--watermark is for images"):
    sample(made, Request(3), mark=True)


def test_the_result_holds_what_was_run(run):
  result = report(open_trained(run, devices=1))
  assert (result["experiment"], result["seed"], result["steps"], result["best_step"]) == ("vae.mlp", 0, 6, 2)
  assert result["test"]["elbo"] == pytest.approx(-result["test"]["loss"])
  assert np.isfinite(list(result["test"].values())).all()


def test_the_result_says_what_a_step_multiplies_and_how_well_that_uses_a_known_device(run):
  opened = open_trained(run, devices=1)
  layers = task_summary(opened.program.task, opened.data.spec)
  forward = 12 * sum(layer.multiply_adds for layer in layers)
  result = report(opened)
  in_loss = 2 * 12 * 64  # `losses.py` sums over pixels by a product with ones
  assert result["step_flops"] == 2 * (3 * forward - 12 * layers[0].multiply_adds + in_loss)
  assert "mfu" not in result  # a CPU
  record = opened.record | {"devices": {"kind": "NVIDIA H100 80GB HBM3", "count": 4}}
  seconds = sum(row.get("seconds", 0) for row in read_metrics(run))
  expected = 6 * result["step_flops"] / (4 * 494.7e12 * seconds)
  result = report(opened._replace(record=record))
  assert result["mfu"] == pytest.approx(expected)
  assert read_json(run / "result.json") == result


def test_of_batches_of_several_lengths_a_step_is_their_mean(run):
  opened = open_trained(run, devices=1)

  def batch(seed, step):
    assert seed == 7
    return {"inputs": np.zeros((2, 8 if step % 3 else 20, 5), np.float32), "lengths": np.zeros(2, np.int32)}

  spec = Spec({name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch(7, 0).items()})
  task = opened.program.task._replace(train_step=lambda state, batch: batch["inputs"] @ state)
  program = opened.program._replace(task=task, state=jax.ShapeDtypeStruct((5, 3), np.float32))
  ragged = opened._replace(
    data=opened.data._replace(spec=spec, batch=batch), program=program, record=opened.record | {"seed": 7}
  )
  assert module._work(ragged, 6, 1.0) == {"step_flops": 2 * 2 * (20 + 8 + 8) // 3 * 5 * 3}
  once = program._replace(task=task._replace(precompute=lambda state, data: data))
  assert module._work(ragged._replace(program=once), 6, 1.0) == {}


def test_progress_is_the_newest_even_where_the_best_is_older(run):
  assert open_trained(run, devices=1).progress == Progress(
    best_step=2, best_value=open_trained(run, devices=1).progress.best_value, waited=2
  )
