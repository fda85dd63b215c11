import dataclasses
import random

import numpy as np
import pytest

from dlcourse.data.expressions import Expressions, grown, nodes_of, size_of, value, written
from dlcourse.errors import UserError

SPLITS = ("train", "validation", "test")
SMALL = Expressions(expressions=300, held_out=50, batch_size=16)
IN_A_ROW = dataclasses.replace(SMALL, form="sequence")
EXAMPLE = ("max", 2, 9, ("min", 4, 7), 0)


@pytest.fixture(scope="module")
def data():
  return SMALL.build()


@pytest.fixture(scope="module")
def in_a_row():
  return IN_A_ROW.build()


def rows(data, split):
  for batch in data.eval_batches(split):
    for row in np.flatnonzero(batch["mask"]):
      yield {name: array[row] for name, array in batch.items()}


def evaluated(text):
  """The result of a written expression, by a reader of its own."""
  tokens = text.replace("(", " ( ").replace(")", " ) ").split()

  def read():
    token = tokens.pop(0)
    if token != "(":
      return int(token)
    operator, values = tokens.pop(0), []
    while tokens[0] != ")":
      values.append(read())
    tokens.pop(0)
    results = {"max": max(values), "min": min(values), "sum": sum(values) % 10, "med": int(np.median(values))}
    return results[operator]

  return read()


def depth_of(expression):
  return 0 if isinstance(expression, int) else 1 + max(map(depth_of, expression[1:]))


@pytest.mark.parametrize(
  ("expression", "result"),
  [
    (EXAMPLE, 9),
    (("sum", 9, 8, 7), 4),
    (("med", 1, 4), 2),
    (("med", 9, 0, 3), 3),
    (("min", 5, ("sum", 5, 5)), 0),
  ],
)
def test_results(expression, result):
  assert value(expression) == result
  assert evaluated(written(expression)) == result


def test_a_program_has_every_node_after_its_children():
  assert written(EXAMPLE) == "(max 2 9 (min 4 7) 0)"
  program = nodes_of(EXAMPLE)
  assert program == [
    ("2", []), ("9", []), ("4", []), ("7", []), ("min", [2, 3]), ("0", []), ("max", [0, 1, 4, 5]),
  ]  # fmt: skip
  assert size_of(EXAMPLE) == len(program)


def test_a_sequence_has_the_label_of_its_value(in_a_row):
  decode = in_a_row.spec.tokenizer.decode
  for split in SPLITS:
    for row in rows(in_a_row, split):
      assert evaluated(decode(row["inputs"])) == row["label"]


def test_a_program_has_the_label_of_its_value(data):
  names = data.spec.vocabulary
  for split in SPLITS:
    for row in rows(data, split):
      results = []
      for node, children in zip(row["nodes"][: row["lengths"]], row["children"], strict=False):
        symbol, places = names[node], children[children >= 0]
        assert all(0 <= place < len(results) for place in places)
        if symbol.isdigit():
          assert not len(places)
          results.append(int(symbol))
        else:
          results.append(evaluated(f"({symbol} {' '.join(str(results[place]) for place in places)})"))
      assert results[-1] == row["label"]
      assert not row["nodes"][row["lengths"] :].any()
      assert (row["children"][row["lengths"] :] == -1).all()


def test_both_forms_are_of_the_same_expressions(data, in_a_row):
  for split in SPLITS:
    labels = [sorted(row["label"] for row in rows(form, split)) for form in (data, in_a_row)]
    assert labels[0] == labels[1]
    # without brackets, a sequence has one token a node
    brackets = [in_a_row.spec.vocabulary.index(bracket) for bracket in "()"]
    counts = sorted(
      np.sum(~np.isin(row["inputs"][: row["lengths"]], brackets)) for row in rows(in_a_row, split)
    )
    assert counts == sorted(row["lengths"] for row in rows(data, split))


def test_no_expression_comes_twice(in_a_row):
  decode = in_a_row.spec.tokenizer.decode
  texts = [decode(row["inputs"]) for split in SPLITS for row in rows(in_a_row, split)]
  assert len(texts) == len(set(texts)) == 400
  assert in_a_row.sizes == {"train": 300, "validation": 50, "test": 50}


def test_the_splits_are_alike_and_within_the_limits(data):
  lengths = {split: np.array([row["lengths"] for row in rows(data, split)]) for split in SPLITS}
  assert all(found.max() <= 32 for found in lengths.values())
  spread = lengths["train"].std() / np.sqrt(50)
  assert abs(lengths["test"].mean() - lengths["train"].mean()) < 4 * spread
  assert set(np.concatenate([[row["label"] for row in rows(data, split)] for split in SPLITS])) == set(
    range(10)
  )


def test_expressions_are_as_deep_and_as_wide_as_is_asked_for():
  rng = random.Random(0)
  made = [grown(rng, 3, 4) for _ in range(300)]
  assert {depth_of(expression) for expression in made} == {1, 2, 3}
  assert {len(expression) - 1 for expression in made} == {2, 3, 4}


@pytest.mark.parametrize("form", ["tree", "sequence"])
def test_an_epoch_has_every_training_expression_in_few_shapes(form, data, in_a_row):
  made, name = (data, "nodes") if form == "tree" else (in_a_row, "inputs")
  parts = [made.batch(0, step) for step in range(-(-300 // 16))]
  seen = sorted(made.spec.tokenizer.decode(x) for part in parts for x in part[name][part["mask"] > 0])
  assert seen == sorted(made.spec.tokenizer.decode(row[name]) for row in rows(made, "train"))
  shapes = {part[name].shape for part in parts}
  assert len(shapes) <= 4
  assert max(shapes) == made.spec.batch[name].shape


def test_the_same_seed_makes_the_same_expressions(data):
  assert SMALL.build().digest == data.digest
  assert Expressions(expressions=300, held_out=50, split_seed=1).build().digest != data.digest


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"depth": 0}, "--data.depth=0"),
    ({"arguments": 1}, "--data.arguments=1"),
    ({"most_nodes": 2}, "--data.most_nodes=2"),
    ({"held_out": 0}, "--data.held_out=0"),
  ],
)
def test_a_number_that_makes_no_expression_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    Expressions(**fields)


def test_more_expressions_than_there_are_are_refused():
  with pytest.raises(UserError, match="only 400 different expressions were found, 420 are needed"):
    Expressions(depth=1, arguments=2, expressions=400, held_out=10).build()
