"""The archive that is handed in: all that is asked for, the same each time, and nothing of a person's lost."""

import hashlib
import json
import logging
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from dlcourse import handin
from dlcourse.classifier import open_classifier
from dlcourse.errors import UserError
from dlcourse.experiment import Options, load
from dlcourse.handin import submit
from dlcourse.train import train
from dlcourse.trained import open_trained, report

pytest.importorskip("pptx", reason="needs the extra `report`")
OVERRIDES = ["--data.source=digits", "--data.size=8", "--steps=4", "--eval_every=2"]
OWN_FILE = '''
"""One's own."""

from dlcourse.data.images import Images
from dlcourse.evaluators.classification import ConfusionMatrix
from dlcourse.experiment import Experiment
from dlcourse.models.mlp import MLP
from dlcourse.optim import Sgd
from dlcourse.tasks.supervised import Classify


def net() -> Experiment:
  """A tiny network."""
  data = Images("digits", size=8, batch_size=64)
  task = Classify(MLP(hidden_dims=(4,)), Sgd(learning_rate=0.1))
  return Experiment(data=data, task=task, steps=2, evaluators=(ConfusionMatrix(pictures=1),))
'''


def trained_in(path, name, overrides):
  train(name, overrides, load(name, overrides), path, Options(seed=7, devices=1))
  report(open_trained(path, devices=1, recipe=name))
  return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  return trained_in(tmp_path_factory.mktemp("handin") / "run", "cnn.mlp", OVERRIDES)


@pytest.fixture
def run(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def trained(run):
  return open_trained(run, devices=1)


def members(file):
  with zipfile.ZipFile(file) as archive:
    assert archive.testzip() is None
    return {name: archive.read(name) for name in archive.namelist()}


def test_the_archive_holds_what_the_handbook_asks_for(trained, tmp_path):
  held = members(submit(trained, tmp_path / "mine.zip", "fr"))
  assert set(held) == {
    *("manifest.json", "experiment.json", "result.json", "metrics.jsonl", "model.h5", "slides.pptx"),
    *("learning_curves.png", "confusion_matrix.png", "confusion_matrix.json", "summary.json"),
    *("source/cnn.py", "source/models/mlp.py"),
  }
  assert b"def mlp() -> Experiment" in held["source/cnn.py"]
  assert b"class MLP" in held["source/models/mlp.py"]
  manifest = json.loads(held.pop("manifest.json"))
  assert manifest["members"] == {
    name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in held.items()
  }
  assert manifest["seed"] == 7
  assert manifest["commit"] == trained.record["commit"]
  assert manifest["versions"] == trained.record["versions"]
  assert manifest["command"] == " ".join(["dlcourse train --experiment=cnn.mlp --seed=7", *OVERRIDES])


def test_the_model_of_the_archive_answers_as_the_run_does(trained, tmp_path):
  (tmp_path / "model.h5").write_bytes(members(submit(trained, tmp_path / "mine.zip"))["model.h5"])
  pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
  expected = open_classifier(trained.path).probabilities(pixels)
  np.testing.assert_allclose(open_classifier(tmp_path / "model.h5").probabilities(pixels), expected, rtol=1e-6)


def test_the_same_run_is_the_same_archive_and_what_was_there_is_replaced(trained, tmp_path):
  (tmp_path / "b.zip").write_bytes(b"old")
  one, other = (submit(trained, tmp_path / name).read_bytes() for name in ("a.zip", "b.zip"))
  assert one == other


def test_slides_that_were_edited_are_handed_in_as_they_are(trained, tmp_path, caplog):
  (trained.path / "slides.pptx").write_bytes(b"mine")
  with caplog.at_level(logging.WARNING):
    assert members(submit(trained, tmp_path / "a.zip"))["slides.pptx"] == b"mine"
  assert "older" not in caplog.text
  result = trained.path / "result.json"
  result.write_text(result.read_text())
  with caplog.at_level(logging.WARNING):
    submit(trained, tmp_path / "a.zip")
  assert "slides.pptx is older than the result" in caplog.text


def test_without_the_library_of_slides_the_rest_is_handed_in(trained, tmp_path, monkeypatch, caplog):
  find_spec = handin.importlib.util.find_spec
  monkeypatch.setattr(
    handin.importlib.util, "find_spec", lambda name: None if name == "pptx" else find_spec(name)
  )
  with caplog.at_level(logging.WARNING):
    held = members(submit(trained, tmp_path / "a.zip"))
  assert "model.h5" in held
  assert "slides.pptx" not in held
  assert "pip install 'dlcourse[report]'" in caplog.text


@pytest.mark.parametrize(
  ("missing", "output", "said"),
  [
    ("result.json", "a.zip", "has no report yet"),
    ("report/confusion_matrix.json", "a.zip", "without the confusion matrix"),
    ("report/learning_curves.png", "a.zip", r"lacks learning_curves\.png"),
    (None, "a.h5", r"should end in \.zip"),
    (None, "gone/a.zip", "is no folder"),
  ],
)
def test_what_is_missing_is_one_line_and_no_archive(trained, tmp_path, missing, output, said):
  if missing:
    (trained.path / missing).unlink()
  with pytest.raises(UserError, match=said):
    submit(trained, tmp_path / output)
  assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_recipe_of_ones_own_goes_along_and_is_named_as_it_is_there(tmp_path):
  mine = tmp_path / "mine.py"
  mine.write_text(OWN_FILE)
  opened = open_trained(trained_in(tmp_path / "run", f"{mine}:net", []), devices=1)
  Image.new("L", (1, 1)).save(tmp_path / "run/slides.pptx", format="PNG")  # any file: slides are not the point
  held = members(submit(opened, tmp_path / "a.zip", recipe=f"{mine}:net"))
  assert held["source/mine.py"].decode() == OWN_FILE
  command = json.loads(held["manifest.json"])["command"]
  assert command == "dlcourse train --experiment=source/mine.py:net --seed=7"
