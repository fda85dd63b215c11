import types

import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.data.ragged import side_by_side
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.tagging import TagScores, spans

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.mark.parametrize(
  ("tags", "marked"),
  [
    ("O O", set()),
    ("B-PER I-PER O B-LOC", {(0, 2, "PER"), (3, 4, "LOC")}),
    ("B-PER B-PER", {(0, 1, "PER"), (1, 2, "PER")}),
    ("I-PER I-PER I-LOC", {(0, 2, "PER"), (2, 3, "LOC")}),  # the scheme in which B- only separates
    ("I-LOC B-LOC I-LOC", {(0, 1, "LOC"), (1, 3, "LOC")}),
    ("O I-PER", {(1, 2, "PER")}),
    ("B-LOC I-PER", {(0, 1, "LOC"), (1, 2, "PER")}),
  ],
)
def test_names_are_read_in_both_schemes(tags, marked):
  assert spans(tags.split()) == marked


def scored(true, said):
  numbers = [
    [np.array([TAGS.index(tag) for tag in row.split()], np.int32) for row in rows] for rows in (true, said)
  ]
  tags, lengths = side_by_side(numbers[0])
  guesses, _ = side_by_side(numbers[1])
  mask = (np.arange(tags.shape[1]) < lengths[:, None]).astype(np.float32)
  split = {"inputs": np.zeros_like(tags), "lengths": lengths, "tags": tags, "guesses": guesses, "mask": mask}
  spec = Spec(dict.fromkeys(split), TAGS, ("w",))
  data = types.SimpleNamespace(spec=spec, eval_batches=lambda name: in_order(split, 3))
  task = types.SimpleNamespace(predict=lambda state, key, batch: np.eye(len(TAGS))[batch["guesses"]])
  return TagScores(examples=1)(task, None, data, None)


def test_a_name_counts_where_both_ends_and_the_kind_are_right():
  true = ["B-PER I-PER O", "B-LOC", "O B-LOC I-LOC O", "B-PER"]
  said = ["B-PER I-PER B-LOC", "B-LOC", "O B-LOC O O", "B-LOC"]
  report = scored(true, said)
  assert report.scalars["entity_recall"] == 2 / 4
  assert report.scalars["entity_precision"] == 2 / 5
  assert report.scalars["entity_f1"] == pytest.approx(2 * 0.5 * 0.4 / 0.9)
  recalls = {row["tag"]: (row["count"], row["recall"]) for row in report.tables["tags"]}
  assert recalls == {"B-PER": (2, 0.5), "I-PER": (1, 1), "B-LOC": (2, 1), "I-LOC": (1, 0), "O": (3, 2 / 3)}
  assert report.tables["sentences"] == [{"text": "www", "tags": true[0], "predicted": said[0]}]


def test_tags_that_mark_no_names_have_no_entity_scores():
  assert scored(["O O"], ["O O"]).scalars == {}


def test_data_without_tags_is_refused():
  data = types.SimpleNamespace(spec=Spec({"image": None, "label": None}))
  with pytest.raises(UserError, match="this data has image, label"):
    TagScores()(None, None, data, None)
