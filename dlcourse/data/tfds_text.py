"""Labelled texts and translations of TensorFlow Datasets, read without TensorFlow."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dlcourse.data.tfds_source import catalogue_entry, find_tfds, import_tfds, origin, sources_of, undamaged
from dlcourse.errors import UserError

MOST = 500_000  # examples of a split that are read: more would not fit in memory as Python's strings
_SPLITS = ("train", "validation", "test")


class Published(NamedTuple):
  """A set in its splits.

  Attributes:
    splits: train and test, or train alone, and validation where both others are there -> examples.
    facts: description, licence and citation; classes of labelled texts.
  """

  splits: Mapping[str, list]
  facts: Mapping[str, Any]


def tfds_sentences(name: str) -> Published:
  """Labelled texts, such as "imdb_reviews" or "glue/sst2": (text, label).

  Args:
    name: see `tfds_source.open_tfds`.

  Raises:
    UserError: cannot be had (see `tfds_source.find_tfds`), damaged, or has not one text and one label.
  """
  tfds, builder = import_tfds(), find_tfds(name)
  fields = _fields(builder)
  texts = [key for key, field in fields.items() if isinstance(field, tfds.features.Text)]
  if len(texts) != 1 or not isinstance(fields.get("label"), tfds.features.ClassLabel):
    raise UserError(f"tfds:{name} is no set of labelled texts: it needs one field of text and a `label`")
  (text,) = texts
  splits = _read(name, builder, lambda example: (_line(example[text]), int(example["label"])))
  known = {split: [row for row in rows if row[0] and row[1] >= 0] for split, rows in splits.items()}
  return _published(name, known, catalogue_entry(builder.info), builder)


def tfds_pairs(name: str) -> Published:
  """Translations, such as "ted_hrlr_translate/pt_to_en" or "wmt14_translate/fr-en": (source, target).

  Args:
    name: see `tfds_source.open_tfds`; it says which language is translated.

  Raises:
    UserError: cannot be had (see `tfds_source.find_tfds`), damaged, or has not two languages.
  """
  tfds, builder = import_tfds(), find_tfds(name)
  keys = builder.info.supervised_keys or ()
  if len(keys) != 2 or not all(isinstance(_fields(builder).get(key), tfds.features.Text) for key in keys):
    raise UserError(f"tfds:{name} is no set of translations: it needs a text in two languages")
  splits = _read(name, builder, lambda example: (_line(example[keys[0]]), _line(example[keys[1]])))
  whole = {split: [row for row in rows if all(row)] for split, rows in splits.items()}
  return _published(name, whole, origin(builder.info), builder)


def _fields(builder: Any) -> dict[str, Any]:
  features = builder.info.features
  return dict(features.items()) if hasattr(features, "items") else {}


def _read(name: str, builder: Any, of: Callable[[dict], tuple]) -> dict[str, list[tuple]]:
  """The examples of the usual splits; TFDS has shuffled them, so the first ones stand for all."""
  sources = sources_of(name, builder)
  with undamaged(builder):
    return {
      split: [of(example) for example in sources[split].__getitems__(range(min(len(sources[split]), MOST)))]
      for split in _SPLITS
      if split in sources and len(sources[split])
    }


def _published(name: str, splits: dict[str, list], facts: dict[str, Any], builder: Any) -> Published:
  """Without splits that have no answers; where none tests, what validates does."""
  splits = {split: rows for split, rows in splits.items() if rows}
  if "train" not in splits:
    raise UserError(f"tfds:{name} has nothing to train on: no split train with labels")
  if "test" not in splits and "validation" in splits:
    splits["test"] = splits.pop("validation")
  if any(builder.info.splits[split].num_examples > MOST for split in _SPLITS if split in builder.info.splits):
    facts = {**facts, "description": f"{facts['description']}, of each split the first {MOST:,} at most"}
  return Published(splits, facts)


def _line(text: str | bytes | np.ndarray) -> str:
  """One line of text."""
  decoded = text.decode("utf-8") if isinstance(text, bytes) else str(text)
  return " ".join(decoded.split())
