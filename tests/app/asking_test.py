"""What is asked about a person's files is what `dlcourse predict` asks."""

import numpy as np
import pytest
from PIL import Image

from dlcourse.app.asking import Upload, enlarged, look, overlay, read, tried_of
from dlcourse.app.tried import Tried
from dlcourse.classifier import Classifier, answers, open_classifier
from dlcourse.data.image_files import BadImage
from dlcourse.errors import UserError


def judging(shares):
  """A classifier of 4 x 4 colour images that always says the same."""
  return Classifier(("a", "b"), (4, 4, 3), "pad", lambda images: np.float32([shares] * len(images)))


def test_probabilities_are_those_of_predict(lenet, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
  Image.fromarray(pixels).save(tmp_path / "noise.png")
  file = str(tmp_path / "noise.png")
  classifier = open_classifier(lenet)
  (said,) = answers(classifier, [file], top=10)
  found = look(classifier, read(classifier, Upload(file, "noise.png")))
  shares = dict(zip(classifier.classes, found.shares, strict=True))
  assert shares == pytest.approx(dict(said.likeliest), abs=1e-6)
  assert found.heat.shape == (32, 32)
  assert 0 <= found.heat.min() < found.heat.max() <= 1


def test_a_broken_file_is_called_what_the_person_calls_it(tmp_path):
  (tmp_path / "0123.jpg").write_text("no image")
  upload = Upload(str(tmp_path / "0123.jpg"), "mine/cat.jpg")
  with pytest.raises(BadImage, match=r"^mine/cat.jpg: cannot be decoded") as error:
    read(judging([0.5, 0.5]), upload)
  assert str(tmp_path) not in str(error.value)
  noted = tried_of(judging([0.5, 0.5]), upload)
  assert noted.predicted is None
  assert noted.problem.startswith("cannot be decoded")


def test_the_folder_of_a_file_is_its_class_where_there_is_such_a_class(tmp_path):
  file = str(tmp_path / "x.png")
  Image.new("RGB", (4, 4)).save(file)
  asked = judging([0.25, 0.75])
  assert tried_of(asked, Upload(file, "all/a/x.png")) == Tried("all/a/x.png", "b", 0.75, "a")
  assert tried_of(asked, Upload(file, "a/other/x.png")).truth is None
  assert tried_of(asked, Upload(file, "a.png")).truth is None


def test_a_diverged_model_is_a_message():
  with pytest.raises(UserError, match="predicts NaN"):
    look(judging([np.nan, np.nan]), np.zeros((4, 4, 3), np.uint8))


def test_without_feature_maps_there_is_no_heat():
  assert look(judging([1, 0]), np.zeros((4, 4, 3), np.uint8)).heat is None


def test_heat_colours_where_it_is_hot_and_nothing_else():
  pixels = np.full((8, 8, 1), 100, np.uint8)
  heat = np.zeros((8, 8), np.float32)
  heat[:2, :2] = 1
  picture = overlay(pixels, heat)
  assert picture.shape == enlarged(pixels).shape == (320, 320, 3)
  assert (picture[200:, 200:] == 100).all()
  assert np.ptp(picture[20, 20].astype(int)) > 100  # yellow
