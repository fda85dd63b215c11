"""Names and layouts of the weights of keras.applications."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from networks import random_bytes, shapes_of

from dlcourse.errors import UserError
from dlcourse.interop.keras_names import as_keras, from_keras, keras_name, swap_depthwise
from dlcourse.models.densenet import KERAS_DENSENET121
from dlcourse.models.efficientnet import EFFICIENTNET
from dlcourse.models.mobilenet_v2 import KERAS_MOBILENET_V2
from dlcourse.models.resnet import KERAS_RESNET50
from dlcourse.models.vgg import VGG

# Family -> the model, and how many weights keras.applications has (Keras 3.15), without its data preparation.
MODELS = {
  "vgg": (VGG[16], 32),
  "resnet": (KERAS_RESNET50, 320),
  "densenet": (KERAS_DENSENET121, 606),
  "mobilenet_v2": (KERAS_MOBILENET_V2, 262),
  "efficientnet": (EFFICIENTNET[0], 311),
}


@pytest.mark.parametrize(
  ("family", "path", "name"),
  [
    ("vgg", "conv3_2/bias", "block3_conv2/bias"),
    ("vgg", "fc6/kernel", "fc1/kernel"),
    ("resnet", "norm1/var", "conv1_bn/moving_variance"),
    ("resnet", "conv4_12/conv3/bias", "conv4_block12_3_conv/bias"),
    ("resnet", "conv2_1/norm_project/bias", "conv2_block1_0_bn/beta"),
    ("densenet", "dense3_24/norm1/scale", "conv4_block24_0_bn/gamma"),
    ("densenet", "dense1_6/conv2/kernel", "conv2_block6_2_conv/kernel"),
    ("densenet", "transition3/conv/kernel", "pool4_conv/kernel"),
    ("densenet", "norm/mean", "bn/moving_mean"),
    ("mobilenet_v2", "stage1_1/norm_depthwise/scale", "expanded_conv_depthwise_BN/gamma"),
    ("mobilenet_v2", "stage2_1/expand/kernel", "block_1_expand/kernel"),
    ("mobilenet_v2", "stage7_1/project/kernel", "block_16_project/kernel"),
    ("mobilenet_v2", "norm2/bias", "Conv_1_bn/beta"),
    ("efficientnet", "stage1_1/depthwise/kernel", "block1a_dwconv/kernel"),
    ("efficientnet", "stage6_13/norm_depthwise/mean", "block6m_bn/moving_mean"),
    ("efficientnet", "stage4_2/squeeze/bias", "block4b_se_reduce/bias"),
    ("efficientnet", "output/bias", "predictions/bias"),
  ],
)
def test_names_are_those_of_keras_applications(family, path, name):
  assert keras_name(family, path) == name


def shapes(model):
  return shapes_of(model.clone(num_classes=1000), 224)


@pytest.mark.parametrize("family", MODELS)
def test_every_array_has_a_name_of_its_own(family):
  model, count = MODELS[family]
  assert len({keras_name(family, "/".join(path[1:])) for path in flatten_dict(shapes(model))}) == count


def test_what_keras_has_not_is_refused():
  with pytest.raises(UserError, match="vgg has nothing that could be 'norm1_1/scale'"):
    keras_name("vgg", "norm1_1/scale")
  with pytest.raises(UserError, match="perhaps you meant 'mobilenet_v2'"):
    keras_name("mobilenet", "conv1/kernel")


def test_only_depthwise_kernels_are_laid_out_otherwise():
  kernel = np.arange(3 * 3 * 4).reshape(3, 3, 4, 1)
  np.testing.assert_array_equal(swap_depthwise("stage1_1/depthwise/kernel", kernel)[:, :, 0], kernel[..., 0])
  assert swap_depthwise("stage1_1/project/kernel", kernel) is kernel


@pytest.mark.parametrize("family", MODELS)
def test_there_and_back_changes_no_bit(family):
  variables = random_bytes(shapes(MODELS[family][0]))
  back = from_keras(family, variables, as_keras(family, variables) | {"normalization/mean": np.zeros(3)})
  jax.tree.map(np.testing.assert_array_equal, back, variables)


def random_weight(rng, name, shape):
  """Of plausible size: He weights, positive variances, biases and means that matter."""
  leaf = name.rpartition("/")[2]
  if leaf == "kernel":
    fan = np.prod(shape[:2] if "dwconv" in name or "depthwise" in name else shape[:-1])
    return rng.standard_normal(shape, np.float32) * np.float32((2 / fan) ** 0.5)
  if leaf in ("gamma", "moving_variance"):
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)
  return rng.standard_normal(shape, np.float32) * np.float32(0.2)


@pytest.mark.parity
@pytest.mark.parametrize("family", MODELS)
def test_logits_are_those_of_keras(family, monkeypatch):
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  from keras import applications

  names = {
    "vgg": "VGG16",
    "resnet": "ResNet50",
    "densenet": "DenseNet121",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet": "EfficientNetB0",
  }
  network = getattr(applications, names[family])(weights=None, classifier_activation=None)
  rng, state = np.random.default_rng(0), {}
  for weight in network.weights:
    if not weight.path.startswith("normalization"):
      state[weight.path] = random_weight(rng, weight.path, weight.shape)
      weight.assign(state[weight.path])
  image = rng.standard_normal((1, 224, 224, 3), np.float32)
  scale = 255 if family == "efficientnet" else 1  # it divides by 255 itself
  theirs = np.asarray(network(scale * image, training=False))
  model = MODELS[family][0].clone(num_classes=1000)
  ours = jax.jit(model.apply)(from_keras(family, shapes(model), state), image)
  difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
  print(f"{family}: {difference:.1e}")
  assert difference < 1e-4
