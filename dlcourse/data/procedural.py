"""Tasks made by rule: arithmetic on written numbers, and recall after a gap.

Training examples are drawn anew for every (seed, step), those of evaluation once.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from dlcourse.data.batches import Arrays, as_shapes, splits_in_order
from dlcourse.data.recipe import Data, DataRecipe, Spec, digest_of
from dlcourse.data.token_batches import teacher_forced
from dlcourse.data.tokens import SPECIAL, Tokenizer
from dlcourse.errors import UserError, check_at_least, check_between

TRAINING, EVALUATION = 1, 2  # keep the two kinds of draws apart, whatever the seeds
_SUMS = "+0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclasses.dataclass(frozen=True)
class Addition(DataRecipe):
  """Sums of two written numbers, "123+456" to "579", sequence to sequence (Sutskever et al., 2014; H3.6.2).

  A pair of numbers is in one split only, in both orders; how many digits a number has is drawn first, so that
  short ones occur.
  """

  digits: int = 3
  """Digits of a number, at most."""
  batch_size: int = 128
  """Questions in a global batch, over all devices."""
  reverse_question: bool = False
  """Written from its end, as Zaremba & Sutskever (2014) feed it."""
  reverse_answer: bool = False
  """Units first: each digit then follows from what has been read and the carry."""
  held_out: float = 0.1
  """Share of the pairs that is not trained on: one half validates, the other tests."""
  questions: int = 2_000
  """Questions of each split in evaluation, at most."""
  split_seed: int = 0
  """Seed of the splits and of the questions of evaluation."""

  def __post_init__(self) -> None:
    """Refuses numbers without digits."""
    check_between(1, 9, {"data.digits": self.digits})
    check_at_least(1, {"data.batch_size": self.batch_size, "data.questions": self.questions})
    check_at_least(0, {"data.split_seed": self.split_seed})
    if not 0 < self.held_out < 1:
      raise UserError(f"--data.held_out={self.held_out} is a share between 0 and 1, like 0.1")

  def build(self) -> Data:
    """Makes the questions; see `Data`. A batch is one of sequence to sequence, in one vocabulary.

    Raises:
      UserError: a split has no pair.
    """
    tokenizer = Tokenizer("chars", (*SPECIAL, *_SUMS))

    def drawn(count, rng):
      pairs = np.zeros((0, 2), np.int64)
      while len(pairs) < count:
        some = self._pairs(2 * count, rng)
        pairs = np.concatenate([pairs, some[self._split_of(some) == "train"]])
      return self._encode(tokenizer, pairs[:count])

    splits = {}
    for number, name in enumerate(("train", "validation", "test")):
      some = self._pairs(50 * self.questions, np.random.default_rng((self.split_seed, number, EVALUATION)))
      own = some[self._split_of(some) == name]
      _, first = np.unique(np.sort(own, axis=1), axis=0, return_index=True)
      if not len(first):
        raise UserError(f"no pair is left to the split {name!r}; raise --data.digits or --data.questions")
      splits[name] = self._encode(tokenizer, own[np.sort(first)[: self.questions]])
    return made(
      splits,
      drawn,
      self.batch_size,
      Spec({}, vocabulary=tokenizer.vocabulary, tokenizer=tokenizer),
      f"sums of two numbers of up to {self.digits} digits, made by rule",
    )

  def _pairs(self, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 2] numbers, with repetitions."""
    return rng.integers(0, 10 ** rng.integers(1, self.digits + 1, (count, 2)))

  def _split_of(self, pairs: np.ndarray) -> np.ndarray:
    """[N] the split of each pair: a function of its numbers, whatever their order, and of the seed."""
    low, high = np.sort(pairs, axis=1).T.astype(np.uint64)
    share = mixed(low * np.uint64(10**self.digits) + high, self.split_seed)
    return np.select([share < self.held_out / 2, share < self.held_out], ["validation", "test"], "train")

  def _encode(self, tokenizer: Tokenizer, pairs: np.ndarray) -> dict[str, np.ndarray]:
    numbers = np.zeros(128, np.int32)  # of the letters of ASCII
    numbers[[ord(letter) for letter in _SUMS]] = tokenizer.encode(_SUMS)

    def encoded(texts, backwards, longest):
      letters = np.array([text[::-1] if backwards else text for text in texts], f"S{longest}")
      return numbers[letters.view(np.uint8).reshape(-1, longest)]

    inputs = encoded([f"{a}+{b}" for a, b in pairs], self.reverse_question, 2 * self.digits + 1)
    answers = encoded([str(a + b) for a, b in pairs], self.reverse_answer, self.digits + 1)
    lengths = np.count_nonzero(inputs, axis=1).astype(np.int32)
    return {"inputs": inputs, "lengths": lengths, **teacher_forced(answers)}


