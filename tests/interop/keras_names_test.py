"""Names, layouts and order of the weights of keras.applications."""

import functools

import h5py
import jax
import numpy as np
import pytest
from networks import random_bytes, shapes_of

from dlcourse.errors import UserError
from dlcourse.interop.h5_file import keras_weights, read_h5, write_h5
from dlcourse.interop.keras_names import (
  as_keras,
  from_keras,
  keras_name,
  keras_naming,
  swap_depthwise,
)
from dlcourse.interop.weights import read_weights
from dlcourse.models.alexnet import ALEXNET
from dlcourse.models.densenet import DENSENET, KERAS_DENSENET121
from dlcourse.models.efficientnet import EFFICIENTNET, EFFICIENTNET_LITE
from dlcourse.models.googlenet import GOOGLENET
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
  assert keras_name(family, path, KERAS_MOBILENET_V2.depths) == name


@functools.cache
def shapes(model):
  return shapes_of(model.clone(num_classes=1000), 224)


@pytest.mark.parametrize("family", MODELS)
def test_every_array_has_a_name_of_its_own(family):
  model, count = MODELS[family]
  names = keras_naming(family, shapes(model)).names
  assert len(names) == len(set(names.values())) == count


def test_what_keras_has_not_is_refused():
  with pytest.raises(UserError, match="vgg has nothing that could be 'norm1_1/scale'"):
    keras_name("vgg", "norm1_1/scale")
  with pytest.raises(UserError, match="perhaps you meant 'mobilenet_v2'"):
    keras_name("mobilenet", "conv1/kernel")


def test_only_depthwise_kernels_are_laid_out_otherwise():
  kernel = np.arange(3 * 3 * 4).reshape(3, 3, 4, 1)
  np.testing.assert_array_equal(swap_depthwise("stage1_1/depthwise/kernel", kernel)[:, :, 0], kernel[..., 0])
  assert swap_depthwise("stage1_1/project/kernel", kernel) is kernel


# Every variant of the model tables, some of them narrow: name -> family and model.
VARIANTS = {
  **{f"vgg{depth}": ("vgg", model.clone(width=16, dense_dim=64)) for depth, model in VGG.items()},
  "resnet50": ("resnet", KERAS_RESNET50.clone(width=16)),
  "resnet152": ("resnet", KERAS_RESNET50.clone(depths=(3, 8, 36, 3), width=16)),
  **{f"densenet{depth}": ("densenet", model) for depth, model in DENSENET.items()},
  "mobilenet_v2": ("mobilenet_v2", KERAS_MOBILENET_V2),
  **{f"efficientnet_b{i}": ("efficientnet", model) for i, model in EFFICIENTNET.items()},
  **{f"efficientnet_lite{i}": ("efficientnet", model) for i, model in EFFICIENTNET_LITE.items()},
  **{f"alexnet_{name}": ("alexnet", model.clone(dense_dim=64)) for name, model in ALEXNET.items()},
  **{f"googlenet_{name}": ("googlenet", model.clone(aux=True)) for name, model in GOOGLENET.items()},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_there_and_back_changes_no_bit(name):
  family, model = VARIANTS[name]
  variables = random_bytes(shapes(model))
  state = as_keras(family, variables)
  assert ("normalization/mean" in state) == (family == "efficientnet")
  jax.tree.map(np.testing.assert_array_equal, from_keras(family, shapes(model), state), variables)


@pytest.mark.parametrize(
  ("family", "todays", "old"),
  [
    ("resnet", "conv4_block6_2_conv/kernel", "res4f_branch2b/kernel"),
    ("resnet", "conv2_block1_0_bn/moving_mean", "bn2a_branch1/moving_mean"),
    ("resnet", "predictions/kernel", "fc1000/kernel"),
    ("resnet", "predictions/bias", "probs/bias"),
    ("densenet", "conv1_bn/gamma", "conv1/bn/gamma"),
    ("densenet", "predictions/bias", "fc1000/bias"),
    ("mobilenet_v2", "block_3_depthwise/kernel", "block_3_depthwise/depthwise_kernel"),
    ("mobilenet_v2", "predictions/kernel", "Logits/kernel"),
    ("efficientnet", "block1a_dwconv/kernel", "block1a_dwconv/depthwise_kernel"),
  ],
)
def test_names_of_earlier_versions_are_taken(family, todays, old):
  naming = keras_naming(family, shapes(MODELS[family][0]))
  assert todays in naming.names.values()
  assert naming.renamed(old) == todays == naming.renamed(todays)


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


# Keras's network and ours: small where names, order and layers stay what they are.
SMALL = {
  "vgg": ("VGG16", {}, VGG[16].clone(stem="small")),
  "resnet": ("ResNet50", {}, KERAS_RESNET50),
  "densenet": ("DenseNet121", {}, KERAS_DENSENET121),
  "mobilenet_v2": ("MobileNetV2", {"alpha": 0.35}, KERAS_MOBILENET_V2.clone(width=0.35)),
  "efficientnet": ("EfficientNetB0", {}, EFFICIENTNET[0]),
}


@pytest.mark.parity
@pytest.mark.parametrize("family", SMALL)
def test_files_go_to_keras_and_come_back(family, tmp_path, monkeypatch):
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  from keras import applications, utils

  utils.clear_session()  # else a second normalisation gets another name
  name, options, model = SMALL[family]
  network = getattr(applications, name)(weights=None, input_shape=(32, 32, 3), classes=5, **options)
  wanted = shapes_of(model.clone(num_classes=5), 32)
  variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), random_bytes(wanted))
  written = as_keras(family, variables)
  write_h5(tmp_path / "ours.h5", written)
  network.load_weights(tmp_path / "ours.h5")  # layer by layer, in their order
  for weight in network.weights:
    np.testing.assert_array_equal(weight, written[weight.path], weight.path)

  network.save_weights(tmp_path / "theirs.weights.h5")
  back = from_keras(family, wanted, read_weights(tmp_path / "theirs.weights.h5"))
  jax.tree.map(np.testing.assert_array_equal, back, variables)
  without_names(tmp_path / "theirs.weights.h5")  # as Keras wrote such files at first
  unnamed = keras_weights(read_h5(tmp_path / "theirs.weights.h5"))
  assert "conv2d_1/kernel" in unnamed
  assert not {"Conv1/kernel", "stem_conv/kernel", "predictions/kernel"} & set(unnamed)
  jax.tree.map(np.testing.assert_array_equal, from_keras(family, wanted, unnamed), variables)


def without_names(path):
  with h5py.File(path, "r+") as file:
    file.visititems(lambda _, node: node.attrs.__delitem__("name") if "name" in node.attrs else None)
