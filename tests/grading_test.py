"""Archives of strangers: whole, tampered with, broken, hostile; none stops the others."""

import csv
import hashlib
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from dlcourse import console, grading
from dlcourse.errors import UserError
from dlcourse.experiment import Options, load
from dlcourse.exported import export
from dlcourse.grading import Grade, check_table, grade, graded, write_grades
from dlcourse.handin import submit
from dlcourse.train import train
from dlcourse.trained import open_trained, report

OVERRIDES = ["--data.source=digits", "--data.size=8", "--steps=30", "--eval_every=30"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  path = tmp_path_factory.mktemp("grading") / "run"
  train("cnn.mlp", OVERRIDES, load("cnn.mlp", OVERRIDES), path, Options(devices=1))
  report(open_trained(path, devices=1))
  (path / "slides.pptx").write_bytes(b"slides")
  return open_trained(path, devices=1)


@pytest.fixture(scope="module")
def archive(trained):
  return submit(trained, trained.path.parent / "whole.zip")


@pytest.fixture(scope="module")
def held_back(trained, tmp_path_factory):
  """Forty images of the test split, as files, and one that is none."""
  folder = tmp_path_factory.mktemp("held") / "back"
  batch = next(iter(trained.data.eval_batches("test")))
  for number in range(40):
    place = folder / str(batch["label"][number])
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(batch["image"][number, ..., 0]).save(place / f"{number}.png")
  (folder / "3" / "broken.png").write_text("no image")
  return folder


def rewritten(archive, file, change, manifest=False):
  """A copy of an archive whose members were changed, and perhaps the manifest with them."""
  with zipfile.ZipFile(archive) as old:
    members = {name: old.read(name) for name in old.namelist()}
  change(members)
  if manifest:
    table = json.loads(members["manifest.json"])
    table["members"] = {
      name: {"sha256": hashlib.sha256(data).hexdigest()}
      for name, data in members.items()
      if name != "manifest.json"
    }
    members["manifest.json"] = json.dumps(table).encode()
  with zipfile.ZipFile(file, "w") as new:
    for name, data in members.items():
      new.writestr(name, data)
  return file


def claim(accuracy):
  def change(members):
    result = json.loads(members["result.json"])
    result["test"]["accuracy"] = accuracy
    members["result.json"] = json.dumps(result).encode()

  return change


def test_a_whole_archive_is_measured_on_the_images(archive, trained, held_back):
  found = graded(archive, held_back)
  assert found.verdict == "whole"
  batch = next(iter(trained.data.eval_batches("test")))
  guessed = np.asarray(trained.program.task.predict(trained.state, None, batch)).argmax(axis=-1)
  right = int(np.sum(guessed[:40] == batch["label"][:40]))
  assert 0 < right < 40  # else little is tested
  assert (found.measured, found.images) == (right / 40, 40)
  assert found.low < found.measured < found.high
  assert found.claimed == json.loads((trained.path / "result.json").read_text())["test"]["accuracy"]
  layers = json.loads((trained.path / "report/summary.json").read_text())
  assert found.parameters == sum(layer["parameters"] for layer in layers)


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_the_size_of_batches_changes_nothing(archive, held_back, monkeypatch, batch):
  expected = graded(archive, held_back)
  monkeypatch.setattr(grading, "_BATCH", batch)
  assert graded(archive, held_back) == expected


def removed(members):
  del members["confusion_matrix.png"]


def added(members):
  members["../../evil\x1b.sh"] = b"rm"


def other_model(members):
  members["model.h5"] = members["model.h5"][:-1] + b"!"


@pytest.mark.parametrize(
  ("change", "manifest", "verdict"),
  [
    (claim(0.99), False, "tampered: result.json was changed (another SHA-256)"),
    (claim(0.99), True, "tampered: result.json claims another accuracy than model.h5"),
    (removed, False, "tampered: confusion_matrix.png is missing"),
    (added, False, "tampered: ../../evil�.sh is not in the manifest"),
    (other_model, False, "tampered: model.h5 was changed (another SHA-256)"),
  ],
)
def test_what_was_tampered_with_is_named(archive, held_back, tmp_path, monkeypatch, change, manifest, verdict):
  monkeypatch.chdir(tmp_path)
  file = rewritten(archive, tmp_path / "a.zip", change, manifest)
  found = graded(file, held_back)
  assert found.verdict.startswith(verdict)
  assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]
  assert not (tmp_path.parent.parent / "evil\x1b.sh").exists()


