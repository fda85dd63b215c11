"""The lab: what it chooses for some images, and that a run goes on as it was planned."""

import json

import numpy as np
import pytest
from PIL import Image

from dlcourse import lab
from dlcourse.data.findings import Findings
from dlcourse.errors import UserError
from dlcourse.experiment import Options, load


def found(count=100, classes=3, side=(28, 28), grey=True, split="all"):
  counts = {f"c{number}": count for number in range(classes)}
  return Findings("photos", {split: counts}, (side, side, side), grey, [], [], [], [], {})


def chosen(found, model="cnn"):
  return load(*lab.plan("digits", found, model)[:2])


def test_images_that_fit_stay_as_they_are():
  said = lab.plan("digits", found(), "cnn")
  assert "--data.size=28" in said.overrides
  assert "stay as they are" in said.reasons[0]


@pytest.mark.parametrize(
  ("side", "model", "expected"),
  [((200, 300), "cnn", 64), ((200, 300), "mlp", 32), ((9, 11), "cnn", 12), ((3, 3), "cnn", 8)],
)
def test_the_side_suits_images_and_network(side, model, expected):
  assert chosen(found(side=side), model).data.size == expected


def test_a_network_that_transfers_keeps_its_side():
  assert chosen(found(side=(32, 32)), "transfer").data.size == 160


@pytest.mark.parametrize(("count", "batch"), [(5, 8), (100, 8), (1_000, 64), (100_000, 64)])
def test_batches_grow_with_the_images(count, batch):
  experiment = chosen(found(count=count))
  assert experiment.data.batch_size == batch
  assert 1_000 <= experiment.steps <= 20_000
  assert experiment.best.patience * experiment.eval_every < experiment.steps


def test_few_photographs_are_told_of_transfer():
  assert any("--model=transfer" in reason for reason in lab.plan("digits", found(grey=False), "cnn").reasons)
  assert not any("--model=transfer" in reason for reason in lab.plan("digits", found(), "cnn").reasons)


@pytest.mark.parametrize(
  ("of", "model", "said"),
  [
    (found(), "cnnn", "unknown model 'cnnn'; perhaps you meant 'cnn'"),
    (found(), "recurrent.char_lstm", "does not learn from labelled images"),
    (found(count=1, classes=20), "cnn", "too few to train and to test"),
    (found(count=2, classes=3), "cnn", "too few to train and to test"),
  ],
)
def test_what_cannot_be_planned_is_said(of, model, said):
  with pytest.raises(UserError, match=said):
    lab.plan("digits", of, model)


def test_steps_are_what_the_processor_can_afford(monkeypatch):
  name, overrides, _ = lab.plan("digits", found(), "cnn")
  planned = lab.Plan(name, (*overrides, "--steps=5000"), ())
  assert lab.affordable(planned, 100_000) == planned
  monkeypatch.setattr(lab, "FLOPS_OF_A_CORE", 1e5)
  fewer = lab.affordable(planned, 2)
  assert load(*fewer[:2]).steps == 1_000
  assert "these 2 cores" in fewer.reasons[-1]


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  for number, name in enumerate(("dark", "light")):
    (tmp_path / "photos" / name).mkdir(parents=True)
    for image in range(12):
      pixels = rng.integers(0, 100, (8, 8), np.uint8) + 120 * np.uint8(number)
      Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{image}.png")
  (tmp_path / "photos/dark/note.png").write_text("no image")
  return str(tmp_path / "photos")


def test_a_folder_is_looked_at_and_learnt_from(folder, tmp_path, capsys):
  tiny = ["--steps=4", "--eval_every=2", "--task.model.filters", "2", "2", "--task.model.dense_dim=2"]
  lab.run(folder, "cnn", tiny, tmp_path / "w", Options(devices=1))
  said = capsys.readouterr().out
  assert "cannot be read: 1, dark/note.png" in said
  assert "lab.cnn, with" in said
  assert "but for what you ask: --steps=4 --eval_every=2" in " ".join(said.split())
  record = json.loads((tmp_path / "w/experiment.json").read_text())
  assert record["resolved"]["data.source"] == f"folder:{folder}"
  assert record["resolved"]["steps"] == 4
  data = json.loads((tmp_path / "w/data.json").read_text())
  assert data["classes"] == {"dark": 12, "light": 12}
  assert data["broken"][0]["file"] == "dark/note.png"
  before = (tmp_path / "w/metrics.jsonl").read_text()
  lab.run(folder, "cnn", [], tmp_path / "w", Options(devices=1))  # done already, as it was planned
  assert (tmp_path / "w/metrics.jsonl").read_text() == before
  lab.run(folder, "cnn", ["--steps=4"], tmp_path / "w", Options(devices=1))  # the same again
  with pytest.raises(UserError, match="holds another run: steps was 4 and is now 6"):
    lab.run(folder, "cnn", ["--steps=6"], tmp_path / "w", Options(devices=1))
  with pytest.raises(SystemExit):
    lab.run(folder, "cnn", ["--no_such_field=6"], tmp_path / "w", Options(devices=1))
  with pytest.raises(UserError, match=r"--model was 'lab.cnn' and is now 'lab.mlp'"):
    lab.run(folder, "mlp", [], tmp_path / "w", Options(devices=1))


def test_a_table_is_looked_at(folder, tmp_path):
  (tmp_path / "labels.csv").write_text("file,label\nphotos/dark/1.png,a\nphotos/light/1.png,b\n")
  source, seen = lab.look_at(str(tmp_path / "labels.csv"))
  assert source == f"csv:{tmp_path}/labels.csv"
  assert seen.classes == {"a": 1, "b": 1}


def test_a_data_set_by_name_and_a_folder_that_is_not_there():
  source, seen = lab.look_at("digits")
  assert source == "digits"
  assert sum(seen.classes.values()) == 1797
  assert seen.grey
  assert seen.sides == ((8, 8), (8, 8), (8, 8))
  with pytest.raises(UserError, match=r"no such folder: \./gone"):
    lab.look_at("./gone")


@pytest.mark.parametrize(
  ("table", "said"),
  [
    ("file,label\na.png,x\nb.png,\n", "1 images have no label, such as 'b.png'"),
    ("file,label,label\na.png,x,y\nb.png,y,x\n", "has the column 'label' twice"),
    ("file;label\na.png;x\nb.png;y\n", "not semicolons"),
  ],
)
def test_what_is_wrong_with_a_table_is_said(table, said, tmp_path):
  (tmp_path / "labels.CSV").write_text(table)  # as old systems write it
  with pytest.raises(UserError, match=said):
    lab.look_at(str(tmp_path / "labels.CSV"))


def test_a_file_that_is_no_table_is_called_a_file(folder):
  with pytest.raises(UserError, match=r"1.png is a file; --data is a folder of images, or a table"):
    lab.look_at(f"{folder}/dark/1.png")


def test_a_wrong_flag_is_said_before_any_image_is_read(folder, tmp_path, capsys):
  with pytest.raises(SystemExit):
    lab.run(folder, "cnn", ["--no_such_field=6"], tmp_path / "w", Options(devices=1))
  assert "12" not in capsys.readouterr().out  # images of a class


def test_the_plan_counts_images_that_repeat_once():
  seen = found(count=50, classes=2)._replace(repeated=[["a"] * 21], contradictions=[["b"] * 10])
  assert any("49 images to train on" in reason for reason in lab.plan("digits", seen, "cnn").reasons)
