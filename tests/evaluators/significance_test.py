"""The paired bootstrap of two translators."""

import json

import pytest

from dlcourse.errors import UserError
from dlcourse.evaluators.significance import paired_bootstrap
from dlcourse.experiment import Run

REFERENCES = [f"the {noun} of file {i} cannot be opened" for i in range(40) for noun in ("first page", "name")]
WRONG = ["something else altogether is said here"] * len(REFERENCES)


def results(tmp_path, answers):
  """As a study has them: {(label, seed): answers}."""
  found = []
  for (label, seed), made in answers.items():
    workdir = tmp_path / f"{label}-{seed}"
    (workdir / "report").mkdir(parents=True)
    rows = [{"reference": r, "answer": a} for r, a in zip(REFERENCES, made, strict=False)]
    (workdir / "report" / "answers.json").write_text(json.dumps(rows))
    found.append((Run(label, "x", seed=seed), {"workdir": workdir}))
  return found


def test_a_clear_difference_is_significant_and_none_is_not(tmp_path):
  half = [right if i % 2 else wrong for i, (right, wrong) in enumerate(zip(REFERENCES, WRONG, strict=True))]
  rest = [wrong if i % 2 else right for i, (right, wrong) in enumerate(zip(REFERENCES, WRONG, strict=True))]
  made = {("a", 0): REFERENCES, ("b", 0): half, ("a", 1): half, ("b", 1): rest}
  table = paired_bootstrap("a", "b")(results(tmp_path, made)).tables["a against b"]
  assert [row["seed"] for row in table] == [0, 1]
  assert table[0]["bleu"] == pytest.approx(100)
  assert table[0]["difference"] > 30
  assert table[0]["p"] < 0.01
  assert abs(table[1]["difference"]) < 10
  assert table[1]["p"] > 0.1


def test_other_sentences_and_no_sentence_are_refused(tmp_path):
  compare = paired_bootstrap("a", "b")
  with pytest.raises(UserError, match="different test splits"):
    compare(results(tmp_path / "1", {("a", 0): REFERENCES, ("b", 0): REFERENCES[:-1]}))
  with pytest.raises(UserError, match="holds no answers"):
    compare(results(tmp_path / "2", {("a", 0): [], ("b", 0): []}))
