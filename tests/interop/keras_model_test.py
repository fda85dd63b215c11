"""What Keras opens of a file that is written here predicts what the model here predicts."""

import json
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.interop.h5_file import write_model
from dlcourse.interop.keras_model import sequential
from dlcourse.models.layers import Activation
from dlcourse.models.lenet import LeNet5, LeNet5Modern
from dlcourse.models.mlp import MLP
from dlcourse.models.small_cnn import SmallCNN
from dlcourse.models.vgg import VGGNet

COLOUR = (np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225]))
GREY = (np.float32(0.13), np.float32([0.31]))  # one number, and one a channel


def with_random_variables(model, image_shape):
  """Variables of which none, the statistics least of all, is what it is initialised with."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
  leaves, tree = jax.tree.flatten(shapes)
  rng = np.random.default_rng(1)
  arrays = [3 * rng.normal(size=leaf.shape) / max(1, np.prod(leaf.shape[:-1])) ** 0.5 for leaf in leaves]
  variables = jax.tree.unflatten(tree, [array.astype(np.float32) for array in arrays])
  if "batch_stats" in variables:
    variables["batch_stats"] = jax.tree.map(lambda x: np.abs(x) + 0.1, variables["batch_stats"])
  return variables


def small(activation, global_pool=False):
  return SmallCNN((4, 6), 8, global_pool, activation, num_classes=3)


CASES = [
  *((small(activation), (9, 9, 1)) for activation in get_args(Activation) if activation != "gelu_tanh"),
  *((MLP((7, 5), activation, num_classes=3), (6, 4, 3)) for activation in ("relu", "leaky_relu", "swish")),
  *((LeNet5(activation, 4), (32, 32, 1)) for activation in ("tanh", "gelu")),
  (LeNet5("swish", 4), (32, 32, 3)),
  (LeNet5Modern("relu", 4), (32, 32, 1)),
  (LeNet5Modern("elu", 4), (32, 32, 3)),
  (small("relu", global_pool=True), (12, 12, 3)),
  (MLP((), num_classes=2), (4, 4, 1)),
  (MLP((7,), "tanh", norm=False, num_classes=2), (4, 4, 1)),
]


def spread(model, variables, images):
  """Sets the output layer so that the logits of these images have mean 0 and deviation 1: none is certain."""
  logits = model.apply(variables, images)
  output, mean, deviation = variables["params"]["output"], logits.mean(axis=0), logits.std(axis=0)
  output["kernel"], output["bias"] = output["kernel"] / deviation, (output["bias"] - mean) / deviation


@pytest.mark.parity
@pytest.mark.parametrize(("model", "shape"), CASES, ids=lambda case: str(case)[:20].replace("\n", ""))
def test_keras_predicts_the_same_from_pixels(model, shape, tmp_path, monkeypatch):
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  import keras

  shift, width = COLOUR if shape[-1] == 3 else GREY
  pixels = np.random.default_rng(0).integers(0, 256, (5, *shape)).astype(np.float32)
  pixels = np.floor(pixels * np.linspace(0.1, 1, 5)[:, None, None, None]).astype(np.float32)  # dark to bright
  images = (pixels / 255 - shift) / width
  variables = with_random_variables(model, shape)
  spread(model, variables, images)
  write_model(tmp_path / "m.h5", {"x": np.ones(1)}, {}, sequential(model, variables, shape, shift, width))
  opened = keras.models.load_model(tmp_path / "m.h5", compile=False)
  ours, theirs = jax.nn.softmax(model.apply(variables, images)), opened.predict(pixels, verbose=0)
  np.testing.assert_allclose(theirs, ours, atol=1e-5)
  assert np.ptp(theirs, axis=0).max() > 0.2  # the images are told apart
  assert opened.count_params() >= sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parity
def test_what_keras_opens_can_be_trained_on_and_saved_again(tmp_path, monkeypatch):
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  import keras

  model = MLP((4,), num_classes=2)
  write_model(
    tmp_path / "m.h5", {}, {}, sequential(model, with_random_variables(model, (4, 4, 1)), (4, 4, 1), *GREY)
  )
  opened = keras.models.load_model(tmp_path / "m.h5", compile=False)
  rate, norm = opened.get_layer("Dropout_0").rate, opened.get_layer("BatchNorm_0")
  assert (rate, norm.momentum, norm.epsilon) == (0.3, 0.9, 1e-5)
  opened.save(tmp_path / "again.h5")
  again = keras.models.load_model(tmp_path / "again.h5", compile=False)
  pixels = np.full((1, 4, 4, 1), 9.0)
  np.testing.assert_array_equal(opened(pixels), again(pixels))


def test_what_is_no_sequence_has_no_description():
  assert sequential(VGGNet(num_classes=2), {}, (32, 32, 3), *COLOUR) is None
  assert sequential(small("gelu_tanh"), {}, (9, 9, 1), *GREY) is None


def test_the_description_is_plain_json_and_the_weights_are_in_keras_order():
  model = MLP((4,), num_classes=2)
  config, weights = sequential(model, with_random_variables(model, (4, 4, 1)), (4, 4, 1), *GREY)
  assert json.loads(json.dumps(config)) == config
  assert list(weights) == [
    "Dense_0/kernel",
    *(f"BatchNorm_0/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")),
    *("output/kernel", "output/bias"),
  ]
