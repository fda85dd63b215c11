"""What a source of data hands over: arrays and a description, before any batch is made."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class ImageSet:
  """Labelled images in memory.

  Attributes:
    splits: split name -> {"image": uint8 [N, H, W, C], "label": int32 [N]}. A published split keeps
      its names ("train", "validation", "test"); a source without one has the single split "all".
    classes: the name of each label, in the order of the labels.
    description: one line for reports.
    licence: as the source states it, or "none stated".
    citation: paper or address to cite.
  """

  splits: Mapping[str, Mapping[str, np.ndarray]]
  classes: tuple[str, ...]
  description: str
  licence: str
  citation: str


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Plain text in memory.

  Attributes:
    documents: title -> text.
    description, licence, citation: as in `ImageSet`.
  """

  documents: Mapping[str, str]
  description: str
  licence: str
  citation: str


def absolute(text: str) -> str:
  """A source of files ("folder:photos", or as a flag "--data.source=folder:photos") that any folder finds."""
  found = re.fullmatch(r"(--[\w.]+=)?(folder|idx|npz|file|csv|tsv|conll):(.+)", text)
  if not found:
    return text
  flag, kind, path = found.groups()
  return f"{flag or ''}{kind}:{pathlib.Path(path).expanduser().resolve()}"
