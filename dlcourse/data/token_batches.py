"""What recipes of token sequences share: answers for a decoder, and encoded splits as `Data`, in buckets."""

from collections.abc import Mapping

import numpy as np

from dlcourse.data.batches import Arrays
from dlcourse.data.ragged import Lengths, bucketed, by_length, edges, shapes_of
from dlcourse.data.recipe import Data, Spec, digest_of
from dlcourse.data.tokens import BOS, EOS, Tokenizer
from dlcourse.data.wordpiece import Subwords
from dlcourse.errors import UserError, check_at_least, unknown


def token_data(
  splits: Mapping[str, Arrays],
  times: Lengths,
  batch_size: int,
  buckets: int,
  tokenizer: Tokenizer | Subwords,
  classes: tuple[str, ...],
  description: str,
) -> Data:
  """Splits in memory as batches.

  Args:
    splits: split -> arrays by name.
    times: see `dlcourse.data.ragged.Lengths`.
    batch_size: sequences of a global batch.
    buckets: lengths of batches at most.
    tokenizer: that encoded them.
    classes: of labels or tags; () where there are none.
    description: see `Data`.
  """
  limits = edges(splits["train"], times, buckets)

  def eval_batches(split):
    if split not in splits:
      raise unknown("split", split, splits)
    return by_length(splits[split], times, batch_size, limits)

  shapes = shapes_of(splits["train"], times, batch_size, limits)
  return Data(
    spec=Spec(shapes, classes, vocabulary=tokenizer.vocabulary, tokenizer=tokenizer),
    batch=bucketed(splits["train"], times, batch_size, limits),
    eval_batches=eval_batches,
    sizes={name: len(part[next(iter(times.values()))]) for name, part in splits.items()},
    digest=digest_of(part[name] for part in splits.values() for name in sorted(part)),
    description=description,
  )


def teacher_forced(answers: np.ndarray) -> dict[str, np.ndarray]:
  """What a decoder is given, and what it has to say.

  Args:
    answers: int32 [B, T - 1] token numbers, 0 after the end of each.

  Returns:
    tokens (<bos> y1 y2 …), targets (y1 y2 … <eos>), mask [B, T] and target_lengths [B].
  """
  ends = np.count_nonzero(answers, axis=1)
  tokens = np.pad(answers, ((0, 0), (1, 0)), constant_values=BOS)
  targets = np.pad(answers, ((0, 0), (0, 1)))
  targets[np.arange(len(ends)), ends] = EOS
  mask = np.arange(tokens.shape[1]) <= ends[:, None]
  return {
    "tokens": tokens,
    "targets": targets,
    "target_lengths": (ends + 1).astype(np.int32),
    "mask": mask.astype(np.float32),
  }


def check_split(validation: float, test: float, split_seed: int) -> None:
  """Raises a `UserError` where nothing would be left to train on, or nothing held out."""
  check_at_least(0, {"data.split_seed": split_seed})
  if not (validation > 0 and test > 0 and validation + test < 1):
    raise UserError(
      f"--data.validation={validation} and --data.test={test} are shares above 0 that leave something "
      "to train on, like 0.1 each"
    )
