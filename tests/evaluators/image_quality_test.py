import types

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators import image_quality
from dlcourse.evaluators.feature_extractors import CHUNK
from dlcourse.evaluators.image_quality import ImageQuality, draw_images, some_images

KEY = jax.random.key(0)
DIGITS = np.minimum(load_digits().images[..., None] * 16, 255).astype(np.uint8)  # [1797, 8, 8, 1]
SPLITS = {"train": DIGITS[:300], "test": DIGITS[300:450]}
SPEC = Spec({"image": jax.ShapeDtypeStruct((10, 8, 8, 1), np.uint8)})


class Plays:
  """A task that generates these images, one request after the other; black ones when they are used up."""

  conditional = False

  def __init__(self, images):
    self.images, self.requests = images / 255, []

  def generate(self, state, key, request):
    count = len(request["index"])
    made, self.images = self.images[:count], self.images[count:]
    self.requests.append((count, jax.random.key_data(key).tolist()))
    return {"image": np.pad(made, ((0, count - len(made)), (0, 0), (0, 0), (0, 0)))}


def data_of(splits):
  batches = {name: {"image": images} for name, images in splits.items()}
  sizes = {name: len(images) for name, images in splits.items()}
  return Data(SPEC, None, lambda split: in_order(batches[split], 64), sizes, "", "")


def scores_of(images, samples=150):
  report = ImageQuality(samples)(Plays(images), None, data_of(SPLITS), KEY)
  return report, {name.partition("/")[0]: value for name, value in report.scalars.items()}


def test_the_test_images_themselves_are_perfect():
  report, scores = scores_of(SPLITS["test"])
  assert set(report.scalars) == {
    f"{name}/digits@150"
    for name in ("fid", "kid", "precision", "recall", "density", "coverage", "inception_score", "memory")
  }
  assert scores["fid"] == pytest.approx(0, abs=1e-6)
  assert {scores[name] for name in ("precision", "recall", "density", "coverage", "memory")} == {1.0}
  assert abs(scores["kid"]) < 1
  assert 1 < scores["inception_score"] <= 10
  assert set(report.figures) == {"nearest_training_images"}


def test_other_digits_are_near_and_noise_is_far():
  _, others = scores_of(DIGITS[450:600])
  _, noise = scores_of(np.random.default_rng(0).integers(0, 256, (150, 8, 8, 1)))
  assert 0 < 10 * others["fid"] < noise["fid"]
  assert 10 * abs(others["kid"]) < noise["kid"]
  assert noise["precision"] < 0.1 < 0.5 < others["precision"]
  assert noise["coverage"] < 0.1 < 0.5 < others["coverage"]
  assert 0.5 < others["memory"] < 1.5 < noise["memory"]


def test_copies_of_training_images_are_found(monkeypatch):
  shown = {}
  monkeypatch.setattr(
    image_quality, "image_grid", lambda images, columns: shown.update(images=images, columns=columns)
  )
  _, scores = scores_of(SPLITS["train"])
  assert scores["memory"] == pytest.approx(0, abs=1e-6)
  rows = shown["images"].reshape(-1, 2, 8, 8, 8, 1)  # pairs of rows of 8
  assert shown["columns"] == 8
  assert rows.shape[0] == 2
  np.testing.assert_array_equal(rows[:, 0], rows[:, 1])
  assert len(np.unique(rows[:, 0].reshape(16, -1), axis=0)) == 16


def test_classes_are_counted_and_a_conditional_model_is_held_to_what_it_was_asked_for():
  large, labels = (
    DIGITS.repeat(3, axis=1).repeat(3, axis=2),
    load_digits().target,
  )  # the extractor's are 28 x 28
  in_turn = np.stack([large[labels == digit][:15] for digit in range(10)], axis=1).reshape(-1, 24, 24, 1)
  task, splits = Plays(in_turn), {"train": large[:300], "test": large[300:450]}
  task.conditional = True
  spec = Spec({"image": jax.ShapeDtypeStruct((10, 24, 24, 1), np.uint8)}, tuple("0123456789"))
  report = ImageQuality(150)(task, None, data_of(splits)._replace(spec=spec), KEY)
  asked = report.scalars["asked/digits@150"]
  assert asked > 0.6  # 0.1 by chance
  rows = report.tables["classes"]
  assert [row["class"] for row in rows] == list("0123456789")
  assert sum(row["fake"] for row in rows) == sum(row["real"] for row in rows) == 150
  assert sum(abs(row["fake"] - 15) for row in rows) <= 2 * 150 * (1 - asked) + 1e-6
  assert "asked/digits@150" not in scores_of(SPLITS["test"])[0].scalars


def test_images_are_drawn_in_requests_of_one_size_with_keys_of_their_own():
  task = Plays(DIGITS[: CHUNK + 5])
  made = draw_images(task, None, SPEC, CHUNK + 5, KEY)
  np.testing.assert_array_equal(made, DIGITS[: CHUNK + 5])
  counts, keys = zip(*task.requests, strict=True)
  assert counts == (CHUNK, CHUNK)
  assert keys[0] != keys[1]


@pytest.mark.parametrize(("classes", "size"), [(10, 60), (64, 64), (100, 100)])
def test_a_conditional_model_is_asked_for_every_class_as_often(classes, size):
  task = Plays(DIGITS)
  task.conditional = True
  spec = Spec(SPEC.batch, tuple(map(str, range(classes))))
  assert len(draw_images(task, None, spec, 130, KEY)) == 130
  assert {count for count, _ in task.requests} == {size}


def test_as_many_are_drawn_as_there_are_test_images():
  report, _ = scores_of(SPLITS["test"], samples=2_000)
  assert "fid/digits@150" in report.scalars
  report, _ = scores_of(DIGITS, samples=20)
  assert "fid/digits@20" in report.scalars


def test_some_images_are_the_same_random_ones_each_time():
  data = data_of(SPLITS)
  some = some_images(data, "train", 40)
  np.testing.assert_array_equal(some, some_images(data, "train", 40))
  every = {image.tobytes(): index for index, image in enumerate(SPLITS["train"])}
  found = [every[image.tobytes()] for image in some]
  assert found == sorted(found)
  assert max(found) > 150
  np.testing.assert_array_equal(some_images(data, "train", 1_000), SPLITS["train"])


def test_what_cannot_be_measured_is_refused():
  data = data_of(SPLITS)
  with pytest.raises(UserError, match="of a task that makes images"):
    ImageQuality()(types.SimpleNamespace(generate=None), None, data, KEY)
  with pytest.raises(UserError, match="against 10 test images or more; there are 3"):
    ImageQuality()(Plays(DIGITS), None, data_of(SPLITS | {"test": DIGITS[:3]}), KEY)
  with pytest.raises(UserError, match="images of NaN"):
    ImageQuality()(Plays(np.full((200, 8, 8, 1), np.nan)), None, data, KEY)
  with pytest.raises(UserError, match="samples=9 is too small"):
    ImageQuality(samples=9)
