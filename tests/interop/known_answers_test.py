"""Photographs that ship in Python packages, seen by EfficientNet-Lite0 with its published weights."""

import pathlib

import jax
import matplotlib
import numpy as np
import pytest
import sklearn.datasets
from networks import shapes_of
from PIL import Image

from dlcourse.data.archives import fetch
from dlcourse.interop.imagenet import centre_crop, class_names, lite_input
from dlcourse.interop.weights import fill_model, read_weights
from dlcourse.models.efficientnet import EFFICIENTNET_LITE

pytestmark = pytest.mark.data

# What is to be seen -> the classes that are right, and how its name begins.
ANSWERS = {
  "coffee.png": ({967}, "espresso"),
  "camera.png": ({872}, "tripod"),
  "chelsea.png": ({281, 282, 285}, ("tabby", "tiger cat", "Egyptian cat")),
  "flower.jpg": ({985}, "daisy"),
  "china.jpg": ({698}, "palace"),  # a pavilion of the Summer Palace
  "rocket.jpg": ({657}, "missile"),  # on its launch pad; there is no class of rockets
  "motorcycle_left.png": ({665}, "moped"),  # nor of motorcycles
}


def photograph(name):
  packaged = pathlib.Path(sklearn.datasets.__file__).parent / "images" / name
  return Image.open(packaged if packaged.exists() else fetch("photographs") / name)


@pytest.fixture(scope="module")
def classify():
  model = EFFICIENTNET_LITE[0].clone(num_classes=1000)
  (path,) = fetch("efficientnet_lite0").iterdir()
  variables = fill_model(model, shapes_of(model, 224), read_weights(path), path.name)
  forward = jax.jit(lambda x: jax.nn.softmax(model.apply(variables, x)))
  return lambda image: np.asarray(forward(lite_input(centre_crop(image))[None])[0])


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_to_be_seen_is_seen(classify, name):
  classes, begins = ANSWERS[name]
  probabilities = classify(photograph(name))
  best, text = int(probabilities.argmax()), class_names()[probabilities.argmax()]
  print(f"{name}: {best} {text} {probabilities[best]:.3f}")
  assert best in classes
  assert text.startswith(begins)


def test_a_uniform_is_among_the_first_three(classify):
  """Grace Hopper's is taken for an academic gown first: the crop leaves little of it."""
  path = pathlib.Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
  best = np.argsort(-classify(Image.open(path)))[:3]
  assert "military uniform" in [class_names()[index] for index in best]


def test_there_are_a_thousand_classes_in_the_order_of_imagenet():
  names = class_names()
  assert len(names) == 1000
  assert names[0] == "tench, Tinca tinca"
  assert names[999].startswith("toilet tissue")
  assert names[134] == names[517] == "crane"  # the bird and the machine
