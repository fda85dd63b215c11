"""A generator that is trained first, and whose images are data of the experiment that names it."""

import dataclasses

import numpy as np
import pytest

from dlcourse.data.batches import unbatched
from dlcourse.data.generated import WithGenerated
from dlcourse.errors import UserError
from dlcourse.experiment import Best, Experiment, Options
from dlcourse.models.mlp import MLP
from dlcourse.optim import Adam
from dlcourse.tasks.supervised import Classify
from dlcourse.train import train
from dlcourse.trained import open_trained

TINY = (
  *("--task.generator.width=2", "--task.discriminator.width=2", "--task.generator.latent_dim=2", "--steps=2"),
  *("--data.batch_size=8", "--best.metric=None", "--monitors.0.samples=10", "--monitors.1.samples=10"),
)
DATA = WithGenerated(
  "digits",
  batch_size=32,
  fit="resize",
  per_class=20,
  starved="3",
  starved_images=5,
  added_images=6,
  generator_flags=" ".join(TINY),
)
NET = Experiment(data=DATA, task=Classify(MLP((4,)), Adam()), best=Best(None), steps=2)


def labelled(data, split):
  return unbatched(data.eval_batches(split), ("image", "label"))


def test_it_is_trained_once_and_makes_the_same_images_for_whoever_opens_the_workdir(tmp_path, monkeypatch):
  monkeypatch.setattr("dlcourse.workdir.load", _load_net)
  path, options = tmp_path / "run", Options(seed=3, devices=1)
  train("mine.net", [], NET, path, options)
  first = open_trained(path / "generator", devices=1)
  assert (int(first.state.step), first.record["seed"]) == (2, 3)
  trained = open_trained(path, devices=1)
  found = labelled(trained.data, "train")
  assert np.sum(found["label"] == 3) == 5 + 6
  assert np.sum(labelled(first.data, "train")["label"] == 3) == 5
  assert trained.experiment.data.generator == "gan.cgan"  # as it was named, wherever the folder is by now

  weights = path / "generator" / "checkpoints"
  before = sorted((file, file.stat().st_mtime_ns) for file in weights.rglob("*") if file.is_file())
  longer = dataclasses.replace(NET, steps=2)
  train("mine.net", [], longer, path, options)  # goes on where it was, and so does what comes first
  assert before == sorted((file, file.stat().st_mtime_ns) for file in weights.rglob("*") if file.is_file())
  moved = path.rename(tmp_path / "moved")
  again = open_trained(moved, devices=1)
  np.testing.assert_array_equal(labelled(again.data, "train")["image"], found["image"])
  assert again.data.digest == trained.data.digest

  other = dataclasses.replace(NET, steps=4)
  with pytest.raises(UserError, match="holds another run: steps was 2 and is now 4"):
    train("mine.net", [], other, moved, options)


def _load_net(name, overrides):
  from dlcourse.experiment import load

  return NET if name == "mine.net" else load(name, overrides)


def test_nothing_is_trained_first_for_a_run_that_cannot_be(tmp_path, monkeypatch):
  monkeypatch.setattr("dlcourse.train._train_first", lambda *_: pytest.fail("trained"))
  wide = dataclasses.replace(NET, best=Best("loss_of_nothing", mode="min"))
  with pytest.raises(UserError, match="loss_of_nothing"):
    train("mine.net", [], wide, tmp_path / "run", Options(devices=1))
  unconditional = dataclasses.replace(NET, data=dataclasses.replace(DATA, generator="gan.dcgan"))
  with pytest.raises(UserError, match=r"gan\.dcgan cannot be asked for a class"):
    train("mine.net", [], unconditional, tmp_path / "run", Options(devices=1))
  assert not (tmp_path / "run").exists()
