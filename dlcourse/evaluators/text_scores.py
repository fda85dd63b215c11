"""How good answers in words are: BLEU, error rates, exact matches, and where a model looked for them (H3.11).

References are what the tokenizer has kept of them: with words, a rare one is `<unk>` on both sides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from dlcourse.data.recipe import Data, Spec
from dlcourse.data.tokens import EOS
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.report.figures import LONG_NAME, new_figure, shortened

if TYPE_CHECKING:
  from matplotlib.figure import Figure

LONG_ALIGNMENT = 40  # tokens, on either side, of what is drawn


class Answer(NamedTuple):
  """One example of the test split.

  Attributes:
    source: the input as text; "" where it is none.
    reference: the right answer.
    answer: the model's.
  """

  source: str
  reference: str
  answer: str


def answers(task, state, data: Data, key: jax.Array) -> list[Answer]:
  """What the model answers to the whole test split, in its order.

  Args:
    task: a task or its compiled `Program` whose `predict` gives tokens (`Translate`) or labels (`Transcribe`).
    state: a TrainState.
    data: of the experiment.
    key: of the prediction.

  Raises:
    UserError: the task gives neither.
  """
  found = []
  for batch, predicted in _predicted(task, state, data, key):
    found += _texts(batch, predicted, data.spec)
  return found


def _predicted(task, state, data: Data, key: jax.Array) -> Iterator[tuple[Mapping, Mapping]]:
  """Batches of the test split and what is predicted, without the rows that are padding."""
  for batch in data.eval_batches("test"):
    predicted = jax.device_get(task.predict(state, key, batch))
    if not isinstance(predicted, Mapping) or not {"tokens", "labels"} & set(predicted):
      raise UserError("text scores need a task that answers with text: Translate or Transcribe")
    real = np.reshape(batch["mask"], (len(batch["mask"]), -1)).any(axis=1)
    yield {name: x[real] for name, x in batch.items()}, {name: x[real] for name, x in predicted.items()}


def _texts(batch: Mapping, predicted: Mapping, spec: Spec) -> list[Answer]:
  if "labels" in predicted:
    sources = [""] * len(batch["labels"])
    pairs = (batch["labels"], batch["label_lengths"]), (predicted["labels"], predicted["lengths"])
    references, made = (_of_labels(*pair, spec) for pair in pairs)
  else:
    references = _of_tokens(batch["targets"], batch["target_lengths"], spec)
    made = _of_tokens(predicted["tokens"], predicted["lengths"], spec)
    is_text = "inputs" in batch and batch["inputs"].ndim == 2
    sources = _of_tokens(batch["inputs"], batch["lengths"], spec) if is_text else [""] * len(made)
  return [Answer(*row) for row in zip(sources, references, made, strict=True)]


def _of_labels(labels: np.ndarray, lengths: np.ndarray, spec: Spec) -> list[str]:
  return ["".join(spec.classes[i] for i in row[:length]) for row, length in zip(labels, lengths, strict=True)]


def _of_tokens(tokens: np.ndarray, lengths: np.ndarray, spec: Spec) -> list[str]:
  rows = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
  return [spec.decode(row[row != EOS].tolist()) for row in rows]


@dataclasses.dataclass(frozen=True)
class _TextScores(Evaluator):
  """Scores of all answers, which are kept as a table: what two models answered can be compared later."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """The scalars, and the table `answers`."""
    found = answers(task, state, data, key)
    return self.report(found)._replace(tables={"answers": [row._asdict() for row in found]})

  def report(self, found: Sequence[Answer]) -> Report:
    """The scalars of these answers."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Bleu(_TextScores):
  """BLEU of the whole test split (Papineni et al., 2002), as sacrebleu defines it (Post, 2018; H3.11.1)."""

  def report(self, found: Sequence[Answer]) -> Report:
    """Scalar `bleu` in 0 … 100: 4-grams, mixed case, tokens of mteval-v13a, exponential smoothing."""
    from sacrebleu.metrics import BLEU  # half a second that training need not wait for

    score = BLEU().corpus_score([row.answer for row in found], [[row.reference for row in found]])
    return Report(scalars={"bleu": score.score})


