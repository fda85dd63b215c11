"""Labelled sequences of values as batches: splits, scale, buckets of similar length.

Shapes: B batch, T time, D channels.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.data.batches import shuffled
from dlcourse.data.ragged import bucketed, by_length, edges, shapes_of
from dlcourse.data.recipe import Data, DataRecipe, Spec, digest_of
from dlcourse.data.series_sources import SeriesSet, load_series
from dlcourse.data.splits import held_out, in_random_order, ranks, rows
from dlcourse.errors import UserError, check_at_least, check_between, unknown

Arrays = dict[str, np.ndarray]

_TIMES = {"inputs": "lengths"}


@dataclasses.dataclass(frozen=True)
class Series(DataRecipe):
  """Sequences of values [B, T, D] with one label each (many-to-one, H3.6.2).

  Where a source has no published test split, one of `folds` stratified folds is the test split; where it has
  no validation split, a stratified share of the training sequences is. Where sequences belong to groups, such
  as those of one person, folds and shares are of groups, so that none is in two splits.
  """

  source: str
  """ecg5000, ecg200, ucr:NAME, penbased, activity, npz:FILE."""
  batch_size: int = 64
  """Sequences in a global batch, over all devices."""
  scale: Literal["standard", "sequence", "none"] = "standard"
  """Channels with mean 0 and deviation 1 over the training split, or in each sequence, or as they are."""
  buckets: int = 4
  """Lengths of batches at most, where sequences differ in length."""
  folds: int = 5
  """Stratified folds, where the source has no test split."""
  fold: int = 0
  """Which fold is the test split."""
  validation: float = 0.1
  """Share of the training sequences that validates, where the source has no validation split."""
  split_seed: int = 0
  """Seed of folds and of the validation split."""

  def __post_init__(self) -> None:
    """Refuses numbers that fit no source."""
    check_at_least(1, {"data.batch_size": self.batch_size, "data.buckets": self.buckets})
    check_at_least(2, {"data.folds": self.folds})
    check_at_least(0, {"data.split_seed": self.split_seed})
    check_between(0, self.folds - 1, {"data.fold": self.fold})
    if not 0 < self.validation < 1:
      raise UserError(f"--data.validation={self.validation} is a share between 0 and 1, like 0.1")

  def build(self) -> Data:
    """Loads, splits, scales; see `Data`. A batch has inputs, lengths, label, mask [B].

    Raises:
      UserError: the source does not exist or cannot be had, or the fields do not fit it.
    """
    source = load_series(self.source)
    splits = _split(self, source)
    limits = edges(splits["train"], _TIMES, self.buckets)
    if len(limits["lengths"]) == 1:
      batch = shuffled(splits["train"], self.batch_size)
    else:
      batch = bucketed(splits["train"], _TIMES, self.batch_size, limits)

    def eval_batches(split):
      if split not in splits:
        raise unknown("split", split, splits)
      return by_length(splits[split], _TIMES, self.batch_size, limits)

    return Data(
      spec=Spec(
        shapes_of(splits["train"], _TIMES, self.batch_size, limits),
        source.classes,
        prepare=_preparation(self.scale, splits["train"]),
      ),
      batch=batch,
      eval_batches=eval_batches,
      sizes={name: len(part["label"]) for name, part in splits.items()},
      digest=digest_of(part[name] for part in splits.values() for name in ("inputs", "lengths", "label")),
      description=f"{source.description}. Licence: {source.licence}. Citation: {source.citation}",
    )


def _split(recipe: Series, source: SeriesSet) -> dict[str, Arrays]:
  """The three splits of a source, stratified by class, or by groups where there are any."""
  splits = {name: dict(part) for name, part in source.splits.items()}
  if "test" not in splits:
    whole = in_random_order(splits.pop("all" if "all" in splits else "train"), recipe.split_seed)
    numbers = _groups(whole, recipe.split_seed) if "group" in whole else ranks(whole["label"])
    test = numbers % recipe.folds == recipe.fold
    splits |= {"train": rows(whole, ~test), "test": rows(whole, test)}
  if "validation" not in splits:
    train = in_random_order(splits["train"], recipe.split_seed + 1)
    if "group" in train:
      numbers = _groups(train, recipe.split_seed + 1)
      chosen = numbers < max(1, round(recipe.validation * (1 + numbers.max(initial=0))))
    else:
      chosen = held_out(train["label"], recipe.validation)
    splits |= {"train": rows(train, ~chosen), "validation": rows(train, chosen)}
  empty = [name for name, part in splits.items() if not len(part["label"])]
  if empty:
    raise UserError(
      f"{recipe.source}: too few sequences, the split {empty[0]!r} would be empty; add some, or change "
      "--data.validation or --data.folds"
    )
  names = ("inputs", "lengths", "label")
  order = ("train", "validation", "test")
  return {split: {name: splits[split][name] for name in names} for split in order}


def _groups(part: Arrays, seed: int) -> np.ndarray:
  """[N] the number of each example's group, the groups numbered at random."""
  names, numbers = np.unique(part["group"], return_inverse=True)
  return np.random.default_rng(seed).permutation(len(names))[numbers]


def _preparation(scale: str, train: Mapping[str, np.ndarray]) -> Callable:
  """`Spec.prepare`: scaled inputs, 0 after the end of a sequence."""
  values = train["inputs"][np.arange(train["inputs"].shape[1]) < train["lengths"][:, None]]  # [steps, D]
  shift = values.mean(axis=0, dtype=np.float64).astype(np.float32)
  width = np.maximum(values.std(axis=0, dtype=np.float64), 1e-6).astype(np.float32)

  def prepare(key, batch):
    del key
    x, lengths = batch["inputs"], batch["lengths"]
    counts = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]  # [B, T, 1]
    match scale:
      case "standard":
        x = (x - shift) / width
      case "sequence":
        x = jax.nn.standardize(x, axis=1, where=counts, epsilon=1e-6)
    return {**batch, "inputs": jnp.where(counts, x, 0.0)}

  return prepare
