"""Claims of section 9 of chapter 2: transfer, the table of architectures, residual connections, the snippet."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.handbook.claim import Claim, Finding
from dlcourse.handbook.measuring import gap, parameters, published, recorded, rows_by, study_source
from dlcourse.models.alexnet import ALEXNET
from dlcourse.models.batch_norm import BatchNorm
from dlcourse.models.densenet import DENSENET
from dlcourse.models.efficientnet import EFFICIENTNET
from dlcourse.models.googlenet import GOOGLENET
from dlcourse.models.lenet import LeNet5
from dlcourse.models.mobilenet_v2 import MOBILENET_V2
from dlcourse.models.resnet import RESNET
from dlcourse.models.vgg import VGG
from dlcourse.report.figures import line_figure
from dlcourse.theory import counts, geometry

ABOUT = 0.025  # how far a count may be from a rounded one that is marked as such
# Table 1 of the GoogLeNet paper, its column of parameters, in thousands.
_GOOGLENET_ROWS = (2.7, 112, 159, 380, 364, 437, 463, 580, 840, 1072, 1388, 1000)


@functools.cache
def _of_imagenet(name: str) -> int:
  if name == "LeNet-5":
    return parameters(LeNet5(num_classes=10), 1, 32, 32, 1)
  model, side = {
    "AlexNet": (ALEXNET["two_towers"], 227),  # the paper says 224, and means 227
    "VGG-16": (VGG[16], 224),
    "GoogLeNet": (GOOGLENET["paper"], 224),
    "ResNet-50": (RESNET[50], 224),
    "DenseNet-121": (DENSENET[121], 224),
    "MobileNetV2": (MOBILENET_V2, 224),
    "EfficientNet-B0": (EFFICIENTNET[0], 224),
  }[name]
  return parameters(model.clone(num_classes=1000), 1, side, side, 3)


def _count(name: str, printed: float) -> Finding:
  found = _of_imagenet(name)
  value = f"{found:,}, {abs(found / printed - 1):.1%} from it"
  if name == "GoogLeNet":
    value += f"; the rows of the paper's table 1 sum to {sum(_GOOGLENET_ROWS) / 1000:.2f} M"
  holds = abs(found - printed) <= ABOUT * printed
  return Finding(value, holds, f"models, by shapes; equal to the reference by test; ~ is read as {ABOUT:.1%}")


def _vgg_kernels() -> Finding:
  model = VGG[16].clone(num_classes=1000)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
  kernels = [leaf.shape for leaf in jax.tree.leaves(shapes["params"]) if leaf.ndim > 1]
  spatial = [shape[:2] for shape in kernels if len(shape) == 4]
  field = geometry.receptive_field([(3, 1)] * 3)[-1].size
  three, one = 3 * counts.convolution_parameters((3, 3, 64, 64)), counts.convolution_parameters((7, 7, 64, 64))
  value = (
    f"{len(kernels)} weight layers, {len(spatial)} of them 3 x 3; three see {field} pixels with {three:,} "
  )
  value += f"parameters (64 maps), one 7 x 7 with {one:,}"
  return Finding(
    value, set(spatial) == {(3, 3)} and len(kernels) == 16 and field == 7, "models.vgg; theory.counts"
  )


def _dense_connections() -> Finding:
  model = DENSENET[121].clone(num_classes=1000)
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  seen = {name: params[name]["conv1"]["kernel"].shape[2] for name in ("dense1_6", "dense2_1", "dense2_12")}
  all_before = 64 + 6 * 32 + 11 * 32
  value = (
    f"inputs of the 6th layer: {seen['dense1_6']} = 64 + 5 · 32, all before it; of the 12th layer of the next "
  )
  value += f"block {seen['dense2_12']}, where all before it are {all_before}"
  return Finding(
    value, seen["dense2_12"] == all_before, "models.densenet, by shapes; Huang et al., 2017, figure 2"
  )


def _degradation() -> Finding:
  loss, _, summary = recorded("cnn.resnet_degradation")
  plain, residual = (rows_by(loss)[name] for name in ("plain", "residual"))
  lines = {name: {float(d): [row[d]] for d in ("8", "20", "56")} for name, row in rows_by(loss).items()}
  value = f"training loss at 8, 20, 56 layers: plain {plain['8']}, {plain['20']}, {plain['56']}; "
  value += f"residual {residual['8']}, {residual['20']}, {residual['56']}"
  holds = plain["8"] < plain["20"] < plain["56"] and residual["56"] <= min(residual["8"], residual["20"])
  source = study_source("cnn.resnet_degradation", summary[-1])
  return Finding(value, holds, source, line_figure(lines, "layers", "training loss"))


def _shortcuts() -> Finding:
  """The gradient at the input of 50 tanh layers, over that at their output, with and without shortcuts."""
  rng = np.random.default_rng(0)
  weights = jnp.asarray(rng.normal(size=(50, 64, 64)) * 0.5 / 8)
  x = jnp.asarray(rng.normal(size=64))

  def norm(shortcut):
    def loss(x):
      for weight in weights:
        x = shortcut * x + jnp.tanh(weight @ x)
      return x.sum()

    return float(jnp.linalg.norm(jax.grad(loss)(x)) / 8)

  plain, residual = norm(0.0), norm(1.0)
  value = f"over 50 layers a gradient of length 1 becomes {plain:.1e}, with shortcuts {residual:.2f}"
  return Finding(
    value, plain < 1e-6 and residual > 0.1, "jax.grad of dense tanh layers, weights of half unit gain"
  )


def _depths() -> Finding:
  weight_layers = {depth: _weight_layers(model) for depth, model in RESNET.items()}
  named = set(weight_layers.values())
  return Finding(
    f"weight layers: {sorted(named)}", {50, 100, 152} <= named, "models.resnet; He et al., 2016, table 1"
  )


def _weight_layers(model: nn.Module) -> int:
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  params = jax.eval_shape(model.clone(num_classes=1000).init, jax.random.key(0), image)["params"]
  paths = [
    jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(params) if leaf.ndim > 1
  ]
  return sum("shortcut" not in path and "project" not in path for path in paths)


def _frozen_norms() -> Finding:
  """A batch norm that is trained takes statistics of its batch: an answer to one image hangs on the others."""
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(2.0, 3.0, (8, 4, 4, 3)), jnp.float32)
  variables = BatchNorm(train=False).init(jax.random.key(0), images)
  frozen = [BatchNorm(train=False).apply(variables, images[:n])[0] for n in (8, 4)]
  trained, moved = [], 0.0
  for n in (8, 4):
    y, changed = BatchNorm(train=True).apply(variables, images[:n], mutable=["batch_stats"])
    trained.append(y[0])
    moved = gap(changed["batch_stats"]["mean"], 0)
  last = 2 * (512 + 512 + 2048)  # of the blocks 5.2 and 5.3, ten layers of Keras each
  value = (
    f"the last 20 layers of Keras's ResNet-50 hold 6 batch norms ({last:,} running means); unfrozen, the same "
  )
  value += f"image in a batch of 8 or of 4 differs by {gap(*trained):.2f} (frozen {gap(*frozen):g}), "
  value += f"and one batch moves the means by {moved:.2f}"
  source = "models.batch_norm; Keras guide 'Transfer learning & fine-tuning'; the layers of keras.applications"
  return Finding(value, gap(*trained) == 0 and last == 0, source)


def _preprocessing() -> Finding:
  pixels = np.arange(256.0)
  means = (103.939, 116.779, 123.68)  # blue, green, red
  value = f"raw pixels have mean {pixels.mean():.1f}, what the weights were trained on "
  value += ", ".join(f"{pixels.mean() - mean:.1f}" for mean in means) + " with channels in the order BGR"
  return Finding(
    value, all(mean == 0 for mean in means), "keras.applications.resnet.preprocess_input, mode caffe"
  )


def _names(
  name: str, year: int, accuracy: str, value: str, source: str, holds: bool | None, right: str = ""
) -> Claim:
  key = f"accuracy_{name.lower().replace('-', '_')}"
  verdict = "corrected" if holds is False else "needs hardware"
  says = f"{name} ({year}) reaches {accuracy} top-1 on ImageNet."
  return Claim(key, "2.9.3", says, published(value, holds, source), verdict, right)


def _size(name: str, printed: float, text: str, right: str = "") -> Claim:
  key = f"size_{name.lower().replace('-', '_')}"
  verdict = "corrected" if right else "confirmed"
  return Claim(key, "2.9.3", f"{name} has {text} parameters.", lambda: _count(name, printed), verdict, right)


CLAIMS = (
  _size("LeNet-5", 60e3, "~60K"),
  _size("AlexNet", 60e6, "~60M"),
  _names(
    "AlexNet",
    2012,
    "63.3 %",
    "one network 59.3 %; 63.3 % is the average of seven, two of them trained on more data",
    "Krizhevsky et al., 2012, table 2 (errors 40.7 % and 36.7 %)",
    False,
    "An ensemble of seven has it; the network by itself has 59.3 %.",
  ),
  Claim(
    "alexnet_firsts",
    "2.9.3",
    "AlexNet introduced ReLU, dropout and training on GPUs.",
    published(
      "rectified units: Nair & Hinton, 2010; dropout: Hinton et al., July 2012; CNNs trained on GPUs: Cireşan "
      "et al., 2011; the AlexNet paper cites the first two itself",
      False,
      "Krizhevsky et al., 2012, sections 3.1 and 4.2; Cireşan et al., 2011, IJCAI",
    ),
    "corrected",
    "It brought them together on ImageNet; each is older.",
  ),
  _size("VGG-16", 138e6, "~138M"),
  _names(
    "VGG-16",
    2014,
    "74.4 %",
    "published 74.4 % (error 25.6 %, one scale, trained at several)",
    "Simonyan & Zisserman, 2015, table 3, D",
    None,
  ),
  Claim("vgg_kernels", "2.9.3", "VGG-16 stacks 3 x 3 filters.", _vgg_kernels, "confirmed"),
  _size(
    "GoogLeNet",
    6.8e6,
    "~6.8M",
    "6,998,552; 6.8 M is the sum of the paper's table, whose rows are not those of its own architecture "
    "(7·7·3·64 = 9,408 stand there as 2.7K).",
  ),
  _names(
    "GoogLeNet",
    2014,
    "74.8 %",
    "74.8 % is the Inception network with batch normalization (BN-x30); Inception without it has 72.2 % there",
    "Ioffe & Szegedy, 2015, figure 3",
    False,
    "That is the batch-normalised Inception of 2015; torchvision's GoogLeNet has 69.8 %.",
  ),
  _size("ResNet-50", 25e6, "~25M"),
  _names(
    "ResNet-50",
    2015,
    "76.1 %",
    "torchvision's first weights 76.13 % (one crop); the paper 77.15 % (ten crops)",
    "torchvision, ResNet50_Weights.IMAGENET1K_V1; He et al., 2016, table 3",
    None,
  ),
  _size("DenseNet-121", 8e6, "~8M"),
  _names(
    "DenseNet-121",
    2016,
    "74.9 %",
    "published 74.98 % (error 25.02 %, one crop)",
    "Huang et al., 2017, table 3",
    None,
  ),
  Claim(
    "dense_connections",
    "2.9.3",
    "DenseNet-121 has dense connections between all layers.",
    _dense_connections,
    "corrected",
    "Between all layers of a block; a transition of half as many maps separates blocks.",
  ),
  _size(
    "MobileNetV2",
    3.4e6,
    "~3.4M",
    "3,504,872, as Keras and torchvision count; 3.4 M is what the paper's table 4 prints.",
  ),
  _names("MobileNetV2", 2018, "72.0 %", "published 72.0 %", "Sandler et al., 2018, table 4", None),
  _size("EfficientNet-B0", 5.3e6, "~5.3M"),
  _names(
    "EfficientNet-B0", 2019, "77.1 %", "published 77.1 %", "Tan & Le, 2019, arXiv:1905.11946v5, table 2", None
  ),
  Claim(
    "degradation",
    "2.9.4",
    "Plain networks get worse with depth, without overfitting; residual connections solve this.",
    _degradation,
    "corrected",
    "They lessen it: in 600 steps 56 layers cost 0.25 over 20, plain ones 0.67. The paper, at 64,000 steps, "
    "has 7.0 % errors with 56 layers and 8.8 % with 20 (He et al., 2016, table 6).",
  ),
  Claim("shortcuts", "2.9.4", "Through shortcuts gradients do not vanish.", _shortcuts, "confirmed"),
  Claim(
    "resnet_depths",
    "2.9.4",
    "Residual networks of 50, 100 or 152 layers can be trained.",
    _depths,
    "corrected",
    "The published ones have 18, 34, 50, 101 and 152 (and 1,202 for small images): there is none of 100.",
  ),
  Claim(
    "keras_norms",
    "2.9.5",
    "For fine-tuning the snippet unfreezes the last 20 layers of ResNet-50.",
    _frozen_norms,
    "corrected",
    "Batch norms among them have to stay in inference mode, or a small data set spoils their statistics.",
  ),
  Claim(
    "keras_preprocessing",
    "2.9.5",
    "The snippet passes images of 224 x 224 x 3 to pretrained weights as they are.",
    _preprocessing,
    "corrected",
    "`preprocess_input` belongs before the network. (The snippet also uses `tf`, which it never imports.)",
  ),
)
