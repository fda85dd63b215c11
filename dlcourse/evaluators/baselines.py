"""What simpler methods reach on the same splits, so that a network's number says something."""

import dataclasses
import itertools

import jax
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import unpadded


def examples(data: Data, split: str) -> tuple[list[np.ndarray], np.ndarray]:
  """Sequences [T] or [T, D] of a split without their padding, and their labels [N].

  Raises:
    UserError: the data are no labelled sequences.
  """
  sequences, labels = [], []
  for batch in data.eval_batches(split):
    if not {"inputs", "label"} <= set(batch):
      raise UserError(f"this baseline needs labelled sequences; this data has {', '.join(sorted(batch))}")
    sequences += unpadded(batch)
    labels.append(batch["label"][batch["mask"] > 0])
  return sequences, np.concatenate(labels)


def _report(name: str, labels: np.ndarray, guessed: np.ndarray) -> Report:
  from sklearn.metrics import f1_score

  scores = {
    f"{name}_accuracy": float(np.mean(guessed == labels)),
    f"{name}_macro_f1": float(f1_score(labels, guessed, labels=np.unique(labels), average="macro")),
  }
  return Report(scalars=scores)


@dataclasses.dataclass(frozen=True)
class TfIdf(Evaluator):
  """Logistic regression on weighted counts of tokens and of runs of tokens (Spärck Jones, 1972)."""

  longest_run: int = 2
  """Tokens of a run that is counted, at most."""
  inverse_decay: float = 10.0
  """C of scikit-learn: larger ones let the weights grow more."""

  def __post_init__(self) -> None:
    """Refuses runs of nothing."""
    check_at_least(1, {"evaluators….longest_run": self.longest_run})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars `tfidf_accuracy` and `tfidf_macro_f1`; trained on the training split.

    Raises:
      UserError: the data are no labelled texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if not data.spec.vocabulary:
      raise UserError("TfIdf counts tokens, and this data has none")
    train, labels = examples(data, "train")
    vectorizer = TfidfVectorizer(analyzer=self._runs, sublinear_tf=True)
    classifier = LogisticRegression(C=self.inverse_decay, max_iter=1_000)
    classifier.fit(vectorizer.fit_transform(train), labels)
    test, labels = examples(data, "test")
    return _report("tfidf", labels, classifier.predict(vectorizer.transform(test)))

  def _runs(self, tokens: np.ndarray) -> list[tuple[int, ...]]:
    sizes = range(1, self.longest_run + 1)
    return [
      tuple(tokens[i : i + size].tolist())
      for size, i in itertools.product(sizes, range(len(tokens)))
      if i + size <= len(tokens)
    ]


@dataclasses.dataclass(frozen=True)
class NearestNeighbour(Evaluator):
  """The label of the nearest training sequence by Euclidean distance (Fix & Hodges, 1951)."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars `nearest_accuracy` and `nearest_macro_f1`.

    Raises:
      UserError: the sequences differ in length, or have none.
    """
    from sklearn.neighbors import KNeighborsClassifier

    (train, train_labels), (test, labels) = (examples(data, split) for split in ("train", "test"))
    if data.spec.vocabulary or len({x.shape for x in (*train, *test)}) > 1:
      raise UserError("NearestNeighbour compares sequences of values that are all equally long")
    flat = [np.stack(sequences).reshape(len(sequences), -1) for sequences in (train, test)]
    nearest = KNeighborsClassifier(n_neighbors=1).fit(flat[0], train_labels)
    return _report("nearest", labels, nearest.predict(flat[1]))
