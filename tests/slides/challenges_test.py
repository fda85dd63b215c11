import numpy as np
import pytest
from recorded_runs import matrix, write_run

from dlcourse.slides.challenges import augmentations, challenges, dropout, limits, stratified
from dlcourse.slides.recorded import read_recorded
from dlcourse.slides.words import Voice

SAY = Voice("en")
NAMES = ("cat", "dog", "yak")


def facts(path, **changes):
  """What was met -> what is said below it."""
  run = read_recorded(write_run(path, NAMES, **changes))
  return {head: rest for head, *rest in challenges(run, SAY)}


def about(found, word):
  (head,) = [head for head in found if head.startswith(word)]
  return head, found[head]


def test_each_fact_has_the_numbers_of_the_run(tmp_path):
  found = facts(tmp_path / "run")
  head, rest = about(found, "Class imbalance")
  assert head == "Class imbalance: 22 test images of “dog”, 8 of “yak” (2.75 : 1)"
  assert rest[-1] == "Recall of “yak”: 50.0\u00a0%"
  head, rest = about(found, "Overfitting")
  assert "100.0\u00a0% against 80.0\u00a0% in validation at step 240" in head
  assert rest[0] == "At the best step, 80: 90.0\u00a0% against 85.0\u00a0%"
  assert "dropout and augmentation" in rest[1]
  assert (
    "dropout of 0.25, weight decay of 0.01 and augmentation (shifts by up to 2 pixels, mirroring" in rest[2]
  )
  head, rest = about(found, "Stopped early")
  assert head == "Stopped early at step 240 of 600"
  assert "since step 80: a patience of 4" in rest[0]
  head, rest = about(found, "Badly recognised")
  assert head == "Badly recognised class: “yak”, recall 50.0\u00a0% (4 of 8)"
  assert rest == ["Most often taken for “dog” (4×)"]
  assert len(found) == 4


def test_what_did_not_happen_is_not_told(tmp_path):
  settings = {"data.augment!": 0, "task.model.dropout": 0.0, "task.optimizer.weight_decay": 0.0}
  settings |= {"best.patience": None}
  even = np.diag([50, 50, 50])
  found = facts(tmp_path / "run", counts=even, settings=settings, curves=((240, 0.9, 0.95),))
  assert list(found) == [
    "No overfitting seen: training accuracy 90.0\u00a0%, validation 95.0\u00a0% at step 240"
  ]
  (rest,) = found.values()
  assert rest == ["Neither dropout nor weight decay nor augmentation was used"]
  assert facts(tmp_path / "bare", counts=even, settings=settings, curves=()) == {}


def test_a_run_to_its_end_was_not_stopped(tmp_path):
  found = facts(tmp_path / "run", settings={"steps": 240})
  assert about(found, "Early stopping did not")[1] == ["The weights of step 80 are kept"]


@pytest.mark.parametrize(("split", "told"), [("all", True), ("train", False)])
def test_what_was_found_in_the_folder_is_counted(tmp_path, split, told):
  wrong = {
    "classes": {"cat": 300, "dog": 200, "yak": 100},
    "counts": {split: {"cat": 300, "dog": 200, "yak": 100}},
    "broken": [{"file": "cat/7.jpg", "reason": "cannot be decoded"}],
    "repeated": [["cat/1.jpg", "cat/2.jpg", "cat/3.jpg"], ["dog/1.jpg", "dog/2.jpg"]],
    "contradictions": [],
    "leaks": [["train/cat/1.jpg", "test/cat/1.jpg"]],
  }
  found = facts(tmp_path / "run", facts=wrong)
  assert about(found, "Files that cannot be read as images: 1")[1] == ["For one: cat/7.jpg", "Left out"]
  head, rest = about(found, "Images that are there more than once")
  assert head.endswith("groups: 2, files: 5")
  assert rest == ["For one: cat/1.jpg, cat/2.jpg", *["Each is kept once"] * told]
  assert about(found, "The same image in several splits")[0].endswith("groups: 1, files: 2")
  assert not any("several classes" in head for head in found)
  head, rest = about(found, "Class imbalance")
  assert head == "Class imbalance: 300 images of “cat”, 100 of “yak” (3 : 1)"
  assert ("Splits stratified by class" in rest) == told


def test_splits_that_are_not_as_large_as_ours_are_not_called_stratified(tmp_path):
  assert stratified(read_recorded(write_run(tmp_path / "ours", NAMES)))
  assert not stratified(read_recorded(write_run(tmp_path / "published", NAMES, settings={"data.folds": 9})))


def test_limits_name_the_class_of_too_few_images(tmp_path):
  few = limits(read_recorded(write_run(tmp_path / "few", NAMES)), SAY)
  assert any(
    "Test images of “yak”: only 8, so its recall is between 21.5\u00a0% and 78.5\u00a0%" in text for text in few
  )
  assert "seed (3)" in few[0]
  many = limits(read_recorded(write_run(tmp_path / "many", NAMES, counts=matrix(3, rare=80, right=90))), SAY)
  assert len(many) == len(few) - 1


def test_an_augmentation_without_words_has_its_name():
  settings = {
    "data.augment!": 2,
    "data.augment.0!": "Cutout",
    "data.augment.0.share": 0.5,
    "data.augment.1!": "New",
  }
  assert augmentations(settings, Voice("fr")) == ["un carré effacé (0,5 du côté)", "New"]
  assert dropout({"task.dropout": 0.5, "task.model.dropout": 0.1, "data.dropout": 0.9}) == 0.5
