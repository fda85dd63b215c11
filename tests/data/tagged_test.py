import itertools

import numpy as np
import pytest

from dlcourse.data.tagged import Tagged, load_tagged, read_columns
from dlcourse.errors import UserError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  """200 sentences of numbers, each tagged with its parity; every tenth sentence comes twice."""
  path = tmp_path_factory.mktemp("tagged") / "mine.txt"
  rng = np.random.default_rng(0)
  with path.open("w") as out:
    for index in range(200):
      numbers = [1000 + index, *rng.integers(1000, size=rng.integers(25))]
      lines = "".join(f"{n} {'even' if n % 2 == 0 else 'odd'}\n" for n in numbers)
      out.write((lines + "\n") * (1 + (index % 10 == 0)))
  return path


@pytest.fixture(scope="module")
def data(file):
  return Tagged(f"conll:{file}", batch_size=8, vocab_size=5000, longest=32, buckets=3).build()


def read(data, batches):
  """(words, tags) of every sentence that counts."""
  found = []
  for batch in batches:
    for index in np.flatnonzero(batch["mask"].any(axis=1)):
      inputs, tags, mask = (batch[name][index] for name in ("inputs", "tags", "mask"))
      length = batch["lengths"][index]
      np.testing.assert_array_equal(mask, np.arange(len(mask)) < length)
      assert not inputs[length:].any()
      assert not tags[length:].any()
      words = data.spec.tokenizer.decode(inputs[:length]).split()
      found.append((tuple(words), tuple(data.spec.classes[tag] for tag in tags[:length])))
  return found


def test_every_word_keeps_its_tag_and_every_sentence_comes_once(data):
  assert data.spec.classes == ("even", "odd")
  train = read(data, data.eval_batches("train"))
  assert len(train) == data.sizes["train"] == 160
  for words, tags in train:
    assert tags == tuple("even" if int(word) % 2 == 0 else "odd" for word in words)
  epoch = read(data, [data.batch(3, step) for step in range(20)])
  assert sorted(epoch) == sorted(train)


def test_a_sentence_that_stands_twice_is_in_one_split(data):
  tags = {split: {t for _, t in read(data, data.eval_batches(split))} for split in data.sizes}
  assert data.sizes == {"train": 160, "validation": 20, "test": 20}  # 20 of 220 stand twice
  long = {split: {t for t in part if len(t) > 12} for split, part in tags.items()}
  assert all(a.isdisjoint(b) for a, b in itertools.combinations(long.values(), 2))


def test_words_that_were_not_trained_on_show_their_looks(data):
  words = [word for sentence, _ in read(data, data.eval_batches("test")) for word in sentence]
  assert "<number>" in words
  assert not {"<unk>", "<word>"} & set(words)


def test_batches_are_of_one_type_and_the_longest_is_in_the_spec(data):
  for step in range(20):
    batch = data.batch(0, step)
    assert {n: x.dtype for n, x in batch.items()} == {n: x.dtype for n, x in data.spec.batch.items()}
    assert batch["inputs"].shape == batch["tags"].shape == batch["mask"].shape
    assert batch["inputs"].shape <= data.spec.batch["inputs"].shape


def test_columns_are_read_by_sentence_without_headings(tmp_path):
  path = tmp_path / "x.txt"
  path.write_text("-DOCSTART- -X- O\n\nEU NNP B\nleaves VBZ O\n\n\n. . O\n")
  assert read_columns(path, 1) == [(("EU", "leaves"), ("NNP", "VBZ")), ((".",), (".",))]
  assert read_columns(path, -1)[0] == (("EU", "leaves"), ("B", "O"))


@pytest.mark.parametrize(
  ("contents", "said"), [("a x\nb\n", "line 2: 1 columns"), ("a\nb\n", "line 1: 1 columns"), ("", "is empty")]
)
def test_files_that_do_not_fit_are_reported_in_one_line(tmp_path, contents, said):
  path = tmp_path / "x.txt"
  path.write_text(contents)
  with pytest.raises(UserError, match=said) as info:
    load_tagged(f"conll:{path}")
  assert str(path) in str(info.value)
  assert "\n" not in str(info.value)


@pytest.mark.parametrize(
  ("field", "value"), [("batch_size", 0), ("longest", 0), ("buckets", 0), ("vocab_size", 0), ("test", 1.0)]
)
def test_numbers_that_fit_no_source_are_refused(field, value):
  with pytest.raises(UserError, match=f"--data.{field}={value}"):
    Tagged("named_entities", **{field: value})


def test_unknown_names():
  with pytest.raises(UserError, match="perhaps you meant 'named_entities'"):
    load_tagged("named_entity")


@pytest.mark.data
@pytest.mark.parametrize(("name", "classes"), [("named_entities", 9), ("parts_of_speech", 45)])
def test_the_newswire_has_its_published_splits(name, classes):
  data = Tagged(name).build()
  assert data.sizes == {"train": 14_041, "validation": 3_250, "test": 3_453}
  assert data.spec.num_classes == classes
  counted = {s: sum(int(b["mask"].sum()) for b in data.eval_batches(s)) for s in data.sizes}
  assert counted == {"train": 203_621, "validation": 51_362, "test": 46_435}  # as published


@pytest.mark.data
def test_names_and_parts_of_speech_are_those_of_their_words():
  words, tags = load_tagged("named_entities").splits["train"][0]
  assert " ".join(words) == "EU rejects German call to boycott British lamb ."
  assert " ".join(tags) == "B-ORG O B-MISC O O O B-MISC O O"
  assert " ".join(load_tagged("parts_of_speech").splits["train"][0][1]) == "NNP VBZ JJ NN TO VB JJ NN ."
