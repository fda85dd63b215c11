"""Texts of TensorFlow Datasets that are prepared, as `tests/data/tfds_source_test.py` prepares images."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dlcourse.data import tfds_text
from dlcourse.data.pair_sources import load_pairs
from dlcourse.data.pairs import Pairs
from dlcourse.data.sentence_sources import load_sentences
from dlcourse.data.sentences import Sentences
from dlcourse.errors import UserError

LABEL = tfds.features.ClassLabel(names=["negative", "positive"])


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  return tmp_path


def prepare(data_dir, dataset, features, splits, keys=None):
  class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return self.dataset_info_from_configs(features=features, supervised_keys=keys)

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split):
      yield from enumerate(splits[split])

  Small.name = dataset
  Small(data_dir=data_dir, file_format="array_record").download_and_prepare()


def labelled(name="text", **others):
  return tfds.features.FeaturesDict({name: tfds.features.Text(), "label": LABEL, **others})


def rows(name, *pairs):
  return [{name: text, "label": label} for text, label in pairs]


def of_split(found, split):
  """What TFDS shuffled, in an order of its own."""
  return sorted(
    (text, label)
    for text, label, of in zip(found.texts, found.labels.tolist(), found.splits, strict=True)
    if of == split
  )


def test_texts_come_in_their_splits_without_those_that_have_no_label(data_dir):
  splits = {
    "train": rows("text", ("Fine,<br />really.", 1), ("bad", 0), ("été", 1), ("Seen  before!", 0)),
    "test": rows("text", ("seen before", 1), ("bad bad", 0), ("bad bad", 0)),
    "unsupervised": rows("text", ("who knows", -1)),
  }
  prepare(data_dir, "reviews", labelled(), splits)
  found = load_sentences("tfds:reviews")
  assert of_split(found, "train") == [("Fine, really.", 1), ("bad", 0), ("été", 1)]  # none that tests
  assert of_split(found, "test") == [("bad bad", 0), ("bad bad", 0), ("seen before", 1)]  # as published
  assert len(found.texts) == 6
  assert found.labels.dtype == np.int32
  assert found.classes == ("negative", "positive")
  assert found.description.startswith("reviews/1.0.0")
  assert "tensorflow" not in sys.modules


def test_where_the_test_split_is_without_labels_what_validates_tests(data_dir):
  splits = {
    "train": rows("sentence", ("a", 0), ("b", 1)),
    "validation": rows("sentence", ("c", 1)),
    "test": rows("sentence", ("d", -1), ("e", -1)),
  }
  splits = {split: [{**row, "idx": 1} for row in part] for split, part in splits.items()}
  prepare(data_dir, "sst2", labelled("sentence", idx=np.int32), splits)
  found = load_sentences("tfds:sst2")
  assert of_split(found, "test") == [("c", 1)]
  assert sorted(set(found.splits)) == ["test", "train"]


def test_a_single_split_is_a_set_that_is_not_split_yet(data_dir):
  prepare(data_dir, "one", labelled(), {"train": rows("text", ("a", 0), ("A!", 0), ("b", 1))})
  found = load_sentences("tfds:one")
  assert found.splits == ()
  assert sorted(text.lower().strip("!") for text in found.texts) == ["a", "b"]
  assert "without 1 that repeat" in found.description


def test_translations_go_the_way_that_the_set_says(data_dir):
  features = tfds.features.Translation(languages=("en", "pt"))
  pairs = [("o gato", "the cat"), ("um cão", "a dog"), ("visto", "seen")]
  both = [{"pt": source, "en": target} for source, target in pairs]
  splits = {
    "train": both,
    "validation": [{"pt": "sim", "en": "yes"}],
    "test": [both[2], {"pt": "x", "en": " "}],
  }
  prepare(data_dir, "talks", features, splits, keys=("pt", "en"))
  found = load_pairs("tfds:talks")
  of = {
    split: sorted(pair for pair, its in zip(found.pairs, found.splits, strict=True) if its == split)
    for split in splits
  }
  assert of == {"train": sorted(pairs[:2]), "validation": [("sim", "yes")], "test": [("visto", "seen")]}
  assert found.description.startswith("talks/1.0.0")


def test_of_a_large_set_the_first_examples_are_read(data_dir, monkeypatch):
  monkeypatch.setattr(tfds_text, "MOST", 5)
  splits = {"train": rows("text", *((f"text {i}", i % 2) for i in range(9))), "test": rows("text", ("t", 0))}
  prepare(data_dir, "large", labelled(), splits)
  found = load_sentences("tfds:large")
  assert found.splits.count("train") == 5
  assert "of each split the first 5 at most" in found.description


@pytest.mark.parametrize(
  ("features", "load", "said"),
  [
    (tfds.features.FeaturesDict({"label": LABEL}), load_sentences, "no set of labelled texts"),
    (labelled(other=tfds.features.Text()), load_sentences, "needs one field of text and a `label`"),
    (labelled(), load_pairs, "no set of translations"),
  ],
)
def test_other_kinds_of_data_are_refused(data_dir, features, load, said):
  example = {key: 0 if key == "label" else "a" for key in features}
  prepare(data_dir, "others", features, {"train": [example]})
  with pytest.raises(UserError, match=said) as refused:
    load("tfds:others")
  assert "\n" not in str(refused.value)


def test_a_set_without_a_label_on_anything_is_refused(data_dir):
  prepare(data_dir, "unlabelled", labelled(), {"train": rows("text", ("a", -1))})
  with pytest.raises(UserError, match="has nothing to train on"):
    load_sentences("tfds:unlabelled")


@pytest.mark.parametrize(
  ("load", "name"),
  [(load_sentences, "imdb_reviews"), (load_sentences, "glue/sst2"), (load_pairs, "wmt14_translate/fr-en")],
)
def test_a_set_that_is_not_prepared_is_one_line_that_says_how(load, name):
  with pytest.raises(UserError, match=f"prepare it elsewhere with tfds.builder\\('{name}'") as refused:
    load(f"tfds:{name}")
  assert "\n" not in str(refused.value)


def test_a_damaged_set_is_reported(data_dir):
  prepare(data_dir, "broken", labelled(), {"train": rows("text", ("a", 0)), "test": rows("text", ("b", 0))})
  for path in (data_dir / "broken" / "1.0.0").glob("*array_record*"):
    path.write_bytes(b"")
  with pytest.raises(UserError, match=r"is damaged .* delete it"):
    load_sentences("tfds:broken")


def test_recipes_keep_the_published_splits(data_dir):
  splits = {
    "train": rows("text", *((f"text {i}", i % 2) for i in range(20))),
    "test": rows("text", ("t 1", 0), ("t 2", 1), ("t 3", 1)),
  }
  prepare(data_dir, "reviews", labelled(), splits)
  data = Sentences("tfds:reviews", batch_size=4).build()
  assert data.sizes == {"train": 18, "validation": 2, "test": 3}
  features = tfds.features.Translation(languages=("en", "pt"))
  texts = {
    split: [{"pt": f"{split} {i} um", "en": f"{i}"} for i in range(count)]
    for split, count in {"train": 9, "validation": 2, "test": 4}.items()
  }
  prepare(data_dir, "talks", features, texts, keys=("pt", "en"))
  assert Pairs("tfds:talks", batch_size=2, tokens="words").build().sizes == {
    "train": 9,
    "validation": 2,
    "test": 4,
  }
