"""Summaries against hand counts and published figures, all by shapes alone."""

import functools
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.experiment import catalogue, load
from dlcourse.models.alexnet import ALEXNET
from dlcourse.models.convolution import Conv, ConvTranspose
from dlcourse.models.densenet import DENSENET
from dlcourse.models.efficientnet import EFFICIENTNET
from dlcourse.models.googlenet import GOOGLENET
from dlcourse.models.lenet import LeNet5, LeNet5Modern
from dlcourse.models.mlp import MLP
from dlcourse.models.mobilenet_v2 import MOBILENET_V2
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.resnet import KERAS_RESNET50, RESNET
from dlcourse.models.sequence import LanguageModel
from dlcourse.models.summary import summarise
from dlcourse.models.vae import MLPVAE
from dlcourse.models.vgg import VGG
from dlcourse.report.layers import task_summary

KEY = jax.random.key(0)
IMAGENET = {
  "alexnet": ALEXNET["one_tower"],
  "alexnet_two_towers": ALEXNET["two_towers"],
  "vgg16": VGG[16],
  "googlenet": GOOGLENET["paper"],
  "googlenet_torchvision": GOOGLENET["torchvision"],
  "resnet18": RESNET[18],
  "resnet50": RESNET[50],
  "resnet50_keras": KERAS_RESNET50,
  "densenet121": DENSENET[121],
  "mobilenet_v2": MOBILENET_V2,
  "efficientnet_b0": EFFICIENTNET[0],
}


def of_model(model, *shapes, dtype=jnp.float32):
  args = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
  return {layer.path: layer for layer in summarise(lambda *args: model.init(KEY, *args), *args)}


@functools.cache
def imagenet(name):
  side = 227 if name == "alexnet_two_towers" else 224  # the paper says 224, and means 227
  return of_model(IMAGENET[name].clone(num_classes=1000), (2, side, side, 3))


def total(layers, count):
  return sum(getattr(layer, count) for layer in layers.values())


def test_lenet5_equals_the_hand_counts_of_the_handbook():
  layers = of_model(LeNet5(num_classes=10), (3, 32, 32, 1))
  assert list(layers) == ["C1", "S2", "C3", "S4", "C5", "F6", "output"]
  connections = [layer.connections for layer in layers.values()]
  assert connections == [122_304, 5_880, 151_600, 2_000, 48_120, 10_164, 850]
  assert [layer.parameters for layer in layers.values()] == [156, 12, 1_516, 32, 48_120, 10_164, 850]
  assert [layer.receptive_field for layer in layers.values()] == [5, 6, 14, 16, 32, 32, 32]
  products = [5 * 5 * 6 * 28 * 28, 0, 5 * 5 * 60 * 10 * 10, 0, 400 * 120, 120 * 84, 84 * 10]
  assert [layer.multiply_adds for layer in layers.values()] == products
  assert (layers["C1"].input, layers["C1"].output) == ((32, 32, 1), (28, 28, 6))
  assert layers["F6"].output == (84,)


def test_poolings_without_parameters_are_rows():
  layers = of_model(LeNet5Modern(num_classes=10), (1, 32, 32, 3))
  assert list(layers) == ["C1", "max_pool", "C3", "max_pool_2", "C5", "F6", "output"]
  pool = layers["max_pool_2"]
  assert (pool.kind, pool.input, pool.output) == ("MaxPool", (10, 10, 16), (5, 5, 16))
  assert (pool.parameters, pool.multiply_adds, pool.connections, pool.receptive_field) == (0, 0, 0, 16)


@pytest.mark.parametrize(
  ("name", "parameters", "giga"),
  [  # multiply-adds: torchvision's documentation, at 224 pixels; Keras Applications for its ResNet-50
    ("alexnet", 61_100_840, 0.714),
    ("alexnet_two_towers", 60_965_224, None),
    ("vgg16", 138_357_544, 15.470),
    ("googlenet", 6_998_552, None),
    ("googlenet_torchvision", 6_624_904, 1.498),
    ("resnet18", 11_689_512, 1.814),
    ("resnet50", 25_557_032, 4.089),
    ("resnet50_keras", 25_583_592, 3.858),
    ("densenet121", 7_978_856, 2.834),
    ("mobilenet_v2", 3_504_872, 0.301),
    ("efficientnet_b0", 5_288_548, 0.386),
  ],
)
def test_parameters_and_multiply_adds_are_those_published(name, parameters, giga):
  layers = imagenet(name)
  assert total(layers, "parameters") == parameters
  assert giga is None or total(layers, "multiply_adds") / 1e9 == pytest.approx(giga, abs=6e-4)


