"""How good tags are: of words, and of the names that they mark (Tjong Kim Sang & De Meulder, 2003)."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report

Span = tuple[int, int, str]  # first word, the one after the last, kind


def spans(tags: Sequence[str]) -> set[Span]:
  """The names that tags like B-PER, I-PER and O mark.

  A name begins at B-, and at I- where the word before is in none of that kind: both usual schemes are read.
  """
  found, start, kind = set(), 0, ""
  for place, tag in enumerate([*tags, "O"]):
    inside = tag.startswith("I-") and tag[2:] == kind
    if kind and not inside:
      found.add((start, place, kind))
      kind = ""
    if not inside and tag[:2] in ("B-", "I-"):
      start, kind = place, tag[2:]
  return found


@dataclasses.dataclass(frozen=True)
class TagScores(Evaluator):
  """Recall of every tag, and precision, recall and F1 of whole names where the tags mark names."""

  examples: int = 10
  """Sentences of the test split that the table shows."""

  def __post_init__(self) -> None:
    """Refuses a table of fewer than no rows."""
    check_at_least(0, {"evaluators….examples": self.examples})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars `entity_precision`, `entity_recall`, `entity_f1`; tables of tags and of sentences.

    Raises:
      UserError: the data has no tags.
    """
    if "tags" not in data.spec.batch:
      raise UserError(
        f"TagScores needs a tag at every step; this data has {', '.join(sorted(data.spec.batch))}"
      )
    names, counts, right, hits = data.spec.classes, Counter(), Counter(), Counter()
    rows = []
    for batch in data.eval_batches("test"):
      guessed = jax.device_get(task.predict(state, key, batch)).argmax(axis=-1)
      for i in np.flatnonzero(batch["mask"].any(axis=1)):
        length = int(batch["lengths"][i])
        said, true = ([names[tag] for tag in tags[i][:length]] for tags in (guessed, batch["tags"]))
        counts.update(true)
        right.update(tag for tag, other in zip(true, said, strict=True) if tag == other)
        hits.update(_hits(true, said))
        if len(rows) < self.examples:
          words = data.spec.decode(batch["inputs"][i][:length])
          rows.append({"text": words, "tags": " ".join(true), "predicted": " ".join(said)})
    tags = [{"tag": tag, "count": counts[tag], "recall": right[tag] / counts[tag]} for tag in sorted(counts)]
    return Report(_scores(hits), {"tags": tags, "sentences": rows})


def _hits(true: Sequence[str], said: Sequence[str]) -> dict[str, int]:
  marked, found = spans(true), spans(said)
  return {"marked": len(marked), "found": len(found), "both": len(marked & found)}


def _scores(hits: Counter) -> dict[str, float]:
  if not hits["marked"]:
    return {}
  precision, recall = hits["both"] / max(hits["found"], 1), hits["both"] / hits["marked"]
  f1 = 2 * hits["both"] / (hits["found"] + hits["marked"])
  return {"entity_precision": precision, "entity_recall": recall, "entity_f1": f1}
