import types

import numpy as np
import pytest

from dlcourse.data.recipe import Data, Spec
from dlcourse.data.tokens import BOS, EOS, train_tokenizer
from dlcourse.errors import UserError
from dlcourse.evaluators.text_scores import (
  Alignments,
  Answer,
  Bleu,
  ErrorRates,
  ExactMatch,
  alignment_figure,
  answers,
)

PAIRS = [
  ("a b c", "the cat sat on the mat", "the cat sat on a mat"),
  ("c", "yes", "yes"),
  ("b a", "no , not here", ""),
]
TOKENIZER = train_tokenizer("words", [text for row in PAIRS for text in row], 50)
S, L = 4, 8


def padded(texts, width, end=()):
  rows = [[*TOKENIZER.encode(text), *end] for text in texts]
  lengths = np.array([*map(len, rows), 0], np.int32)
  return np.array([row + [0] * (width - len(row)) for row in [*rows, []]], np.int32), lengths


def setting(attention=1.0, **more):
  sources, references, made = zip(*PAIRS, strict=True)
  inputs, lengths = padded(sources, S)
  targets, target_lengths = padded(references, L, [EOS])
  mask = (np.arange(L) < target_lengths[:, None]).astype(np.float32)
  batch = {
    "inputs": inputs,
    "lengths": lengths,
    "targets": targets,
    "target_lengths": target_lengths,
    "tokens": np.full_like(targets, BOS),
    "mask": mask,
  } | more
  tokens, sizes = padded(made, L, [EOS])
  weights = attention * np.random.default_rng(0).uniform(size=(4, L, S))
  task = types.SimpleNamespace(
    predict=lambda state, key, batch: {"tokens": tokens, "lengths": sizes, "attention": weights}
  )
  spec = Spec({}, vocabulary=TOKENIZER.vocabulary, tokenizer=TOKENIZER)
  return task, None, Data(spec, None, lambda split: [batch], {}, "", ""), None


def test_answers_are_texts_without_padding_and_end():
  assert answers(*setting()) == [Answer(*row) for row in PAIRS]


def test_without_a_tokenizer_tokens_are_symbols():
  task, state, data, key = setting()
  spec = Spec({}, vocabulary=tuple(f"{token} " for token in TOKENIZER.vocabulary))
  found = answers(task, state, data._replace(spec=spec), key)
  assert [row.answer.strip() for row in found] == [row[2] for row in PAIRS]


def test_bleu_is_that_of_papineni_by_hand():
  report = Bleu()(*setting())
  assert report.tables["answers"] == [Answer(*row)._asdict() for row in PAIRS]
  # n-grams of the answers that are in their reference, of all: 6 of 7, 3 of 5, 2 of 4, 1 of 3; 7 words for 11.
  precisions = np.array([6 / 7, 3 / 5, 2 / 4, 1 / 3])
  expected = 100 * np.exp(1 - 11 / 7) * np.exp(np.log(precisions).mean())
  assert report.scalars["bleu"] == pytest.approx(expected, rel=1e-6)


def edits(a, b):
  """Levenshtein's recursion, row by row."""
  row = list(range(len(b) + 1))
  for i, x in enumerate(a, 1):
    above, row[0] = row[0], i
    for j, y in enumerate(b, 1):
      above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
  return row[-1]


def test_error_rates_count_edits_over_the_whole_split():
  report = ErrorRates()(*setting())
  for name, cut in (("cer", list), ("wer", str.split)):
    made = sum(edits(cut(reference), cut(answer)) for _, reference, answer in PAIRS)
    assert report.scalars[name] == pytest.approx(made / sum(len(cut(row[1])) for row in PAIRS))


def test_exact_match_is_a_share_of_whole_answers():
  assert ExactMatch()(*setting()).scalars == {"exact_match": pytest.approx(1 / 3)}


def test_labels_are_written_as_their_classes():
  batch = {
    "inputs": np.zeros((2, 5, 1), np.float32),
    "lengths": np.array([5, 0]),
    "labels": np.array([[1, 2, 2], [0, 0, 0]]),
    "label_lengths": np.array([3, 0]),
    "mask": np.array([1.0, 0.0], np.float32),
  }
  made = {"labels": np.array([[1, 2, 0, 0, 0]] * 2), "lengths": np.array([2, 2]), "scores": np.zeros(2)}
  task = types.SimpleNamespace(predict=lambda state, key, batch: made)
  data = Data(Spec({}, ("<blank>", "7", "8")), None, lambda split: [batch], {}, "", "")
  assert answers(task, None, data, None) == [Answer("", "788", "78")]
  assert ErrorRates()(task, None, data, None).scalars == {"cer": pytest.approx(1 / 3), "wer": 1.0}


def test_a_task_without_text_is_refused():
  task, state, data, key = setting()
  task.predict = lambda state, key, batch: np.zeros((4, 3))
  with pytest.raises(UserError, match="need a task that answers with text"):
    Bleu()(task, state, data, key)


def test_alignments_show_the_tokens_of_source_and_answer():
  report = Alignments(examples=2)(*setting())
  first, second = report.figures["alignments"].axes
  assert [label.get_text() for label in first.get_xticklabels()] == ["a", "b", "c"]
  assert [label.get_text() for label in first.get_yticklabels()][-3:] == ["a", "mat", "<eos>"]
  assert first.images[0].get_array().shape == (7, 3)
  assert second.images[0].get_array().shape == (2, 1)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"attention": 0.0}, "needs a model with attention"),
    ({"inputs": np.zeros((4, S + 1), np.int32)}, "one place each"),
    ({"inputs": np.zeros((4, S, 2), np.float32)}, "one place each"),
  ],
)
def test_what_has_no_alignment_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    Alignments()(*setting(**fields))


@pytest.mark.parametrize("count", [1, 3])
def test_an_alignment_of_long_texts_is_cut_and_every_symbol_can_be_drawn(count, tmp_path):
  panel = (["$_x"] * 60, ["_y$"] * 45, np.full((45, 60), 0.5))
  figure = alignment_figure([panel] * count)
  assert figure.axes[0].images[0].get_array().shape == (40, 40)
  figure.savefig(tmp_path / "alignment.png", dpi=20)


def test_a_figure_of_nothing_is_refused():
  with pytest.raises(UserError, match=r"examples=.* is too small"):
    Alignments(examples=0)