@pytest.mark.parametrize(
  ("name", "layer", "products"),
  [
    ("alexnet_two_towers", "conv2", 5 * 5 * 48 * 256 * 27 * 27),  # each half sees 48 of 96 maps
    ("vgg16", "fc6", 7 * 7 * 512 * 4096),
    ("resnet50", "conv1", 7 * 7 * 3 * 64 * 112 * 112),
    ("resnet50", "conv3_1/project", 256 * 512 * 28 * 28),
    ("densenet121", "dense1_6/conv1", (64 + 5 * 32) * 128 * 56 * 56),
    ("mobilenet_v2", "stage1_1/depthwise", 3 * 3 * 32 * 112 * 112),
    ("efficientnet_b0", "stage2_1/squeeze", 96 * 4),
    ("googlenet", "inception_3a/5x5/conv", 5 * 5 * 16 * 32 * 28 * 28),
  ],
)
def test_multiply_adds_of_a_layer_equal_a_hand_count(name, layer, products):
  found = imagenet(name)[layer]
  assert found.multiply_adds == products
  bias = name in ("alexnet_two_towers", "vgg16", "efficientnet_b0", "googlenet")
  assert found.connections == products + bias * np.prod(found.output)


@pytest.mark.parametrize(
  ("name", "layer", "side"),
  [  # Araujo et al., 2019, Distill: AlexNet 195, VGG-16 212, ResNet-50 with the stride in 1x1 483
    ("alexnet", "conv5", 163),
    ("alexnet", "max_pool_3", 195),
    ("vgg16", "conv5_3", 196),
    ("vgg16", "max_pool_5", 212),
    ("vgg16", "fc6", 404),  # Long et al., 2015, table 2
    ("resnet50_keras", "conv5_3/conv3", 483),
    # by the recursion: 7, 11 after pooling, then 2 pixels times the step for every 3x3
    ("resnet50", "conv5_3/conv3", 11 + 3 * 8 + (8 + 3 * 16) + (16 + 5 * 32) + (32 + 2 * 64)),
    ("resnet18", "conv5_2/conv2", 11 + 4 * 8 + (8 + 3 * 16) + (16 + 3 * 32) + (32 + 3 * 64)),
    ("mobilenet_v2", "conv2", 3 + 4 + (4 + 8) + (8 + 2 * 16) + (16 + 3 * 32) + 3 * 32 + (32 + 2 * 64) + 64),
    ("googlenet", "inception_3a/3x3/conv", 27 + 16),
  ],
)
def test_receptive_fields_are_those_published(name, layer, side):
  assert imagenet(name)[layer].receptive_field == side


def test_squeeze_and_excite_sees_the_image_and_its_block_does_not():
  layers = imagenet("efficientnet_b0")
  assert layers["stage1_1/depthwise"].receptive_field == 3 + 2 * 2
  assert layers["stage1_1/excite"].receptive_field == 7 + 111 * 2
  assert layers["stage1_1/project"].receptive_field == 7


def test_layers_know_their_block():
  layer = imagenet("googlenet")["inception_3a/pool_proj/conv"]
  assert (layer.kind, layer.block, layer.output) == ("Conv", "Inception", (28, 28, 32))
  assert (layer.block_input, layer.block_output) == ((28, 28, 192), (28, 28, 256))


def test_a_perceptron_sees_the_whole_image_and_its_norm_uses_two_numbers_an_output():
  layers = of_model(MLP(hidden_dims=(7,), num_classes=3), (2, 8, 8, 1))
  assert {layer.receptive_field for layer in layers.values()} == {8}
  norm = layers["BatchNorm_0"]
  assert (norm.parameters, norm.multiply_adds, norm.connections) == (14, 0, 14)


@pytest.mark.parametrize("cell", ["optimized", "gru"])
def test_a_recurrent_layer_counts_once_a_time_step(cell):
  if cell == "optimized":
    model = LanguageModel(RecurrentStack(hidden_dim=5), embed_dim=4, vocab_size=6)
    carry, tokens, reset = model.initial_carry(2), jnp.zeros((2, 3), int), jnp.zeros(2)
    layers = {layer.path: layer for layer in summarise(model.init, KEY, carry, tokens, reset)}
    assert list(layers) == ["embed", "body/forward_0", "output"]
    lstm = layers["body/forward_0"]
    assert lstm.parameters == 4 * 5 * (4 + 5 + 1)
    assert (lstm.input, lstm.output) == ((3, 4), (3, 5))
    assert lstm.multiply_adds == 3 * 4 * 5 * (4 + 5)
    assert lstm.connections == 3 * lstm.parameters
    assert layers["embed"].connections == 3 * 4
  else:
    layers = of_model(nn.RNN(nn.GRUCell(5)), (2, 3, 4))
    assert total(layers, "multiply_adds") == 3 * 3 * 5 * (4 + 5)
    assert total(layers, "parameters") == 3 * 5 * (4 + 5 + 1) + 5


def test_both_ways_of_a_vae_are_one_network():
  model = MLPVAE(hidden_dim=5, latent_dim=2, image_shape=(4, 4, 1))
  image = jnp.zeros((3, 4, 4, 1))
  variables = model.init(KEY, image, KEY)

  def reconstruct(module, image):
    h = module.features(image)
    mean, _ = module.posterior_mean(h), module.posterior_log_var(h)
    return module.decode(mean)

  whole = summarise(model.init, KEY, image, KEY)
  parts = summarise(lambda: model.apply(variables, image, method=reconstruct))
  assert [layer[:-1] for layer in parts] == [layer[:-1] for layer in whole]
  assert sum(layer.multiply_adds for layer in whole) == 16 * 5 + 2 * 5 * 2 + 2 * 5 + 5 * 16
  assert {layer.network for layer in whole} == {""}