@dataclasses.dataclass(frozen=True)
class MemoryGap(DataRecipe):
  """Recall: the symbol that came first is named after `gap` others (Hochreiter & Schmidhuber, 1997; H3.8.1).

  The others are of an alphabet of their own and say nothing: what is asked is to keep one symbol, and not to
  find it. A window of w steps sees it where w > `gap`.
  """

  gap: int = 20
  """Steps between the symbol and the answer."""
  symbols: int = 8
  """Symbols to be told apart; as many others."""
  batch_size: int = 64
  """Sequences in a global batch, over all devices."""
  sequences: int = 1_000
  """Sequences of each split in evaluation."""
  split_seed: int = 0
  """Seed of the sequences of evaluation."""

  def __post_init__(self) -> None:
    """Refuses nothing to tell apart."""
    check_at_least(0, {"data.gap": self.gap, "data.split_seed": self.split_seed})
    check_between(2, len(_LETTERS), {"data.symbols": self.symbols})
    check_at_least(1, {"data.batch_size": self.batch_size, "data.sequences": self.sequences})

  def build(self) -> Data:
    """Makes the sequences; see `Data`. A batch has inputs [B, gap + 1], lengths, label and mask [B]."""
    symbols, others = _LETTERS[: self.symbols].upper(), _LETTERS[: self.symbols]
    tokenizer = Tokenizer("chars", (*SPECIAL, *symbols, *others))

    def drawn(count, rng):
      label = rng.integers(self.symbols, size=count)
      rest = self.symbols + rng.integers(self.symbols, size=(count, self.gap))
      inputs = len(SPECIAL) + np.concatenate([label[:, None], rest], axis=1)
      lengths = np.full(count, self.gap + 1, np.int32)
      return {"inputs": inputs.astype(np.int32), "lengths": lengths, "label": label.astype(np.int32)}

    splits = {
      name: drawn(self.sequences, np.random.default_rng((self.split_seed, number, EVALUATION)))
      for number, name in enumerate(("train", "validation", "test"))
    }
    return made(
      splits,
      drawn,
      self.batch_size,
      Spec({}, tuple(symbols), vocabulary=tokenizer.vocabulary, tokenizer=tokenizer),
      f"one of {self.symbols} symbols, {self.gap} steps ago, made by rule",
    )


def made(
  splits: Mapping[str, Arrays],
  drawn: Callable[[int, np.random.Generator], dict[str, np.ndarray]],
  batch_size: int,
  spec: Spec,
  description: str,
) -> Data:
  """`Data` whose training batches are drawn anew, and whose evaluation is fixed.

  Args:
    splits: split -> arrays by name, for evaluation.
    drawn: (count, generator) -> that many training examples, of one shape.
    batch_size: examples of a global batch.
    spec: without its shapes.
    description: see `Data`.
  """

  def batch(seed, step):
    arrays = drawn(batch_size, np.random.default_rng((seed, step, TRAINING)))
    return {"mask": np.ones(batch_size, np.float32), **arrays}

  first = batch(0, 0)
  parts = [*splits.values(), first]  # what is drawn anew may change as well
  return Data(
    spec=dataclasses.replace(spec, batch=as_shapes(first)),
    batch=batch,
    eval_batches=splits_in_order(splits, batch_size),
    sizes={name: len(next(iter(part.values()))) for name, part in splits.items()},
    digest=digest_of(part[name] for part in parts for name in sorted(part)),
    description=description,
  )


def mixed(keys: np.ndarray, seed: int) -> np.ndarray:
  """[N] numbers in [0, 1) that look random, a function of key and seed (SplitMix64: Steele et al., 2014).

  Args:
    keys: uint64 [N].
    seed: another seed, other numbers.
  """
  with np.errstate(over="ignore"):  # modulo 2⁶⁴ is meant
    x = keys + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return (x ^ (x >> np.uint64(31))) / 2.0**64
