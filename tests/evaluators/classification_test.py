import types

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators import Report
from dlcourse.evaluators.classification import ConfusionMatrix, Roc, predictions

RNG = np.random.default_rng(0)
CLASSES = ("ant", "bee", "cat", "dog")
LABELS = RNG.integers(3, size=53).astype(np.int32)  # no dog
PROBABILITIES = RNG.dirichlet(np.ones(4), size=53).astype(np.float32)
IMAGES = np.broadcast_to(np.arange(53, dtype=np.uint8)[:, None, None, None], (53, 2, 2, 1))
ARRAYS = {"image": IMAGES, "label": LABELS, "row": np.arange(53)}
DATA = Data(
  Spec({}, CLASSES), None, lambda split: in_order(ARRAYS, 10) if split == "test" else None, {}, "", ""
)


def predictor(probabilities):
  """A task that knows the probabilities of every row; for padding it is sure of a wrong class."""

  def predict(state, key, batch):
    padding = np.array([0, 0, 0, 1], np.float32)
    return np.where(batch["mask"][:, None] > 0, probabilities[batch["row"]], padding)

  return types.SimpleNamespace(predict=predict)


def test_predictions_are_those_of_the_whole_split_without_padding():
  probabilities, labels, images = predictions(predictor(PROBABILITIES), None, DATA, None)
  np.testing.assert_array_equal(probabilities, PROBABILITIES)
  np.testing.assert_array_equal(labels, LABELS)
  np.testing.assert_array_equal(images, IMAGES)


def test_the_confusion_matrix_equals_that_of_scikit_learn():
  report = ConfusionMatrix()(predictor(PROBABILITIES), None, DATA, None)
  guessed = PROBABILITIES.argmax(-1)
  expected = confusion_matrix(LABELS, guessed, labels=range(4))
  rows = report.tables["confusion_matrix"]
  assert [row["label"] for row in rows] == list(CLASSES)
  np.testing.assert_array_equal([[row["counts"][name] for name in CLASSES] for row in rows], expected)
  recall = np.diag(expected) / np.maximum(expected.sum(1), 1)
  assert [row["recall"] for row in report.tables["recall"]] == pytest.approx(recall.tolist())
  f1 = f1_score(LABELS, guessed, labels=np.unique(LABELS), average="macro")
  assert report.scalars["macro_f1"] == pytest.approx(f1)
  worst = report.tables["confusions"]
  counts = [row["count"] for row in worst]
  assert counts == sorted(counts, reverse=True)
  for row in worst:
    i, j = CLASSES.index(row["label"]), CLASSES.index(row["predicted"])
    assert i != j
    assert expected[i, j] == row["count"]


def test_the_f1_of_a_class_in_focus_equals_that_of_scikit_learn():
  report = ConfusionMatrix(focus="bee")(predictor(PROBABILITIES), None, DATA, None)
  expected = f1_score(LABELS, PROBABILITIES.argmax(-1), labels=[1], average=None)
  assert report.scalars["f1/bee"] == pytest.approx(expected[0])
  with pytest.raises(UserError, match=r"unknown class of --evaluators….focus 'bees'; perhaps you meant 'bee'"):
    ConfusionMatrix(focus="bees")(predictor(PROBABILITIES), None, DATA, None)


def test_the_worst_confusions_are_the_most_confident_errors():
  report = ConfusionMatrix(pictures=5)(predictor(PROBABILITIES), None, DATA, None)
  guessed = PROBABILITIES.argmax(-1)
  wrong = np.flatnonzero(guessed != LABELS)
  worst = wrong[np.argsort(-PROBABILITIES[wrong].max(-1))][:5]
  axes = [axes for axes in report.figures["worst_confusions"].axes if axes.get_images()]
  assert [int(a.get_images()[0].get_array()[0, 0]) for a in axes] == worst.tolist()
  first = worst[0]
  assert axes[0].get_title().startswith(f"{CLASSES[LABELS[first]]} →\n{CLASSES[guessed[first]]}")


def test_a_classifier_without_errors_has_recall_one_and_no_confusions():
  arrays = {**ARRAYS, "label": (np.arange(53) % 4).astype(np.int32)}
  data = DATA._replace(eval_batches=lambda split: in_order(arrays, 10))
  report = ConfusionMatrix()(predictor(np.eye(4, dtype=np.float32)[np.arange(53) % 4]), None, data, None)
  assert report.scalars == {"macro_recall": 1.0, "macro_f1": 1.0}
  assert report.tables["confusions"] == []
  assert set(report.figures) == {"confusion_matrix", "confusion_matrix_normalised"}


def test_recall_is_the_mean_over_the_classes_that_occur():
  labels = np.zeros(53, np.int32)
  data = DATA._replace(eval_batches=lambda split: in_order({**ARRAYS, "label": labels}, 10))
  guesses = np.eye(4, dtype=np.float32)[labels]
  assert ConfusionMatrix()(predictor(guesses), None, data, None).scalars == {
    "macro_recall": 1.0,
    "macro_f1": 1.0,
  }


def test_areas_equal_those_of_scikit_learn_for_the_classes_that_occur():
  report = Roc()(predictor(PROBABILITIES), None, DATA, None)
  rows = report.tables["roc"]
  assert [row["class"] for row in rows] == ["ant", "bee", "cat"]
  expected = [roc_auc_score(number == LABELS, PROBABILITIES[:, number]) for number in range(3)]
  assert [row["auc"] for row in rows] == pytest.approx(expected)
  assert report.scalars["macro_auc"] == pytest.approx(np.mean(expected))


def test_the_area_is_the_chance_that_a_positive_outranks_a_negative():
  report = Roc()(predictor(PROBABILITIES), None, DATA, None)
  positive, negative = PROBABILITIES[LABELS == 0, 0], PROBABILITIES[LABELS != 0, 0]
  assert report.tables["roc"][0]["auc"] == pytest.approx(np.mean(positive[:, None] > negative))


def test_classes_may_have_any_name():
  names = ("class", "label", "counts", "recall")
  report = ConfusionMatrix()(predictor(PROBABILITIES), None, DATA._replace(spec=Spec({}, names)), None)
  rows = report.tables["confusion_matrix"]
  assert [row["label"] for row in rows] == list(names)
  np.testing.assert_array_equal(
    [[row["counts"][name] for name in names] for row in rows],
    confusion_matrix(LABELS, PROBABILITIES.argmax(-1), labels=range(4)),
  )


@pytest.mark.parametrize("evaluator", [ConfusionMatrix(), Roc()])
def test_a_model_that_predicts_nan_is_refused_in_one_line(evaluator):
  broken = PROBABILITIES.copy()
  broken[7] = np.nan
  with pytest.raises(UserError, match="the model predicts NaN") as info:
    evaluator(predictor(broken), None, DATA, None)
  assert "\n" not in str(info.value)


@pytest.mark.filterwarnings("error")
def test_a_single_class_has_no_area():
  data = DATA._replace(eval_batches=lambda split: in_order({**ARRAYS, "label": np.zeros(53, np.int32)}, 10))
  assert Roc()(predictor(PROBABILITIES), None, data, None) == Report()


def test_no_pictures_are_fine_and_fewer_are_refused():
  report = ConfusionMatrix(pictures=0)(predictor(PROBABILITIES), None, DATA, None)
  assert set(report.figures) == {"confusion_matrix", "confusion_matrix_normalised"}
  with pytest.raises(UserError, match="pictures=-1"):
    ConfusionMatrix(pictures=-1)
