import json

import numpy as np
import pytest
from PIL import Image
from recorded_runs import matrix, write_run

from dlcourse.data.findings import inspect
from dlcourse.data.image_lists import list_folder
from dlcourse.errors import UserError
from dlcourse.slides.recorded import interval, read_recorded

NAMES = ("cat", "dog", "yak")


@pytest.fixture
def run(tmp_path):
  return write_run(tmp_path / "run", NAMES)


def test_a_run_is_read_as_it_was_recorded(run):
  found = read_recorded(run)
  np.testing.assert_array_equal(found.counts, matrix(3))
  assert found.tested == 50
  assert found.recalls == {"yak": 0.5, "dog": 20 / 22, "cat": 1.0}
  assert list(found.recalls) == ["yak", "dog", "cat"]
  assert found.confusions == [("yak", "dog", 4), ("dog", "cat", 2)]
  assert found.logged("train", "accuracy") == [(40, 0.8), (80, 0.9), (240, 1.0)]
  assert (found.at("validation", "accuracy", 80), found.at("validation", "accuracy", 81)) == (0.85, None)
  assert found.layers[0].input == (768,)


def test_what_the_lab_finds_in_a_folder_is_understood(tmp_path):
  for name, colours in (("cat", (1, 2, 2)), ("dog", (3, 4))):
    (tmp_path / "photos" / name).mkdir(parents=True)
    for number, colour in enumerate(colours):
      Image.new("L", (4, 4), colour).save(tmp_path / f"photos/{name}/{number}.png")
  (tmp_path / "photos/dog/bad.png").write_text("no image")
  record = inspect(list_folder(str(tmp_path / "photos"))).record()
  found = read_recorded(write_run(tmp_path / "run", ("cat", "dog"), facts=record))
  assert found.per_class == {"cat": 3, "dog": 2}
  assert found.splits == ("all",)
  assert [row["file"] for row in found.found["broken"]] == ["dog/bad.png"]
  assert found.found["repeated"] == [["cat/1.png", "cat/2.png"]]


@pytest.mark.parametrize(
  ("file", "text", "said"),
  [
    ("experiment.json", None, "is not a workdir"),
    ("result.json", None, "has no report yet; first `dlcourse report"),
    ("report/confusion_matrix.json", None, "without the confusion matrix of an image classifier"),
    ("result.json", "{}", "its report is damaged"),
    (
      "result.json",
      json.dumps({"test": {"accuracy": "high"}, "steps": 1, "seconds": 1}),
      "its report is damaged",
    ),
    ("report/confusion_matrix.json", "[]", "its report is damaged"),
    ("report/confusion_matrix.json", '[{"label": "a", "counts": {"a": 0}}]', "its report is damaged"),
    ("report/summary.json", '[{"path": 1}]', "its report is damaged"),
    ("report/summary.json", "[]", "its report is damaged"),
    ("report/summary.json", "[" * 10**5, "is damaged"),
    ("data.json", "[1]", "its report is damaged"),
    ("report/baselines.json", '[{"accuracy": 1}]', "its report is damaged"),
  ],
)
def test_what_is_missing_or_damaged_is_one_line(run, file, text, said):
  if text is None:
    (run / file).unlink()
  else:
    (run / file).write_text(text)
  with pytest.raises(UserError, match=said) as refused:
    read_recorded(run)
  assert "\n" not in str(refused.value)


def test_wilsons_interval_is_that_of_the_books():
  assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe (1998), table I
