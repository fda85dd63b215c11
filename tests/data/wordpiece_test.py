"""Tokenizers of published networks: known answers, the longest match by hand, and those of `transformers`."""

import importlib
import json

import numpy as np
import pytest
import tokenizers

from dlcourse.data.wordpiece import byte_pairs, pretrained, wordpiece
from dlcourse.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PARTS = [
  "un",
  "##aff",
  "##able",
  "##a",
  "the",
  "cafe",
  "a",
  "##ff",
  ",",
  "!",
  "##ble",
  "[",
  "]",
  "sep",
  "great",
]
TEXTS = [
  "The café, unaffable!",
  "  a\tthe\n the ",
  "great-great [SEP] thegreat 北京 !!",
  "xyzzy Unaff\u00e4ble",
  "",
  "GREAT" * 30,
]


@pytest.fixture
def vocabulary(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join([*SPECIAL, *PARTS, ""]), encoding="utf-8")
  return path


@pytest.fixture
def gpt_files(tmp_path):
  """Byte pairs that are learnt from a few lines."""
  learnt = tokenizers.ByteLevelBPETokenizer()
  learnt.train_from_iterator(["the café is great, and it's the greatest!\n"] * 3, 280, show_progress=False)
  learnt.save_model(str(tmp_path))
  return tmp_path / "vocab.json", tmp_path / "merges.txt"


def longest_first(word, known):
  """WordPiece by hand."""
  parts, start = [], 0
  while start < len(word):
    ends = range(len(word), start, -1)
    found = next((x for end in ends if (x := ("##" if start else "") + word[start:end]) in known), None)
    if found is None:
      return ["[UNK]"]
    parts.append(found)
    start += len(found) - (2 if start else 0)
  return parts


def test_words_are_cut_into_their_longest_parts(vocabulary):
  known = [*SPECIAL, *PARTS]
  tokenizer = wordpiece(vocabulary)
  assert tokenizer.vocabulary == tuple(known)
  for word in ("unaffable", "unable", "unaffa", "affable", "thea", "great"):
    expected = ["[CLS]", *longest_first(word, known), "[SEP]"]
    encoded = tokenizer.encode(word)
    assert encoded.dtype == np.int32
    assert [known[token] for token in encoded] == expected
  assert longest_first("unaffable", known) == ["un", "##aff", "##able"]


def test_text_is_lower_case_without_accents_where_a_network_is_uncased(vocabulary):
  tokenizer = wordpiece(vocabulary)
  assert tokenizer.decode([*tokenizer.encode("The CAFÉ , unaffable!"), 0, 0]) == "the cafe, unaffable!"
  cafe = tokenizer.vocabulary.index("cafe")
  assert tokenizer.encode("cafe Café").tolist()[1:-1] == [cafe, cafe]
  assert wordpiece(vocabulary, lower=False).encode("cafe Cafe").tolist()[1:-1] == [cafe, 1]


def test_what_is_written_as_the_end_of_a_text_does_not_end_it(vocabulary):
  tokenizer = wordpiece(vocabulary)
  assert [tokenizer.vocabulary[x] for x in tokenizer.encode("[SEP]")] == ["[CLS]", "[", "sep", "]", "[SEP]"]


@pytest.mark.parity
def test_transformers_cuts_alike(vocabulary, gpt_files):
  bert = importlib.import_module("transformers.models.bert").BertTokenizer(vocab=str(vocabulary))
  assert [
    t for t in TEXTS if "[SEP]" not in t and wordpiece(vocabulary).encode(t).tolist() != bert(t)["input_ids"]
  ] == []
  files = [str(path) for path in gpt_files]
  gpt = importlib.import_module("transformers.models.gpt2").GPT2Tokenizer(vocab=files[0], merges=files[1])
  assert [
    text for text in TEXTS if byte_pairs(*gpt_files).encode(text).tolist() != gpt(text)["input_ids"]
  ] == []


def test_byte_pairs_give_back_any_text_and_join_in_the_order_learnt(gpt_files):
  tokenizer = byte_pairs(*gpt_files)
  numbers = json.loads(gpt_files[0].read_text())
  assert {token: number for number, token in enumerate(tokenizer.vocabulary)} == numbers
  for text in TEXTS:
    assert tokenizer.decode(tokenizer.encode(text)) == text
  assert len(tokenizer.encode(" great")) < len(" great") - 2
  assert all(number < 256 for number in tokenizer.encode("xyzzy"))


def test_what_is_saved_is_what_hugging_face_reads(vocabulary, gpt_files):
  for tokenizer in (wordpiece(vocabulary), byte_pairs(*gpt_files)):
    again = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    for text in TEXTS:
      assert again.encode(text).ids == tokenizer.encode(text).tolist()


@pytest.mark.data
def test_bert_numbers_words_as_published():
  tokenizer = pretrained("minilm")
  assert tokenizer.encode("Hello, world!").tolist() == [101, 7592, 1010, 2088, 999, 102]
  assert tokenizer.encode("unaffable").tolist() == [101, 14477, 20961, 3468, 102]
  assert len(tokenizer.vocabulary) == 30522
  assert tokenizer.decode(tokenizer.encode("Hello, world!")) == "hello, world!"


@pytest.mark.parametrize(
  ("lines", "said"),
  [
    (["[PAD]", "[UNK]", "[CLS]", "the"], r"no line \[SEP\]"),
    ([*SPECIAL, "the", "the"], "7 lines and 6 tokens"),
    ([], "is empty"),
  ],
)
def test_what_is_no_vocabulary_of_a_bert_is_one_line(tmp_path, lines, said):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(lines))
  with pytest.raises(UserError, match=said):
    wordpiece(path)


def test_an_unknown_network_and_a_file_that_is_not_there_are_one_line(tmp_path):
  with pytest.raises(UserError, match="perhaps you meant 'minilm'"):
    pretrained("minilmm")
  with pytest.raises(UserError, match="no such file"):
    wordpiece(tmp_path / "vocab.txt")


@pytest.mark.parametrize("broken", ["vocab", "merges"])
def test_broken_files_of_a_gpt_2_are_one_line(gpt_files, broken):
  if broken == "vocab":
    gpt_files[0].write_text('["a", "list"]')
  else:
    gpt_files[1].write_text("#version: 0.2\nnot in there\n")
  with pytest.raises(UserError, match="are no vocabulary of a GPT-2") as refused:
    byte_pairs(*gpt_files)
  assert "\n" not in str(refused.value)