def test_a_whole_archive_packed_again_by_another_program_is_whole(archive, held_back, tmp_path):
  again = rewritten(archive, tmp_path / "again.zip", lambda members: None)
  assert graded(again, held_back)._replace(archive="") == graded(archive, held_back)._replace(archive="")


def test_a_member_that_is_there_twice_is_named(archive, held_back, tmp_path):
  file = rewritten(archive, tmp_path / "a.zip", lambda members: None)
  with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as more:
    more.writestr("result.json", "{}")
  assert "result.json is there twice" in graded(file, held_back).verdict


def bit(archive, file):
  data = bytearray(archive.read_bytes())
  with zipfile.ZipFile(archive) as old:
    place = old.getinfo("experiment.json").header_offset
  data[place + 200] ^= 1
  file.write_bytes(data)


def half(archive, file):
  file.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])


def nothing(archive, file):
  pass


def no_manifest(archive, file):
  rewritten(archive, file, lambda members: members.pop("manifest.json"))


def manifest_of(text):
  return lambda archive, file: rewritten(archive, file, lambda members: members.update({"manifest.json": text}))


def many(archive, file):
  with zipfile.ZipFile(file, "w") as new:
    for number in range(2_000):
      new.writestr(f"{number}", b"")


def endless_list(archive, file):
  with zipfile.ZipFile(file, "w") as new:
    for number in range(30_000):
      new.writestr(f"{number:050d}", b"")


def lying_bomb(archive, file):
  """A manifest of two megabytes that declares to have one byte."""
  text = b" " * 2**21
  rewritten(archive, file, lambda members: members.update({"manifest.json": text}))
  data = file.read_bytes()
  file.write_bytes(data.replace(struct.pack("<I", len(text)), struct.pack("<I", 1)))


@pytest.mark.parametrize(
  ("harm", "said"),
  [
    (half, "it is no zip that can be read"),
    (nothing, "there is no such file"),
    (lambda archive, file: file.write_bytes(b""), "it is no zip that can be read"),
    (lambda archive, file: file.mkdir(), "it is no file, but a folder or a pipe"),
    (lambda archive, file: os.mkfifo(file), "it is no file, but a folder or a pipe"),
    (no_manifest, "it has no manifest.json"),
    (manifest_of(b"[" * 10**5), "its manifest.json says nothing that can be read"),
    (manifest_of(b'{"members": [1]}'), "its manifest.json says nothing that can be read"),
    (manifest_of(b'{"members": {}}'), "its manifest.json names no model.h5"),
    (manifest_of(b" " * 2**21), "its manifest.json says nothing that can be read"),
    (lying_bomb, "it is no zip that can be read|its manifest.json says nothing"),
    (many, "it declares 2000 members"),
    (endless_list, "its list of members is too long"),
  ],
)
def test_what_cannot_be_read_is_one_line(archive, held_back, tmp_path, harm, said):
  harm(archive, tmp_path / "a.zip")
  found = graded(tmp_path / "a.zip", held_back)
  assert found.verdict.startswith("unreadable: ")
  assert any(part in found.verdict for part in said.split("|")), found.verdict
  assert "\n" not in found.verdict
  assert found.measured is None


def test_a_damaged_member_is_named(archive, held_back, tmp_path):
  bit(archive, tmp_path / "a.zip")
  assert graded(tmp_path / "a.zip", held_back).verdict.startswith("tampered: experiment.json ")


def test_a_member_larger_than_there_is_room_for_is_not_unpacked(archive, held_back, monkeypatch):
  monkeypatch.setattr(grading, "LARGEST", 30_000)
  assert graded(archive, held_back).verdict.startswith("unreadable: it declares 12 members of ")
  with zipfile.ZipFile(archive) as opened, pytest.raises(ValueError, match="more than 100 bytes"):
    grading._unpacked(opened, opened.getinfo("model.h5"), 100)


def test_a_class_that_the_model_does_not_know_is_said(archive, held_back, tmp_path):
  for name in ("3", "zebra"):
    (tmp_path / "more" / name).mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "more" / name / "0.png")
  found = graded(archive, tmp_path / "more")
  assert found.verdict == "whole; not run: it knows no class 'zebra', of which there are images"
  assert found.claimed is not None