class Gates(nn.Module):
  """Weights that another module holds, shared, stacked and tied."""

  @nn.compact
  def __call__(self, tokens):
    embed = nn.Embed(7, 4, name="embed")
    x = embed(tokens) + self.param("position", nn.initializers.zeros, (3, 4))
    shared = nn.Dense(4, name="shared")
    x = nn.WeightNorm(nn.Dense(4, name="normed"))(shared(shared(x)))
    x, _ = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=5)(name="steps")(
      x, None
    )
    x = x + nn.MultiHeadDotProductAttention(2, name="attention")(x)
    return x @ embed.embedding.T


class Step(nn.Module):
  """A layer of a stack."""

  @nn.compact
  def __call__(self, x, _):
    return nn.Dense(4, name="dense")(x), None


def test_shared_tied_stacked_and_normed_weights_count_once_and_work_as_often_as_they_are_used():
  layers = of_model(Gates(), (2, 3), dtype=jnp.int32)
  params = jax.eval_shape(Gates().init, KEY, jnp.zeros((2, 3), int))["params"]
  assert total(layers, "parameters") == sum(leaf.size for leaf in jax.tree.leaves(params))
  dense = 3 * 4 * 4
  assert layers["shared"].multiply_adds == 2 * dense
  assert layers["normed"].multiply_adds == dense
  assert layers["steps/dense"].multiply_adds == 5 * dense
  assert layers["steps/dense"].parameters == 5 * (4 * 4 + 4)
  assert layers["attention/query"].multiply_adds == dense
  assert (layers["attention"].multiply_adds, layers["attention"].connections) == (2 * 3 * 3 * 4, 0)
  assert layers["embed"].multiply_adds == 0
  root = layers["Gates"]  # the position, and the product with the embedding
  assert (root.parameters, root.multiply_adds, root.connections) == (12, 3 * 4 * 7, 3 * 4 * 7 + 12)


class Branches(nn.Module):
  """Loops and branches."""

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", nn.initializers.ones, (3, 3))
    x = jax.lax.fori_loop(0, 4, lambda _, x: x @ kernel, x)
    x = jax.lax.while_loop(lambda x: x.sum() > 9, lambda x: x @ kernel, x)
    return jax.lax.cond(x.sum() > 0, lambda x: x @ kernel, jnp.sin, x)


def test_loops_of_known_length_count_every_pass():
  assert total(of_model(Branches(), (2, 3)), "multiply_adds") == (4 + 1 + 1) * 9


@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), (2, "SAME")])
def test_to_a_transposed_convolution_an_input_comes_once_a_kernel_element(stride, padding):
  model = ConvTranspose(5, (4, 4), (stride, stride), padding)
  (layer,) = of_model(model, (2, 3, 3, 2)).values()
  assert layer.multiply_adds == 3 * 3 * 4 * 4 * 2 * 5
  assert layer.connections == layer.multiply_adds + np.prod(layer.output)


@pytest.mark.parametrize("setting", [None, "0", "1"])
def test_the_convolutions_of_the_platform_are_left_as_they_were(monkeypatch, setting):
  monkeypatch.delenv("DLCOURSE_PLAIN_GRADIENTS", raising=False)
  if setting is not None:
    monkeypatch.setenv("DLCOURSE_PLAIN_GRADIENTS", setting)
  (layer,) = of_model(Conv(2, (5, 5)), (1, 8, 8, 1)).values()  # which a CPU would fold
  assert (layer.multiply_adds, layer.receptive_field) == (25 * 2 * 64, 5)
  assert os.environ.get("DLCOURSE_PLAIN_GRADIENTS") == setting


def test_an_error_of_the_model_comes_through():
  with pytest.raises(Exception, match="32x32"):
    of_model(LeNet5(num_classes=10), (3, 28, 28, 1))


@pytest.mark.data
@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", sorted(catalogue()))
def test_every_experiment_has_a_summary_of_all_its_parameters(name):
  experiment = load(name)
  spec = experiment.data.build().spec
  task = experiment.task.build(spec, experiment.steps)
  layers = task_summary(task, spec)
  state = jax.eval_shape(task.init, KEY, spec.batch)
  params = task.network.variables(state)["params"] if task.network else state.params  # what is frozen, too
  assert sum(layer.parameters for layer in layers) == sum(leaf.size for leaf in jax.tree.leaves(params))
  assert len({layer.path for layer in layers}) == len(layers)
  both = (*tree_paths(params), *tree_paths(state.params))  # layers are named as in the state of the task
  keys = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in both}
  owners = {layer.path for layer in layers if layer.parameters}
  root = type(task.network.model).__name__ if task.network else ""
  decodes_later = task.codes and task.generate  # so that the way to images has no part in training
  of_root = {root} if decodes_later or any("/" not in key for key in keys) else set()  # a bias of tied weights
  assert all(any(key.startswith(f"{owner}/") for key in keys) for owner in owners - of_root)


def tree_paths(tree):
  return jax.tree_util.tree_leaves_with_path(tree)
