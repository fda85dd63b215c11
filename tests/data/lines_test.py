import numpy as np
import pytest

from dlcourse.data import lines
from dlcourse.data.line_sources import LineSet
from dlcourse.data.lines import Lines
from dlcourse.data.tokens import BOS, EOS
from dlcourse.errors import UserError

B = 8
TEXTS = tuple(" ".join(["word"] * (n % 9) + [f"s{n}"]) for n in range(240))
GROUPS = np.arange(240, dtype=np.int32) // 3


@pytest.fixture(scope="module")
def data():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(lines, "load_lines", lambda name: LineSet(TEXTS, GROUPS, "texts", "none", "none"))
    return Lines("mine", batch_size=B, tokens="chars", longest=64).build()


def read(data, batches):
  """The text of every row that counts, from its own length."""
  found = []
  for batch in batches:
    assert set(batch) == {"tokens", "targets", "target_lengths", "mask"}
    assert batch["tokens"].shape == batch["targets"].shape
    for index in np.flatnonzero(batch["mask"]):
      tokens, targets, length = (batch[name][index] for name in ("tokens", "targets", "target_lengths"))
      assert tokens[0] == BOS
      assert targets[length - 1] == EOS
      np.testing.assert_array_equal(tokens[1:length], targets[: length - 1])
      assert not targets[length:].any()
      found.append(data.spec.tokenizer.decode(targets[:length]))
  return found


def test_every_text_comes_once_and_a_group_stays_together(data):
  splits = {split: read(data, data.eval_batches(split)) for split in data.sizes}
  assert sorted(text for texts in splits.values() for text in texts) == sorted(TEXTS)
  assert {split: len(texts) for split, texts in splits.items()} == data.sizes
  assert data.sizes == {"train": 204, "validation": 12, "test": 24}
  groups = [{GROUPS[TEXTS.index(text)] for text in texts} for texts in splits.values()]
  assert sum(map(len, groups)) == len(set.union(*groups)) == 80
  epoch = read(data, [data.batch(3, step) for step in range(26)])
  assert sorted(epoch) == sorted(splits["train"])


def test_published_splits_stay_and_what_validates_is_of_the_training_split(monkeypatch):
  published = tuple("test" if group % 4 == 0 else "train" for group in range(80))
  source = LineSet(TEXTS, GROUPS, "texts", "none", "none", published)
  monkeypatch.setattr(lines, "load_lines", lambda name: source)
  data = Lines("mine", batch_size=B, tokens="chars", longest=64, validation=0.1).build()
  assert data.sizes == {"train": 162, "validation": 18, "test": 60}
  test = {text for text, group in zip(TEXTS, GROUPS, strict=True) if group % 4 == 0}
  assert set(read(data, data.eval_batches("test"))) == test


def test_batches_are_pure_and_no_longer_than_the_spec_says(data):
  widths = set()
  for step in range(26):
    batch = data.batch(1, step)
    widths.add(batch["tokens"].shape[1])
    for name, array in batch.items():
      np.testing.assert_array_equal(array, data.batch(1, step)[name])
      assert array.dtype == data.spec.batch[name].dtype
      assert array.shape[0] == B
  assert max(widths) == data.spec.batch["tokens"].shape[1]
  assert len(widths) == 3


def test_long_texts_are_cut_before_their_end(monkeypatch):
  monkeypatch.setattr(lines, "load_lines", lambda name: LineSet(TEXTS, GROUPS, "texts", "none", "none"))
  data = Lines("mine", batch_size=B, longest=4).build()
  batch = next(data.eval_batches("test"))
  assert batch["targets"].shape[1] == 4
  assert batch["target_lengths"].max() == 4
  rows = np.arange(len(batch["targets"]))
  assert (batch["targets"][rows, batch["target_lengths"] - 1] == EOS).all()


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"batch_size": 0}, "--data.batch_size=0"),
    ({"longest": 1}, "--data.longest=1"),
    ({"buckets": 0}, "--data.buckets=0"),
    ({"validation": 0.0}, "--data.validation=0.0"),
    ({"split_seed": -1}, "--data.split_seed=-1"),
  ],
)
def test_numbers_that_fit_no_source_are_refused(fields, said):
  with pytest.raises(UserError, match=said):
    Lines("film_sentences", **fields)
