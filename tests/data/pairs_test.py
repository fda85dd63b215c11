import numpy as np
import pytest

from dlcourse.data.pair_sources import load_pairs
from dlcourse.data.pairs import Pairs
from dlcourse.data.tokens import BOS, EOS
from dlcourse.errors import UserError

B = 8


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  """300 numbers and the same backwards, so that a source tells its target."""
  path = tmp_path_factory.mktemp("pairs") / "mine.tsv"
  numbers = np.random.default_rng(0).choice(10**12, 300, replace=False)
  path.write_text("".join(f"{n >> 3 * (n % 9)}\t{str(n >> 3 * (n % 9))[::-1]}\n" for n in numbers.tolist()))
  return path


@pytest.fixture(scope="module")
def data(file):
  return Pairs(f"tsv:{file}", batch_size=B, tokens="chars", vocab_size=20, longest=24, buckets=3).build()


def read(data, batches):
  """(source, target) of every pair that counts, from its own lengths and mask."""
  decode, found = data.spec.tokenizer.decode, []
  for batch in batches:
    for index in np.flatnonzero(batch["mask"].any(axis=1)):
      row = {name: array[index] for name, array in batch.items()}
      length, answer = row["lengths"], row["target_lengths"]
      np.testing.assert_array_equal(row["mask"], np.arange(len(row["mask"])) < answer)
      assert row["tokens"][0] == BOS
      assert row["targets"][answer - 1] == EOS
      np.testing.assert_array_equal(row["tokens"][1:answer], row["targets"][: answer - 1])
      assert not row["inputs"][length:].any()
      assert not row["tokens"][answer:].any()
      assert not row["targets"][answer:].any()
      found.append((decode(row["inputs"][:length]), decode(row["targets"][:answer])))
  return found


def test_every_pair_comes_once_and_stays_together(data, file):
  given = sorted(tuple(line.split("\t")) for line in file.read_text().splitlines())
  found = [pair for split in data.sizes for pair in read(data, data.eval_batches(split))]
  assert sorted(found) == given
  assert data.sizes == {"train": 255, "validation": 15, "test": 30}
  epoch = read(data, [data.batch(2, step) for step in range(32)])
  assert sorted(epoch) == sorted(read(data, data.eval_batches("train")))


def test_batches_are_of_one_type_and_the_longest_is_in_the_spec(data):
  for step in range(32):
    batch = data.batch(0, step)
    assert {n: x.dtype for n, x in batch.items()} == {n: x.dtype for n, x in data.spec.batch.items()}
    for name, array in batch.items():
      assert array.shape[0] == B
      assert array.shape[1:] <= data.spec.batch[name].shape[1:]
    assert batch["tokens"].shape == batch["targets"].shape == batch["mask"].shape
  assert data.spec.num_classes is None
  assert data.spec.tokenizer.vocabulary == data.spec.vocabulary


def test_long_texts_are_cut_and_a_cut_target_still_ends(file):
  data = Pairs(f"tsv:{file}", batch_size=B, tokens="chars", vocab_size=20, longest=6).build()
  pairs = read(data, data.eval_batches("test"))  # asserts <eos>
  assert max(len(source) for source, _ in pairs) == 6
  assert max(len(target) for _, target in pairs) == 5


def test_the_vocabulary_is_joint_and_of_the_training_split(tmp_path):
  path = tmp_path / "mine.tsv"
  path.write_text("".join(f"left{number}\trechts{number}\n" for number in range(100)))
  data = Pairs(f"tsv:{path}", batch_size=4, tokens="words", vocab_size=1000).build()
  sides = [sum(word.startswith(side) for word in data.spec.vocabulary) for side in ("left", "rechts")]
  assert sides == [85, 85]


@pytest.mark.parametrize(
  ("field", "value"),
  [("batch_size", 0), ("longest", 1), ("buckets", 0), ("vocab_size", 0), ("validation", 1.0)],
)
def test_numbers_that_fit_no_source_are_refused(field, value):
  with pytest.raises(UserError, match=f"--data.{field}={value}"):
    Pairs("gettext_fr", **{field: value})


@pytest.mark.data
def test_parts_of_words_give_back_both_languages():
  data = Pairs("gettext_fr").build()
  assert data.sizes == {"train": 10_132, "validation": 596, "test": 1191}
  pairs = dict(read(data, data.eval_batches("test")))
  assert len(pairs) == 1191
  given = dict(load_pairs("gettext_fr").pairs)
  assert all(given[source] == target for source, target in pairs.items())
