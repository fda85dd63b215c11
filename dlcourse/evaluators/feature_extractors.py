"""Networks by whose features generated images are scored (H4.8.2), and how an image becomes one of theirs.

Shapes: B images of H x W pixels, C channels; F features; K classes.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.data.scaling import LUMA
from dlcourse.data.single_images import Fit
from dlcourse.errors import UserError, unknown
from dlcourse.exported import open_exported
from dlcourse.interop.fill import fill
from dlcourse.interop.torch_names import torch_naming
from dlcourse.interop.weights import read_weights
from dlcourse.models.inception import SIDE, InceptionV3, inception_input

CHUNK = 64  # images in one call

# In `extractors/`: LeNet-5 of today with 84 features, as `dlcourse export` wrote it after
#   digits: dlcourse train cnn.lenet5_modern --steps=6000 --eval_every=1000
#     98.90 % of 1,000 test images of mnist_5k, 0.7 min on a busy core
#   fashion: dlcourse train cnn.lenet5_modern --data.source=idx:FOLDER --data.batch_size=128 --steps=8000
#     --eval_every=2000; 91.02 % of 10,000 test images of Fashion-MNIST, 5.4 min on a shared core
SHIPPED = ("digits", "fashion")
_KINDS = ("classifier:FILE", "inception:FILE")


class Extractor(NamedTuple):
  """A network as an observer of images.

  Attributes:
    name: part of the name of every score.
    classes: of its answers, where they have names.
    look: uint8 [B, H, W, C] -> (features [B, F], probabilities [B, K]), any B; compiled once a shape of images.
  """

  name: str
  classes: tuple[str, ...]
  look: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@functools.lru_cache(maxsize=2)
def open_extractor(which: str) -> Extractor:
  """An extractor by its name; the same one is opened once.

  digits, fashion: small classifiers that ship with this package. classifier:FILE: a classifier of images as
  `dlcourse export` writes it. The features of these are what the last dense layer reads. Images of another size
  become as the classifier's own did: where those were padded with 0, so are smaller ones; others are resized
  (bilinear, antialiased, each axis by itself). Colour becomes luma, and grey three equal channels.

  inception:FILE: the network of published scores, with TensorFlow's weights of 2015 in the layout that
  torch-fidelity and pytorch-fid load (pt_inception-2015-12-05-6726825d.pth); 2,048 features, images resized as
  `inception_input` says. Its probabilities leave out the bias of the output, as those of published scores do.

  Args:
    which: one of these.

  Raises:
    UserError: no such extractor, or its file is of something else.
  """
  kind, _, file = which.partition(":")
  if which in SHIPPED:
    return _of_classifier(which, Path(__file__).parent / "extractors" / f"{which}.safetensors")
  if kind == "classifier" and file:
    return _of_classifier(Path(file).stem, Path(file))
  if kind == "inception" and file:
    return _of_inception(Path(file))
  raise unknown("extractor", which, (*SHIPPED, *_KINDS))


def _of_classifier(name: str, path: Path) -> Extractor:
  exported = open_exported(path)
  shape, fit = exported.facts.image_shape, exported.facts.fit or "resize"

  def look(variables, images):
    batch = {"image": fitted(images.astype(jnp.float32), shape, fit)}
    features, logits = _before_last_dense(
      exported.model, variables, exported.spec.prepare(None, batch)["image"]
    )
    return features, jax.nn.softmax(logits)

  example = jax.ShapeDtypeStruct((1, *shape), np.uint8)
  _, probabilities = jax.eval_shape(look, exported.variables, example)
  if probabilities.shape != (1, len(exported.facts.classes)):
    raise UserError(f"{path} says something else of an image than its class")
  return Extractor(name, exported.facts.classes, _in_chunks(look, exported.variables))


def _of_inception(path: Path) -> Extractor:
  model = InceptionV3(num_classes=1_008)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
  variables = fill(shapes, read_weights(path), torch_naming("inception_v3", shapes), source=str(path))

  def look(variables, images):
    features, logits = _before_last_dense(model, variables, inception_input(images))
    return features, jax.nn.softmax(logits - variables["params"]["output"]["bias"])

  return Extractor("inception", (), _in_chunks(look, variables))


def _before_last_dense(model: nn.Module, variables: dict, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(What the last dense layer reads [B, F], the logits [B, K])."""
  read = []

  def note(call, args, kwargs, context):
    if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
      read.append(args[0])
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    logits = model.apply(variables, x, train=False)
  if not read or read[-1].ndim != 2:
    raise UserError(f"{type(model).__name__} ends in no dense layer, whose inputs would be its features")
  return read[-1], logits


def _in_chunks(look: Callable, variables: dict) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """Compiles for `CHUNK` images; the last ones of a call are joined by black ones, which are then left out."""
  compiled = jax.jit(look)

  def of_all(images):
    parts = []
    for start in range(0, len(images), CHUNK):
      part = images[start : start + CHUNK]
      whole = np.pad(part, ((0, CHUNK - len(part)), (0, 0), (0, 0), (0, 0)))
      parts.append([np.asarray(out)[: len(part)] for out in compiled(variables, whole)])
    features, probabilities = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(probabilities)

  return of_all


def fitted(images: jax.Array, shape: tuple[int, int, int], fit: Fit) -> jax.Array:
  """Images in the size and the channels of an extractor, see `open_extractor`.

  Args:
    images: [B, H, W, C'] float, C' 1 or 3.
    shape: (S, S, C), C 1 or 3.
    fit: how smaller ones get there, see `single_images.fit_of`.

  Returns:
    [B, S, S, C].

  Raises:
    UserError: the images, or those of the extractor, are neither grey nor in colour.
  """
  side, _, channels = shape
  height, width = images.shape[1:3]
  if images.shape[-1] != channels:
    if {images.shape[-1], channels} != {1, 3}:
      raise UserError(f"an extractor of {channels} channel(s) cannot look at images of {images.shape[-1]}")
    if channels == 1:
      images = (images @ jnp.array(LUMA))[..., None]
    else:
      images = jnp.broadcast_to(images, (*images.shape[:3], 3))
  if fit == "pad" and max(height, width) <= side:
    top, left = (side - height) // 2, (side - width) // 2
    return jnp.pad(images, ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0)))
  return jax.image.resize(images, (len(images), *shape), "bilinear")