def test_a_recipe_of_somebodys_own_runs_only_if_the_lecturer_names_it(trained, archive, held_back, tmp_path):
  ran = tmp_path / "ran"
  mine = tmp_path / "theirs.py"
  mine.write_text(f"open({str(ran)!r}, 'w')\nfrom dlcourse.experiments.cnn import mlp as known\n")
  record = trained.record | {"experiment": f"{mine}:known"}
  model = export(trained._replace(record=record), "h5", tmp_path / "model.h5").read_bytes()
  file = rewritten(archive, tmp_path / "a.zip", lambda members: members.update({"model.h5": model}), True)
  found = graded(file, held_back)
  assert "not run: model.h5 was trained with a recipe of somebody's own" in found.verdict
  assert "--recipe=FILE.py:FUNCTION" in found.verdict
  assert not ran.exists()
  own = tmp_path / "own.py"
  own.write_text("from dlcourse.experiment import Experiment\nfrom dlcourse.experiments import cnn\n"
                 "def net() -> Experiment:\n  return cnn.mlp()\n")  # fmt: skip
  for each in (file, archive):  # the second needs no recipe
    assert graded(each, held_back, f"{own}:net").measured == graded(archive, held_back).measured
  assert not ran.exists()


def test_each_archive_has_a_process_and_none_stops_the_others(archive, held_back, tmp_path):
  (tmp_path / "bad.zip").write_bytes(b"PK")
  first, second, third = grade([tmp_path / "bad.zip", archive, tmp_path / "gone.zip"], held_back)
  assert first.verdict.startswith("unreadable: it is no zip")
  assert second == graded(archive, held_back)
  assert third.verdict == "unreadable: there is no such file"


@pytest.mark.parametrize(
  ("code", "said"),
  [
    ("import os; os.kill(os.getpid(), 9)", "unreadable: its process was ended by signal 9"),
    ("raise MemoryError('all of it')", "unreadable: its process ended with MemoryError: all of it"),
    ("import time; time.sleep(60)", "unreadable: it takes more than 2 s"),
  ],
)
def test_a_process_that_ends_or_hangs_is_a_verdict(held_back, tmp_path, monkeypatch, code, said):
  run = grading.subprocess.run
  monkeypatch.setattr(grading, "_SECONDS", 2)
  monkeypatch.setattr(
    grading.subprocess, "run", lambda command, **options: run([command[0], "-c", code], **options)
  )
  (found,) = grade([tmp_path / "a.zip"], held_back)
  assert found == Grade(str(tmp_path / "a.zip"), said)


def test_a_folder_without_classes_is_refused_before_anything_is_read(tmp_path):
  with pytest.raises(UserError, match="no such folder"):
    next(grade([tmp_path / "a.zip"], tmp_path / "gone"))


@pytest.mark.parametrize("name", ["a.zip", "grades", "folder.csv", "gone/grades.csv"])
def test_a_table_that_would_cost_a_file_or_could_not_be_written_is_refused(tmp_path, name):
  (tmp_path / "folder.csv").mkdir()
  with pytest.raises(UserError, match=rf"--output=.*{name}"):
    check_table(tmp_path / name)
  check_table(tmp_path / "grades.csv")


def test_images_are_held_back_by_a_table_too(archive, held_back, tmp_path):
  rows = [f"{file},{file.parent.name}" for file in sorted(held_back.glob("*/*.png"))]
  (tmp_path / "held.csv").write_text("\n".join(["file,label", *rows]))
  assert graded(archive, tmp_path / "held.csv") == graded(archive, held_back)


def test_grades_are_a_table_without_formulas(tmp_path):
  grades = [Grade("=1+1.zip", "whole", 0.9, 0.8, 0.7, 0.85, 40, 1_000), Grade("b.zip", "unreadable: x")]
  write_grades(grades, tmp_path / "g.csv")
  rows = list(csv.DictReader((tmp_path / "g.csv").read_text().splitlines()))
  assert rows[0]["archive"] == "'=1+1.zip"
  assert (rows[0]["measured"], rows[0]["verdict"], rows[1]["measured"]) == ("0.8", "whole", "")


def test_grades_are_shown_without_what_a_terminal_would_obey(capsys):
  console.show_grades(
    [Grade("a.zip", "whole", 0.9, 0.8, 0.7, 0.85, 40, 1_234), Grade("\x1b[2Jb.zip", "unreadable: x")]
  )
  shown = capsys.readouterr().out
  first = next(line for line in shown.splitlines() if "a.zip" in line)
  cells = [cell.strip() for cell in first.split("│")[1:-1]]
  assert cells == ["a.zip", "0.9000", "0.8000", "0.7000 … 0.8500", "40", "1,234", "whole"]
  assert "\x1b" not in shown