@dataclasses.dataclass(frozen=True)
class ErrorRates(_TextScores):
  """Edits (Levenshtein, 1966) from answers to references, per symbol or word of the references (H3.11.2)."""

  def report(self, found: Sequence[Answer]) -> Report:
    """Scalars `cer` (characters) and `wer` (words, set apart by blanks), over the whole split; 0 is best."""
    import jiwer

    references, made = [row.reference for row in found], [row.answer for row in found]
    return Report(scalars={"cer": jiwer.cer(references, made), "wer": jiwer.wer(references, made)})


@dataclasses.dataclass(frozen=True)
class ExactMatch(_TextScores):
  """How many answers are right from the first to the last symbol."""

  def report(self, found: Sequence[Answer]) -> Report:
    """Scalar `exact_match`, a share."""
    return Report(scalars={"exact_match": float(np.mean([row.reference == row.answer for row in found]))})


@dataclasses.dataclass(frozen=True)
class Alignments(Evaluator):
  """Where a model with attention looked for each token of its answer (Bahdanau et al., 2015, figure 3)."""

  examples: int = 4
  """How many answers, the first of the test split."""

  def __post_init__(self) -> None:
    """Refuses an empty figure."""
    check_at_least(1, {"evaluators….examples": self.examples})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """One figure.

    Raises:
      UserError: the model has no attention, or its places are not the tokens of the source.
    """
    batch, predicted = next(_predicted(task, state, data, key))
    weights = predicted.get("attention", np.zeros(()))
    if not weights.any():
      raise UserError("Alignments needs a model with attention; set --task.model.attention=additive")
    if batch.get("inputs", weights).shape != (len(weights), weights.shape[-1]):
      raise UserError("Alignments needs a source of tokens, one place each: no image, no values, no pooling")
    vocabulary = data.spec.vocabulary
    panels = []
    for row in range(min(self.examples, len(weights))):
      size, length = int(batch["lengths"][row]), int(predicted["lengths"][row])
      source = [vocabulary[token] for token in batch["inputs"][row, :size]]
      answer = [vocabulary[token] for token in predicted["tokens"][row, :length]]
      panels.append((source, answer, weights[row, :length, :size]))
    return Report(figures={"alignments": alignment_figure(panels)})


def alignment_figure(panels: Sequence[tuple[Sequence[str], Sequence[str], np.ndarray]]) -> Figure:
  """One panel an answer: its tokens from top to bottom, the source's from left to right.

  Args:
    panels: (S tokens of the source, L tokens of the answer, weights [L, S]); the first 40 of each are drawn.
  """
  most = LONG_ALIGNMENT
  panels = [(source[:most], answer[:most], weights[:most, :most]) for source, answer, weights in panels]
  sides = [(0.26 * len(source) + 1.4, 0.26 * len(answer) + 1.2) for source, answer, _ in panels]
  columns = min(2, len(panels))
  rows = -(-len(panels) // columns)
  width, height = np.max(sides, axis=0)
  figure = new_figure(max(3.0, width) * columns, max(2.0, height) * rows)
  every = np.atleast_1d(figure.subplots(rows, columns)).ravel()
  for axes in every[len(panels) :]:
    axes.set_axis_off()
  for axes, (source, answer, weights) in zip(every, panels, strict=False):
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    long = max(map(len, source), default=0) > 2
    axes.set_xticks(range(len(source)), _shown(source), rotation=90 if long else 0)
    axes.set_yticks(range(len(answer)), _shown(answer))
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=8)
  figure.supxlabel("source above, answer at the left; weight: 0 white, 1 darkest", fontsize=8)
  return figure


def _shown(tokens: Sequence[str]) -> list[str]:
  return [shortened(token, LONG_NAME) for token in tokens]
