"""What a drawing shows, and that no label covers another or leaves the page."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dlcourse.models.dcgan import Discriminator, Generator
from dlcourse.models.densenet import DENSENET
from dlcourse.models.googlenet import GOOGLENET
from dlcourse.models.lenet import LeNet5
from dlcourse.models.mlp import MLP
from dlcourse.models.mobilenet_v2 import MOBILENET_V2
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.resnet import RESNET
from dlcourse.models.sequence import LanguageModel
from dlcourse.models.summary import summarise
from dlcourse.models.trace import Layer
from dlcourse.models.vae import MLPVAE
from dlcourse.report.drawing import CAPTION, architecture

KEY = jax.random.key(0)


def image(side, channels):
  return jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)


def gan():
  networks = {
    "generator": (Generator(image_shape=(32, 32, 1)), jnp.zeros((2, 100))),
    "discriminator": (Discriminator(), jnp.zeros((2, 32, 32, 1))),
  }
  return summarise(lambda: {name: model.init(KEY, x) for name, (model, x) in networks.items()})


def lstm():
  model = LanguageModel(RecurrentStack(num_layers=2), vocab_size=80)
  return summarise(model.init, KEY, model.initial_carry(2), jnp.zeros((2, 128), int), jnp.zeros(2))


def vae():
  return summarise(MLPVAE(image_shape=(28, 28, 1)).init, KEY, image(28, 1), KEY)


def classifier(model, side, channels=3):
  return lambda: summarise(model.clone(num_classes=10).init, KEY, image(side, channels))


def long_names():
  shapes = ((16, 64),) * 4
  names = [f"transformer_encoder_{i}/$attention$_with_a_very_long_name" for i in range(9)]
  return [
    Layer("", name, "MultiHeadDotProductAttention", "Block", *shapes, 10**9, 1, 1, None) for name in names
  ]


MODELS = {
  "lenet5": classifier(LeNet5(), 32, 1),
  "mlp": classifier(MLP(), 28, 1),
  "resnet50": classifier(RESNET[50], 224),
  "resnet152": classifier(RESNET[152], 224),
  "googlenet": classifier(GOOGLENET["paper"], 224),
  "densenet121": classifier(DENSENET[121], 224),
  "mobilenet_v2": classifier(MOBILENET_V2, 224),
  "vae": vae,
  "gan": gan,
  "lstm": lstm,
  "long_names": long_names,
}


def texts(figure):
  return [text for text in figure.axes[0].texts if text.get_text()]


@pytest.mark.parametrize("name", MODELS)
def test_labels_neither_overlap_nor_leave_the_page(name):
  figure = architecture(MODELS[name]())
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts(figure)]
  page = figure.bbox
  for box in boxes:
    assert box.x0 >= page.x0
    assert box.x1 <= page.x1
    assert box.y0 >= page.y0
    assert box.y1 <= page.y1
  assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
  shapes = [patch.get_window_extent() for patch in figure.axes[0].patches]
  assert not any(box.shrunk(0.9, 0.9).overlaps(shape) for box in boxes for shape in shapes)
  assert figure.get_figwidth() < 12


def labels(name):
  return [text.get_text() for text in texts(architecture(MODELS[name]()))]


def test_every_layer_of_lenet5_has_a_box_with_name_shape_and_parameters():
  assert labels("lenet5") == [
    "input\n32 × 32 × 1",
    "C1\n28 × 28 × 6\n156",
    "S2\n14 × 14 × 6\n12",
    "C3\n10 × 10 × 16\n1,516",
    "S4\n5 × 5 × 16\n32",
    "C5\n1 × 1 × 120\n48,120",
    "F6\n84\n10,164",
    "output\n10\n850",
    "convolution",
    "pooling",
    "dense",
    CAPTION,
  ]


def test_a_norm_is_a_part_of_the_layer_before_it():
  assert "Dense_0\n256\n201,216" in labels("mlp")  # 784 * 256 + 2 * 256


def test_a_deep_network_is_drawn_by_stages():
  found = labels("resnet50")
  assert "conv4\nBottleneck × 6\n14 × 14 × 1024\n7,098,368" in found
  assert "block of layers" in found
  assert len(found) < 16


def test_each_network_has_rows_under_its_name():
  found = labels("gan")
  assert [text for text in found if text in ("generator", "discriminator")] == ["generator", "discriminator"]
  assert found.count("input\n32 × 32 × 1") == 1


def test_layers_that_take_the_same_input_stand_above_each_other():
  places = {text.get_text().split("\n")[0]: text.get_position() for text in texts(architecture(vae()))}
  mean, log_var, decoder = (places[n] for n in ("posterior_mean", "posterior_log_var", "decoder_hidden"))
  assert mean[0] == log_var[0] < decoder[0]
  assert mean[1] > log_var[1]


def test_without_a_network_the_page_is_empty():
  assert [text.get_text() for text in texts(architecture([]))] == [CAPTION]
