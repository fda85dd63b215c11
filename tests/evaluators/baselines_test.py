import types

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from dlcourse.data.batches import in_order
from dlcourse.data.ragged import side_by_side
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.baselines import NearestNeighbour, TfIdf

RNG = np.random.default_rng(0)


def data_of(splits, vocabulary=()):
  spec = Spec({}, ("a", "b", "c"), vocabulary)
  return types.SimpleNamespace(spec=spec, eval_batches=lambda split: in_order(splits[split], 7))


def texts(count):
  """Token sequences whose label is whether token 5 follows token 4, or stands alone, or is not there."""
  made, labels = [], RNG.integers(3, size=count).astype(np.int32)
  for label in labels:
    tokens = RNG.integers(6, 12, size=RNG.integers(3, 9))
    made.append(np.concatenate([tokens, [[4, 5], [5, 4], [7]][label]]).astype(np.int32))
  inputs, lengths = side_by_side(made)
  return {"inputs": inputs, "lengths": lengths, "label": labels}


def test_tf_idf_is_that_of_scikit_learn_on_the_words():
  splits = {"train": texts(60), "test": texts(31)}
  report = TfIdf()(None, None, data_of(splits, tuple("abcdefghijkl")), None)
  words = {
    name: [" ".join(f"w{token}" for token in x[:n]) for x, n in zip(s["inputs"], s["lengths"], strict=True)]
    for name, s in splits.items()
  }
  vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
  classifier = LogisticRegression(C=10, max_iter=1_000)
  classifier.fit(vectorizer.fit_transform(words["train"]), splits["train"]["label"])
  expected = classifier.score(vectorizer.transform(words["test"]), splits["test"]["label"])
  assert report.scalars["tfidf_accuracy"] == pytest.approx(expected)
  assert expected > 0.8
  single = TfIdf(longest_run=1)(None, None, data_of(splits, tuple("abcdefghijkl")), None)
  assert single.scalars["tfidf_accuracy"] < expected  # the order of 4 and 5 is unseen


def test_the_nearest_neighbour_is_found_by_trying_all():
  splits = {
    name: {
      "inputs": RNG.normal(size=(count, 4, 2)).astype(np.float32),
      "lengths": np.full(count, 4, np.int32),
      "label": RNG.integers(3, size=count).astype(np.int32),
    }
    for name, count in (("train", 40), ("test", 23))
  }
  gaps = splits["test"]["inputs"][:, None] - splits["train"]["inputs"][None]
  guessed = splits["train"]["label"][np.argmin(np.square(gaps).sum(axis=(2, 3)), axis=1)]
  report = NearestNeighbour()(None, None, data_of(splits), None)
  assert report.scalars["nearest_accuracy"] == pytest.approx(np.mean(guessed == splits["test"]["label"]))


def test_what_a_baseline_cannot_compare_is_refused():
  splits = {"train": texts(9), "test": texts(9)}
  with pytest.raises(UserError, match="all equally long"):
    NearestNeighbour()(None, None, data_of(splits, ("a",)), None)
  with pytest.raises(UserError, match="counts tokens"):
    TfIdf()(None, None, data_of(splits), None)
  images = {"image": np.zeros((3, 2, 2, 1)), "label": np.zeros(3)}
  with pytest.raises(UserError, match="needs labelled sequences; this data has image, label, mask"):
    NearestNeighbour()(None, None, data_of({"train": images, "test": images}), None)
