"""What classical classifiers reach on the same images (H1.3.2)."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.intervals import interval_scalars, proportion


@dataclasses.dataclass(frozen=True)
class ImageBaselines(Evaluator):
  """Logistic regression, a support vector machine, a random forest and the nearest neighbours, on pixels.

  They learn from the training split as it is, without augmentation, and are never shown the validation split.
  """

  most: int = 5_000
  """Training images that they learn from, the first of the split; a support vector machine takes the square."""
  side: int = 32
  """Pixels; larger images are averaged down to no more than this."""
  neighbours: int = 5
  """Of the nearest-neighbour classifier."""

  def __post_init__(self) -> None:
    """Refuses to learn from nothing."""
    fields = {"most": self.most, "side": self.side, "neighbours": self.neighbours}
    check_at_least(1, {f"evaluators….{name}": value for name, value in fields.items()})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Table `baselines`: classifier, accuracy with its interval, seconds of training; scalar `best_baseline`.

    Raises:
      UserError: the data has no labelled images, or one class alone is trained on.
    """
    (train, labels), (test, truth) = (self._pixels(data, split) for split in ("train", "test"))
    train, labels = train[: self.most], labels[: self.most]
    if len(np.unique(labels)) < 2:
      raise UserError("ImageBaselines needs at least two classes to learn from")
    rows = []
    for name, classifier in self._classifiers(len(labels)).items():
      started = time.perf_counter()
      classifier.fit(train, labels)
      seconds = time.perf_counter() - started
      right = classifier.predict(test) == truth
      accuracy = interval_scalars("accuracy", proportion("accuracy", right))
      rows.append({"classifier": name, **accuracy, "seconds": round(seconds, 2), "images": len(labels)})
    best = max(row["accuracy"] for row in rows)
    return Report(scalars={"best_baseline": best}, tables={"baselines": rows})

  def _classifiers(self, images: int) -> Mapping[str, Any]:
    from sklearn.ensemble import RandomForestClassifier  # 1 s that training need not wait for
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return {
      "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)),
      "support vector machine": make_pipeline(StandardScaler(), SVC(C=5.0)),
      "random forest": RandomForestClassifier(300, random_state=0),
      "nearest neighbours": KNeighborsClassifier(min(self.neighbours, images)),
    }

  def _pixels(self, data: Data, split: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 [N, D] in [0, 1] and labels [N] of a split."""
    images, labels = [], []
    for batch in data.eval_batches(split):
      if not {"image", "label"} <= set(batch):
        raise UserError(f"ImageBaselines needs labelled images; this data has {', '.join(sorted(batch))}")
      real = batch["mask"] > 0
      images.append(self._averaged(batch["image"][real]))
      labels.append(batch["label"][real])
    return np.concatenate(images), np.concatenate(labels)

  def _averaged(self, images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] -> [N, D], each number the mean of a square of pixels."""
    step = -(-max(images.shape[1:3]) // self.side)
    height, width = (side // step for side in images.shape[1:3])
    cut = images[:, : height * step, : width * step].astype(np.float32) / 255
    squares = cut.reshape(len(cut), height, step, width, step, -1)
    return squares.mean(axis=(2, 4)).reshape(len(cut), -1)
