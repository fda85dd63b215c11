import numpy as np
import pytest

from dlcourse.data.text import Text, characters_of
from dlcourse.errors import UserError

B, T = 3, 8
DOCUMENTS = ["".join(chr(0x4E00 + i) for i in range(700)), "".join(chr(0x5E00 + i) for i in range(400))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two documents in which every symbol occurs once, so that a symbol tells its place."""
  path = tmp_path_factory.mktemp("text")
  for index, text in enumerate(DOCUMENTS):
    (path / f"{index}.txt").write_text(text, encoding="utf-8")
  return path


@pytest.fixture(scope="module")
def data(folder):
  return Text(f"file:{folder}", batch_size=B, seq_len=T).build()


def held_out(data, split):
  """Tokens, targets and mask of a split, [N, T] each."""
  parts = list(data.eval_batches(split))
  return tuple(np.concatenate([part[name] for part in parts]) for name in ("tokens", "targets", "mask"))


def text(data, numbers):
  return "".join(data.spec.vocabulary[number] for number in numbers)


def steps_per_pass(data):
  return next(step for step in range(1, 1000) if data.batch(0, step)["reset"].all())


def test_targets_are_the_tokens_shifted_by_one(data):
  for step in range(2 * steps_per_pass(data)):
    batch = data.batch(0, step)
    np.testing.assert_array_equal(batch["targets"][:, :-1], batch["tokens"][:, 1:])
  tokens, targets, mask = held_out(data, "test")
  inside = mask[:, 1:] > 0
  np.testing.assert_array_equal(targets[:, :-1][inside], tokens[:, 1:][inside])


def test_streams_go_on_where_the_last_step_ended_and_reset_only_at_the_start_of_a_pass(data):
  length = steps_per_pass(data)
  for step in range(1, 3 * length):
    before, now = data.batch(5, step - 1), data.batch(5, step)
    starts = step % length == 0
    assert np.all(now["reset"] == starts)
    goes_on = before["targets"][:, -1] == now["tokens"][:, 0]
    assert not goes_on.any() if starts else goes_on.all()
  assert np.all(data.batch(5, 0)["reset"] == 1)


def test_a_pass_reads_nearly_all_of_the_training_text_and_no_symbol_twice(data):
  length = steps_per_pass(data)
  seen = np.concatenate([data.batch(0, step)["tokens"].ravel() for step in range(length)])
  assert len(set(seen.tolist())) == len(seen)
  assert len(seen) > data.sizes["train"] - B * (2 * T + 1)


def test_passes_and_seeds_start_at_different_offsets_and_batches_are_pure(data, folder):
  length = steps_per_pass(data)
  firsts = {int(data.batch(seed, n * length)["tokens"][0, 0]) for seed in range(3) for n in range(10)}
  assert len(firsts) == T  # every offset below a window occurs
  again = Text(f"file:{folder}", batch_size=B, seq_len=T).build()
  for step in (40, 0, 3):
    for name, array in again.batch(1, step).items():
      np.testing.assert_array_equal(array, data.batch(1, step)[name])


def test_the_ends_of_every_document_are_held_out_from_training(data):
  train = set(text(data, np.concatenate([data.batch(0, s)["targets"].ravel() for s in range(200)])))
  for document in DOCUMENTS:
    assert not train & set(document[round(len(document) * 0.9) :])
    assert len(train & set(document)) > 0.8 * 0.9 * len(document)
  assert data.sizes == {"train": 990, "validation": 55, "test": 55}


def test_windows_cover_every_held_out_symbol_exactly_once(data):
  ends = [document[round(len(document) * 0.9) :] for document in DOCUMENTS]
  halves = {
    "validation": "".join(end[: len(end) // 2] for end in ends),
    "test": "".join(end[len(end) // 2 :] for end in ends),
  }
  for split, expected in halves.items():
    tokens, targets, mask = held_out(data, split)
    assert text(data, targets[mask > 0]) == expected[1:]  # the first symbol has no past to be predicted from
    assert text(data, tokens[mask > 0]) == expected[:-1]


def test_windows_start_without_a_past_and_fit_exactly_where_they_can(folder):
  exact = Text(f"file:{folder}", batch_size=2, seq_len=27).build()  # 54 predictions, two windows
  (batch,) = exact.eval_batches("test")
  assert batch["mask"].sum() == 54
  assert np.all(batch["reset"] == 1)


def test_the_vocabulary_is_sorted_and_complete(data):
  assert data.spec.vocabulary == tuple(sorted("".join(DOCUMENTS)))
  assert data.spec.vocab_size == 1100
  batch = data.batch(0, 0)
  assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
    name: (x.shape, x.dtype) for name, x in data.spec.batch.items()
  }


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"batch_size": 200}, "lower --data.batch_size or --data.seq_len"),
    ({"seq_len": 200}, "symbols to"),
    ({"held_out": 0.01}, "validation"),
    ({"source": "shakespear"}, "perhaps you meant 'shakespeare'"),
  ],
)
def test_fields_that_do_not_fit_are_refused(folder, fields, said):
  with pytest.raises(UserError, match=said):
    Text(**{"source": f"file:{folder}", "batch_size": B, "seq_len": T} | fields).build()


@pytest.mark.parametrize(
  ("field", "value"), [("batch_size", 0), ("seq_len", 0), ("held_out", 0.0), ("held_out", 1.0)]
)
def test_a_number_that_fits_no_text_is_refused(field, value):
  with pytest.raises(UserError, match=f"--data.{field}={value} is"):
    Text("shakespeare", **{field: value})


def test_an_unknown_split_is_refused(data):
  with pytest.raises(UserError, match="unknown split"):
    data.eval_batches("tests")


def test_the_smallest_text_that_is_taken_has_a_batch(tmp_path):
  path = tmp_path / "x.txt"
  path.write_text("ab" * 40, encoding="utf-8")
  data = Text(f"file:{path}", batch_size=2, seq_len=4, held_out=0.3).build()
  for seed in range(20):
    assert data.batch(seed, 1)["targets"].shape == (2, 4)
  with pytest.raises(UserError):
    Text(f"file:{path}", batch_size=7, seq_len=4, held_out=0.3).build()


@pytest.mark.data
def test_shakespeare_has_a_tenth_held_out():
  sizes = Text("shakespeare").build().sizes
  assert sum(sizes.values()) == 5_057_198
  assert sizes["train"] / 5_057_198 == pytest.approx(0.9, abs=1e-4)


def test_every_symbol_of_a_conditional_text_comes_with_its_document(folder, data):
  told = Text(f"file:{folder}", batch_size=B, seq_len=T, conditional=True).build()
  assert told.spec.classes == ("0", "1")
  batches = [told.batch(0, step) for step in range(steps_per_pass(told))]
  batches += [batch for split in ("validation", "test") for batch in told.eval_batches(split)]
  seen = set()
  for batch in batches:
    counts = batch["mask"] > 0
    symbols = np.array(told.spec.vocabulary)[batch["tokens"][counts]]
    seen |= set(batch["condition"][counts].tolist())
    assert all(symbol in DOCUMENTS[n] for symbol, n in zip(symbols, batch["condition"][counts], strict=True))
  assert seen == {0, 1}
  assert "condition" not in data.batch(0, 0)
  np.testing.assert_array_equal(told.batch(0, 3)["tokens"], data.batch(0, 3)["tokens"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A file in which words repeat, with symbols that only the held-out end has."""
  path = tmp_path_factory.mktemp("words") / "x.txt"
  rng = np.random.default_rng(0)
  words = [" ".join(rng.choice(["the", "cat", "sat", "there"], 6)) + "\n\n" for _ in range(200)]
  path.write_text("".join(words) + "naïve 猫 😀\n" * 60, encoding="utf-8")
  return path


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_parts_of_words_give_the_text_back_and_count_its_characters(written, kind):
  text = written.read_text(encoding="utf-8")
  data = Text(f"file:{written}", batch_size=2, seq_len=8, tokens=kind, vocab_size=300).build()
  assert data.spec.tokenizer.vocabulary == data.spec.vocabulary
  start, end = round(len(text) * 0.9), len(text)
  parts = {"validation": text[start : (start + end) // 2], "test": text[(start + end) // 2 :]}
  for split, expected in parts.items():
    tokens, targets, mask = held_out(data, split)
    counts = np.concatenate([batch["characters"] for batch in data.eval_batches(split)])
    numbers = [int(tokens.flat[0]), *targets[mask > 0].tolist()]
    assert data.spec.decode(numbers) == expected
    assert len(numbers) == data.sizes[split]
    assert data.spec.encode(expected, "x").tolist() == numbers
    # The first token is predicted by nothing, and so are its characters not counted.
    assert counts[mask > 0].sum() == len(expected) - characters_of(data.spec.tokenizer)[numbers[0]]
  batch = data.batch(0, 3)
  assert batch["characters"].max() > 1
  np.testing.assert_array_equal(batch["characters"], characters_of(data.spec.tokenizer)[batch["targets"]])
  assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
    name: (x.shape, x.dtype) for name, x in data.spec.batch.items()
  }


def test_parts_of_words_come_with_their_document(tmp_path):
  for name in ("one", "two"):
    (tmp_path / f"{name}.txt").write_text(f"{name} " * 300)
  fields = {"batch_size": 2, "seq_len": 4, "tokens": "bpe", "vocab_size": 280, "held_out": 0.3}
  told = Text(f"file:{tmp_path}", conditional=True, **fields).build()
  for batch in told.eval_batches("test"):
    for document, title in enumerate(told.spec.classes):
      inside = (batch["condition"] == document) & (batch["mask"] > 0)
      assert set(told.spec.decode(batch["tokens"][inside])) <= set(title + " ")


def test_a_vocabulary_without_room_for_bytes_is_refused(written):
  with pytest.raises(UserError, match="vocab_size=100 is too small"):
    Text(f"file:{written}", tokens="bpe", vocab_size=100).build()
