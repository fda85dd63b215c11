"""Text as numbers and back: characters, words, and parts of words that are learnt from the training text.

Every vocabulary begins with <pad>, <unk>, <bos> and <eos>.
"""

import base64
import binascii
import collections
import dataclasses
import functools
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from dlcourse.errors import UserError

Kind = Literal["chars", "words", "spaced", "smiles", "bpe", "unigram"]

PAD, UNK, BOS, EOS = range(4)
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")
SHAPES = ("<word>", "<Word>", "<WORD>", "<number>")  # what is known of an unknown word by its looks
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_ATOM = re.compile(r"\[[^]\s]*]|Br|Cl|%\d\d|\S")  # or a bond, branch or ring of a molecule, in SMILES
_BYTES = 256  # parts of words of which any symbol can be made
LONGEST_TEXT = 1 << 20  # bytes of a text that parts of words are learnt from


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A vocabulary and how text is cut into its tokens.

  Parts of words, and `chars` and `smiles` where every symbol is known, give back the text they were given;
  `words` come back in lower case and set apart by blanks.

  Attributes:
    kind: chars; words (lower-case, punctuation apart); spaced (set apart by blanks, an unknown one told by its
      looks); smiles (atoms and what else a molecule is written with); bpe, unigram (parts of words).
    vocabulary: the tokens behind the numbers.
    model: of SentencePiece, for bpe and unigram.
  """

  kind: Kind
  vocabulary: tuple[str, ...]
  model: bytes = dataclasses.field(default=b"", repr=False)

  def encode(self, text: str) -> np.ndarray:
    """Token numbers [T] int32, without <bos> and <eos>."""
    if self.model:
      return np.array(self._sentencepiece.encode(text), np.int32)
    numbers, shaped = self._numbers, self.kind == "spaced"
    tokens = [numbers.get(x, numbers[_shape(x)] if shaped else UNK) for x in _cut(self.kind, text)]
    return np.array(tokens, np.int32)

  def decode(self, tokens: Iterable[int]) -> str:
    """The text of token numbers; <pad>, <bos> and <eos> are left out."""
    tokens = [int(token) for token in tokens if token not in (PAD, BOS, EOS)]
    if self.model:
      return self._sentencepiece.decode(tokens)
    return ("" if self.kind in ("chars", "smiles") else " ").join(self.vocabulary[token] for token in tokens)

  def to_json(self) -> str:
    """All of it as text; `from_json` reads it."""
    model = base64.b64encode(self.model).decode()
    return json.dumps({"kind": self.kind, "vocabulary": self.vocabulary, "model": model}, ensure_ascii=False)

  @classmethod
  def from_json(cls, text: str) -> "Tokenizer":
    """What `to_json` wrote.

    Raises:
      UserError: it did not write this.
    """
    try:
      fields = json.loads(text)
      model = base64.b64decode(fields["model"], validate=True)
      return cls(fields["kind"], tuple(fields["vocabulary"]), model)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
      raise UserError("this is no tokenizer saved by dlcourse; train again, or copy the original") from error

  @functools.cached_property
  def _numbers(self) -> dict[str, int]:
    # A text in which "<eos>" is written does not end there.
    return {token: number for number, token in enumerate(self.vocabulary) if number >= len(SPECIAL)}

  @functools.cached_property
  def _sentencepiece(self):
    import sentencepiece  # only these two kinds need it

    return sentencepiece.SentencePieceProcessor(model_proto=self.model)


def train_tokenizer(kind: Kind, texts: Sequence[str], vocab_size: int) -> Tokenizer:
  """A tokenizer learnt from the texts; the same texts give the same one.

  Args:
    kind: see `Tokenizer`. bpe joins the most frequent pairs (Sennrich et al., 2016), unigram keeps the parts
      that make the text likeliest (Kudo, 2018); both fall back to bytes, so that no symbol is unknown.
    texts: of the training split only.
    vocab_size: tokens at most, the four special ones included.

  Raises:
    UserError: the vocabulary is too small for the kind, or there is no text.
  """
  least = {"bpe": _BYTES, "unigram": _BYTES, "spaced": len(SHAPES)}.get(kind, 0) + len(SPECIAL) + 1
  if vocab_size < least:
    raise UserError(f"--data.vocab_size={vocab_size} is too small; {kind} need at least {least} tokens")
  if kind in ("bpe", "unigram"):
    return _learn_parts(kind, texts, vocab_size)
  first = SPECIAL + (SHAPES if kind == "spaced" else ())
  counts = collections.Counter(piece for text in texts for piece in _cut(kind, text))
  # Sorted by frequency, then by alphabet: the order of a text does not matter.
  known = sorted(counts.keys() - set(first), key=lambda piece: (-counts[piece], piece))
  return Tokenizer(kind, first + tuple(known[: vocab_size - len(first)]))


def _cut(kind: Kind, text: str) -> Sequence[str]:
  match kind:
    case "chars":
      return text
    case "words":
      return _WORD.findall(text.lower())
    case "smiles":
      return _ATOM.findall(text)
  return text.split()


def _shape(word: str) -> str:
  if any(symbol.isdigit() for symbol in word):
    return SHAPES[3]
  if len(word) > 1 and word.isupper():
    return SHAPES[2]
  return SHAPES[1] if word[:1].isupper() else SHAPES[0]


def _learn_parts(kind: Kind, texts: Sequence[str], vocab_size: int) -> Tokenizer:
  import sentencepiece

  written = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(texts),
      model_writer=written,
      model_type=kind,
      vocab_size=vocab_size,
      hard_vocab_limit=False,  # a small text has fewer parts
      byte_fallback=True,
      character_coverage=1.0,
      normalization_rule_name="identity",
      remove_extra_whitespaces=False,
      add_dummy_prefix=False,
      max_sentence_length=LONGEST_TEXT,
      num_threads=1,  # the order of sums, and so the result, would depend on more
      minloglevel=2,
      pad_id=PAD,
      unk_id=UNK,
      bos_id=BOS,
      eos_id=EOS,
      pad_piece=SPECIAL[PAD],
      unk_piece=SPECIAL[UNK],
      bos_piece=SPECIAL[BOS],
      eos_piece=SPECIAL[EOS],
    )
  except RuntimeError as error:
    reason = " ".join(str(error).split())[-160:]
    raise UserError(f"--data.vocab_size={vocab_size} does not fit {len(texts)} texts: {reason}") from error
  processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
  pieces = tuple(processor.id_to_piece(number) for number in range(processor.get_piece_size()))
  return Tokenizer(kind, pieces, written.getvalue())
