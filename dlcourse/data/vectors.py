"""Rows of a table, or whole sequences, as labelled vectors: what was measured of something (H5.4.4, H5.4.5).

Shapes: B batch, N examples, D values of each.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np

from dlcourse.data.batches import Arrays, as_shapes, shuffled, splits_in_order
from dlcourse.data.recipe import Data, DataRecipe, Scaling, Spec, digest_of
from dlcourse.data.series_sources import load_series
from dlcourse.data.splits import held_out, in_random_order, ranks, rows
from dlcourse.errors import UserError, check_at_least, unknown

Source = Literal["breast_cancer", "ecg5000"]
FOLDS = 5
_CANCER = (
  "W. H. Wolberg, W. N. Street, O. L. Mangasarian: Breast Cancer Wisconsin (Diagnostic), UCI Machine Learning "
  "Repository, 1995, doi:10.24432/C5DW2B"
)


@dataclasses.dataclass(frozen=True)
class Table:
  """A source: {point float32 [N, D], label int32 [N]}, and a test split where one is published."""

  rows: Arrays
  test: Arrays | None
  classes: tuple[str, ...]
  description: str


@dataclasses.dataclass(frozen=True)
class Vectors(DataRecipe):
  """Points [B, D] with labels, each coordinate with mean 0 and deviation 1 over the training split.

  Where a source has no published test split, one of five stratified folds is the test split.
  """

  source: Source
  """breast_cancer: 30 measures of 569 cell samples, benign or malignant; ecg5000: 140 values of a heartbeat."""
  only: str | None = None
  """The one class that training and validation have; the rest are anomalies (H5.4.5); None: all classes."""
  batch_size: int = 64
  """Examples in a global batch, over all devices."""
  fold: int = 0
  """Which fold is the test split, of 0 to 4."""
  validation: float = 0.1
  """Share of the training examples that validates."""
  split_seed: int = 0
  """Seed of folds and of the validation split."""

  def __post_init__(self) -> None:
    """Refuses numbers that fit no source."""
    check_at_least(1, {"data.batch_size": self.batch_size})
    check_at_least(0, {"data.split_seed": self.split_seed})
    if not 0 <= self.fold < FOLDS:
      raise UserError(f"--data.fold={self.fold} is outside 0 … {FOLDS - 1}")
    if not 0 < self.validation < 1:
      raise UserError(f"--data.validation={self.validation} is a share between 0 and 1, like 0.1")

  def build(self) -> Data:
    """Loads, splits, scales; see `Data`. A batch has point float32 [B, D], label [B] and mask [B].

    Raises:
      UserError: the source cannot be had, or has no class of that name.
    """
    source = _LOAD[self.source]()
    splits = self._split(source)
    values = splits["train"]["point"].astype(np.float64)
    scaling = Scaling(
      values.mean(axis=0).astype(np.float32), np.maximum(values.std(axis=0), 1e-6).astype(np.float32)
    )
    batch = shuffled(splits["train"], self.batch_size)

    def prepare(key, batch):
      del key
      return {**batch, "point": scaling.scale(jnp.asarray(batch["point"]))}

    shapes = as_shapes(batch(0, 0))
    return Data(
      spec=Spec(shapes, source.classes, prepare=prepare, scaling=scaling),
      batch=batch,
      eval_batches=splits_in_order(splits, self.batch_size),
      sizes={name: len(part["label"]) for name, part in splits.items()},
      digest=digest_of(part[name] for part in splits.values() for name in ("point", "label")),
      description=source.description,
    )

  def _split(self, source: Table) -> dict[str, Arrays]:
    if source.test is None:
      whole = in_random_order(source.rows, self.split_seed)
      in_test = ranks(whole["label"]) % FOLDS == self.fold
      known, test = rows(whole, ~in_test), rows(whole, in_test)
    else:
      known, test = source.rows, source.test
    if self.only is not None:
      if self.only not in source.classes:
        raise unknown("class of --data.only", self.only, source.classes)
      known = rows(known, known["label"] == source.classes.index(self.only))
    known = in_random_order(known, self.split_seed + 1)
    chosen = held_out(known["label"], self.validation)
    return {"train": rows(known, ~chosen), "validation": rows(known, chosen), "test": test}


def breast_cancer() -> Table:
  """569 samples of cells under a microscope, 30 measures of each; comes with scikit-learn."""
  from sklearn.datasets import load_breast_cancer  # slow to import, and only needed here

  published = load_breast_cancer()
  table = {"point": published.data.astype(np.float32), "label": published.target.astype(np.int32)}
  description = f"569 cell samples, 30 measures each. Licence: CC BY 4.0. Citation: {_CANCER}"
  return Table(table, None, tuple(map(str, published.target_names)), description)


def heartbeats() -> Table:
  """ECG5000 of the UCR archive: 500 beats to train on and 4,500 to test, 140 values each.

  Raises:
    UserError: as `archives.fetch`.
  """
  source = load_series("ecg5000")
  train, test = (
    {"point": part["inputs"][:, :, 0].astype(np.float32), "label": part["label"]}
    for part in (source.splits["train"], source.splits["test"])
  )
  description = f"{source.description}. Licence: {source.licence}. Citation: {source.citation}"
  return Table(train, test, source.classes, description)


_LOAD = {"breast_cancer": breast_cancer, "ecg5000": heartbeats}
