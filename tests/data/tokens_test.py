import json
import subprocess
import sys

import numpy as np
import pytest

from dlcourse.data.tokens import BOS, EOS, PAD, SPECIAL, UNK, Tokenizer, train_tokenizer
from dlcourse.errors import UserError

TEXTS = (
  ["The cat eats the mouse, and the mouse doesn't mind."] * 3
  + ["Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.", "A cat!  Two blanks, 12 mice."]
  + [f"sentence number {number} of many sentences" for number in range(40)]
)
KINDS = ("chars", "words", "spaced", "smiles", "bpe", "unigram")
SIZE = 400


@pytest.fixture(scope="module")
def trained():
  return {kind: train_tokenizer(kind, TEXTS, SIZE) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_the_vocabulary_and_the_first_four_are_special(trained, kind):
  tokenizer = trained[kind]
  assert tokenizer.vocabulary[:4] == SPECIAL
  assert len(set(tokenizer.vocabulary)) == len(tokenizer.vocabulary) <= SIZE
  for text in TEXTS:
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int32
    assert tokens.ndim == 1
    assert tokens.min() > EOS  # the training text holds nothing unknown
    assert tokens.max() < len(tokenizer.vocabulary)


def test_an_atom_of_a_molecule_is_one_token_however_it_is_written():
  text = "C[C@@H](Cl)c1cc(Br)[nH]c1C%12=O"
  tokens = [
    "C",
    "[C@@H]",
    "(",
    "Cl",
    ")",
    "c",
    "1",
    "c",
    "c",
    "(",
    "Br",
    ")",
    "[nH]",
    "c",
    "1",
    "C",
    "%12",
    "=",
    "O",
  ]
  tokenizer = train_tokenizer("smiles", [text], 50)
  assert [tokenizer.vocabulary[token] for token in tokenizer.encode(text)] == tokens
  assert tokenizer.decode(tokenizer.encode(text)) == text
  assert len(tokenizer.encode(" \n")) == 0


@pytest.mark.parametrize("kind", ["chars", "bpe", "unigram"])
@pytest.mark.parametrize("text", [*TEXTS[:5], " a blank first", "<eos> is text here"])
def test_what_is_encoded_comes_back(trained, kind, text):
  tokenizer = trained[kind]
  known = text if kind != "chars" else "".join(x for x in text if x in tokenizer.vocabulary)
  assert tokenizer.decode(tokenizer.encode(known)) == known


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_symbols_never_seen_are_made_of_bytes(trained, kind):
  text = "日本 ☃ é"
  assert UNK not in trained[kind].encode(text)
  assert trained[kind].decode(trained[kind].encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_left_out_of_text_and_never_come_from_it(trained, kind):
  tokenizer = trained[kind]
  tokens = tokenizer.encode(TEXTS[0])
  marked = [BOS, *tokens, EOS, PAD, PAD]
  assert tokenizer.decode(marked) == tokenizer.decode(tokens)
  assert not set(tokenizer.encode("<bos> <eos> <pad> <bos><eos>")) & {PAD, BOS, EOS}


def test_words_are_lower_case_and_punctuation_stands_apart(trained):
  words = trained["words"]
  assert (
    words.decode(words.encode("The cat, the mouse: doesn't MIND!"))
    == "the cat , the mouse <unk> doesn't mind !"
  )
  again = words.decode(words.encode("A  cat!"))
  np.testing.assert_array_equal(words.encode(again), words.encode("A cat!"))


def test_words_set_apart_by_blanks_give_one_number_each_and_unknown_ones_show_their_looks(trained):
  spaced = trained["spaced"]
  text = "cat Paris NATO dog 1996-08-22 A"
  assert spaced.decode(spaced.encode(text)) == "cat <Word> <WORD> <word> <number> A"
  assert len(spaced.encode(text)) == 6


def test_the_most_frequent_stay():
  tokenizer = train_tokenizer("words", ["b b b a a c", "d d d d"], 7)
  assert tokenizer.vocabulary[4:] == ("d", "b", "a")
  assert tokenizer.decode(tokenizer.encode("c d")) == "<unk> d"
  assert train_tokenizer("chars", ["bbaac"], 6).vocabulary[4:] == ("a", "b")  # as frequent: by alphabet


@pytest.mark.parametrize("kind", KINDS)
def test_json_gives_the_same_tokenizer(trained, kind):
  back = Tokenizer.from_json(trained[kind].to_json())
  assert back == trained[kind]
  np.testing.assert_array_equal(back.encode("A mouse <> ß"), trained[kind].encode("A mouse <> ß"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "bpe", "vocabulary": [], "model": "%"}', "null"])
def test_what_is_no_tokenizer_is_refused(text):
  with pytest.raises(UserError, match="no tokenizer"):
    Tokenizer.from_json(text)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_another_process_learns_the_same_parts(trained, kind):
  code = (
    "import sys, json\n"
    "from dlcourse.data.tokens import train_tokenizer\n"
    f"print(train_tokenizer({kind!r}, json.load(sys.stdin), {SIZE}).to_json())"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], input=json.dumps(TEXTS), capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == trained[kind].to_json()


@pytest.mark.parametrize(
  ("kind", "size", "least"), [("bpe", 260, 261), ("unigram", 10, 261), ("words", 4, 5), ("spaced", 8, 9)]
)
def test_a_vocabulary_that_is_too_small_is_refused(kind, size, least):
  with pytest.raises(UserError, match=f"--data.vocab_size={size} is too small; {kind} need at least {least}"):
    train_tokenizer(kind, TEXTS, size)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_text_with_few_parts_gives_a_smaller_vocabulary_or_one_line(kind):
  assert len(train_tokenizer(kind, ["ab ab ba"] * 20, 5000).vocabulary) < 300
  with pytest.raises(UserError, match=r"--data.vocab_size=300 does not fit 1 texts: "):
    train_tokenizer(kind, [""], 300)
