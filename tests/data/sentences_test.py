import csv
import itertools

import numpy as np
import pytest

from dlcourse.data.sentences import Sentences
from dlcourse.errors import UserError

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  """400 sentences of 1 to 20 words; the last word tells the number of the sentence, the label its remainder."""
  path = tmp_path_factory.mktemp("sentences") / "mine.csv"
  rng = np.random.default_rng(0)
  with path.open("w", newline="") as out:
    table = csv.writer(out)
    table.writerow(["text", "label"])
    for number in range(400):
      words = rng.choice(["red", "green", "blue"], rng.integers(20))
      table.writerow([" ".join([*words, f"s{number}"]), "abbb"[number % 4]])
  return path


@pytest.fixture(scope="module")
def data(file):
  return Sentences(f"csv:{file}", batch_size=16, vocab_size=1000, longest=40, buckets=3).build()


def read(data, batches):
  """(text, label) of every sentence that counts."""
  found = []
  for batch in batches:
    for inputs, length, label, mask in zip(
      *(batch[n] for n in ("inputs", "lengths", "label", "mask")), strict=True
    ):
      assert not inputs[length:].any()
      if mask:
        found.append((data.spec.tokenizer.decode(inputs[:length]), data.spec.classes[label]))
  return found


def test_every_sentence_comes_once_with_its_label(data, file):
  with file.open(newline="") as lines:
    label_of = {row["text"]: row["label"] for row in csv.DictReader(lines)}
  held_out = [pair for split in SPLITS[1:] for pair in read(data, data.eval_batches(split))]
  train = read(data, data.eval_batches("train"))
  assert len(held_out) == 80
  assert len(train) == 320
  assert dict(train) == {text: label_of[text] for text, _ in train}
  for text, label in held_out:  # their last words are unknown: no vocabulary is learnt from them
    assert text.endswith("<unk>")
    assert label in "ab"
  epoch = read(data, [data.batch(5, step) for step in range(20)])
  assert sorted(epoch) == sorted(train)


def test_splits_are_stratified_and_disjoint(data):
  for split in SPLITS:
    labels = np.array([label for _, label in read(data, data.eval_batches(split))])
    assert np.mean(labels == "a") == pytest.approx(0.25, abs=0.02)
  assert data.sizes == {"train": 320, "validation": 40, "test": 40}


def test_batches_are_pure_and_shaped_as_the_spec_says(data, file):
  again = Sentences(f"csv:{file}", batch_size=16, vocab_size=1000, longest=40, buckets=3).build()
  assert again.digest == data.digest
  widths = set()
  for step in (7, 0, 31):
    batch = data.batch(1, step)
    widths.add(batch["inputs"].shape[1])
    for name, array in again.batch(1, step).items():
      np.testing.assert_array_equal(array, batch[name])
      assert array.dtype == data.spec.batch[name].dtype
      assert array.ndim == len(data.spec.batch[name].shape)
  assert data.spec.batch["inputs"].shape == (16, 24)
  assert max(widths) <= 24
  other = Sentences(f"csv:{file}", batch_size=16, vocab_size=1000, longest=40, split_seed=1).build()
  assert other.digest != data.digest


def test_long_sentences_are_cut_at_their_end(file):
  cut = Sentences(f"csv:{file}", batch_size=16, vocab_size=1000, longest=5).build()
  whole = Sentences(f"csv:{file}", batch_size=16, vocab_size=1000, longest=40).build()
  ends = {" ".join(text.split()[:5]) for text, _ in read(whole, whole.eval_batches("test"))}
  assert {text for text, _ in read(cut, cut.eval_batches("test"))} == ends


@pytest.mark.parametrize("kind", ["chars", "words", "bpe"])
def test_the_tokenizer_of_the_spec_is_the_one_that_encoded(file, kind):
  data = Sentences(f"csv:{file}", batch_size=4, tokens=kind, vocab_size=300, longest=200).build()
  assert data.spec.vocabulary == data.spec.tokenizer.vocabulary
  assert data.spec.tokenizer.kind == kind
  batch = next(data.eval_batches("train"))
  for inputs, length in zip(batch["inputs"], batch["lengths"], strict=True):
    np.testing.assert_array_equal(
      data.spec.tokenizer.encode(data.spec.tokenizer.decode(inputs[:length])), inputs[:length]
    )


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"batch_size": 0}, "--data.batch_size=0"),
    ({"longest": 0}, "--data.longest=0"),
    ({"buckets": 0}, "--data.buckets=0"),
    ({"split_seed": -1}, "--data.split_seed=-1"),
    ({"validation": 0.0}, "--data.validation=0.0"),
    ({"validation": 0.5, "test": 0.5}, "leave something to train on"),
    ({"test": float("nan")}, "--data.test=nan"),
  ],
)
def test_numbers_that_fit_no_source_are_refused(fields, said):
  with pytest.raises(UserError, match=said):
    Sentences("rotten_tomatoes", **fields)


def test_an_unknown_split_is_refused(data):
  with pytest.raises(UserError, match="unknown split 'tests'; perhaps you meant 'test'"):
    data.eval_batches("tests")


@pytest.mark.data
def test_no_sentence_of_rotten_tomatoes_is_in_two_splits():
  data = Sentences("rotten_tomatoes", tokens="chars", longest=300).build()
  assert data.sizes == {"train": 6824, "validation": 852, "test": 852}
  texts = {split: {text for text, _ in read(data, data.eval_batches(split))} for split in SPLITS}
  assert sum(map(len, texts.values())) == 8528
  assert all(a.isdisjoint(b) for a, b in itertools.combinations(texts.values(), 2))
