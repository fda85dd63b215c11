import dataclasses

import numpy as np
import pytest

from dlcourse.data.procedural import Addition, MemoryGap, mixed
from dlcourse.errors import UserError

SPLITS = ("train", "validation", "test")


def rows(batch):
  for row in np.flatnonzero(batch["mask"].reshape(len(batch["mask"]), -1)[:, 0]):
    yield {name: array[row] for name, array in batch.items()}


def sums(data, batches, reverse_question=False, reverse_answer=False):
  """The pairs asked for, each checked against its answer."""
  decode, found = data.spec.tokenizer.decode, []
  for batch in batches:
    for row in rows(batch):
      question, answer = decode(row["inputs"]), decode(row["targets"])
      assert len(question) == row["lengths"]
      a, b = map(int, (question[::-1] if reverse_question else question).split("+"))
      assert int(answer[::-1] if reverse_answer else answer) == a + b
      found.append((a, b))
  return found


def test_questions_have_their_sums_as_answers():
  data = Addition(batch_size=64, questions=100).build()
  pairs = sums(data, [data.batch(0, step) for step in range(20)])
  assert {len(str(a)) for a, _ in pairs} == {1, 2, 3}
  assert (max(max(pair) for pair in pairs), min(min(pair) for pair in pairs)) > (900, 0)


@pytest.mark.parametrize("reverse", [(True, False), (False, True), (True, True)])
def test_questions_and_answers_can_be_written_backwards(reverse):
  data = Addition(questions=200, reverse_question=reverse[0], reverse_answer=reverse[1]).build()
  plain = Addition(questions=200).build()
  for split in SPLITS:
    pairs = sums(data, data.eval_batches(split), *reverse)
    assert pairs == sums(plain, plain.eval_batches(split))
    assert len(pairs) == data.sizes[split]


def test_no_pair_is_in_two_splits_in_any_order():
  data = Addition(digits=2, batch_size=256, questions=2000).build()
  seen = {name: {tuple(sorted(p)) for p in sums(data, data.eval_batches(name))} for name in SPLITS}
  seen["train"] |= {tuple(sorted(p)) for p in sums(data, [data.batch(0, step) for step in range(60)])}
  assert not seen["train"] & (seen["validation"] | seen["test"])
  assert not seen["validation"] & seen["test"]
  assert sum(map(len, seen.values())) > 0.7 * 5050
  for name in ("validation", "test"):
    assert 0.03 < len(seen[name]) / 5050 < 0.07
    assert data.sizes[name] == len(seen[name])  # none twice


def test_the_split_is_another_with_another_seed():
  one, other = (Addition(digits=2, split_seed=seed).build() for seed in (0, 1))
  tests = [set(sums(data, data.eval_batches("test"))) for data in (one, other)]
  assert len(tests[0] & tests[1]) < 0.3 * len(tests[0])
  assert one.digest != other.digest


def test_mixed_numbers_are_even_and_depend_on_key_and_seed():
  keys = np.arange(20_000, dtype=np.uint64)
  shares = mixed(keys, 0)
  assert np.histogram(shares, 10, (0, 1))[0] == pytest.approx(np.full(10, 2000), abs=200)
  assert abs(np.corrcoef(shares[1:], shares[:-1])[0, 1]) < 0.03
  assert abs(np.corrcoef(shares, mixed(keys, 1))[0, 1]) < 0.03


def test_the_symbol_comes_first_and_nothing_else_tells():
  data = MemoryGap(gap=5, symbols=4, batch_size=400).build()
  batch = data.batch(0, 0)
  assert batch["inputs"].shape == (400, 6)
  names = np.array(data.spec.vocabulary)[batch["inputs"]]
  assert "".join(names[:, 0]) == "".join(data.spec.classes[label] for label in batch["label"])
  assert set(names[:, 1:].ravel()) == set("abcd")
  assert np.bincount(batch["label"], minlength=4).min() > 70
  for step in range(1, 6):  # what comes later is as likely under every label
    table = np.histogram2d(batch["label"], batch["inputs"][:, step], bins=4)[0]
    expected = np.outer(table.sum(1), table.sum(0)) / 400
    assert ((table - expected) ** 2 / expected).sum() < 35  # chi squared, 9 degrees of freedom


def test_a_gap_of_nothing_shows_the_symbol_last():
  batch = MemoryGap(gap=0, symbols=2).build().batch(0, 0)
  np.testing.assert_array_equal(batch["inputs"][:, -1] - 4, batch["label"])
  np.testing.assert_array_equal(batch["lengths"], 1)


@pytest.mark.parametrize(
  "recipe", [Addition(batch_size=8, questions=30), MemoryGap(batch_size=8, sequences=30)]
)
def test_training_is_drawn_by_seed_and_step_and_evaluation_is_fixed(recipe):
  one, other = recipe.build(), recipe.build()
  for step in (3, 0):
    for name, array in one.batch(1, step).items():
      np.testing.assert_array_equal(array, other.batch(1, step)[name])
  drawn = [one.batch(seed, step)["inputs"].tobytes() for seed in range(4) for step in range(4)]
  assert len(set(drawn)) == 16
  fixed = [b["inputs"].tobytes() for split in SPLITS for b in one.eval_batches(split)]
  assert fixed == [b["inputs"].tobytes() for split in SPLITS for b in other.eval_batches(split)]
  assert len(set(fixed) | set(drawn)) == len(fixed) + 16
  assert one.digest == other.digest != dataclasses.replace(recipe, split_seed=1).build().digest
  shapes = {name: (x.shape, x.dtype) for name, x in one.spec.batch.items()}
  for batch in (one.batch(0, 9), *one.eval_batches("validation")):
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == shapes


@pytest.mark.parametrize(
  ("recipe", "fields", "said"),
  [
    (Addition, {"digits": 0}, "--data.digits=0"),
    (Addition, {"digits": 10}, "--data.digits=10"),
    (Addition, {"held_out": 0.0}, "--data.held_out=0.0 is"),
    (Addition, {"questions": 0}, "--data.questions=0"),
    (MemoryGap, {"gap": -1}, "--data.gap=-1"),
    (MemoryGap, {"symbols": 1}, "--data.symbols=1"),
    (MemoryGap, {"symbols": 27}, "--data.symbols=27"),
    (MemoryGap, {"batch_size": 0}, "--data.batch_size=0"),
  ],
)
def test_a_number_that_makes_no_task_is_refused(recipe, fields, said):
  with pytest.raises(UserError, match=said):
    recipe(**fields)


def test_too_few_pairs_to_split_are_refused():
  with pytest.raises(UserError, match="no pair is left to the split"):
    Addition(digits=1, held_out=0.001).build()
