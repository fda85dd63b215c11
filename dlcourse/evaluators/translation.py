"""What a classifier makes of shifted images: invariance, and the equivariance that convolution gives (H2.2).

H2.2 asks for invariance, a cat is a cat anywhere; a convolution's maps move with its image instead
(`dlcourse.theory.equivariance`), and pooling over the whole map turns that into invariance.
Shapes: B images, H and W their sides, C their channels; h and w sides of a feature map, K its channels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import chex
import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import check_classifier, predictions, task_of
from dlcourse.report.figures import new_figure

if TYPE_CHECKING:
  from matplotlib.figure import Figure

PyTree = Any


def moved(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
  """[B, H, W, C] moved down and to the right by less than its sides; what comes in from outside is 0."""
  height, width = images.shape[1:3]
  padded = np.pad(images, ((0, 0), (max(rows, 0), max(-rows, 0)), (max(columns, 0), max(-columns, 0)), (0, 0)))
  top, left = max(-rows, 0), max(-columns, 0)
  return padded[:, top : top + height, left : left + width]


class _Convolution(NamedTuple):
  """The first convolution of a network: path, and per axis the size of its field and its stride."""

  path: tuple[str, ...]
  field: tuple[int, int]
  strides: tuple[int, int]


def _first_convolution(model: nn.Module, variables: PyTree, images: jax.Array) -> _Convolution | None:
  """The first 2-D `nn.Conv` that sees the images at their full size."""
  found: list[_Convolution] = []

  def note(call, args, kwargs, context):
    module = context.module
    if context.method_name == "__call__" and isinstance(module, nn.Conv) and len(module.kernel_size) == 2:
      strides, gaps = (_pair(given) for given in (module.strides, module.kernel_dilation))
      field = tuple((size - 1) * gap + 1 for size, gap in zip(module.kernel_size, gaps, strict=True))
      if (*args, *kwargs.values())[0].shape[1:3] == images.shape[1:3]:
        found.append(_Convolution(module.path, field, strides))
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(lambda variables, images: model.apply(variables, images, train=False), variables, images)
  return found[0] if found else None


def _pair(given: int | Sequence[int] | None) -> tuple[int, int]:
  """A setting of `nn.Conv`, per axis."""
  return tuple(given) if isinstance(given, Sequence) else (given or 1,) * 2


def equivariance_error(model: nn.Module, variables: PyTree, images: jax.Array, shift: int = 1) -> float | None:
  """How far maps of shifted images are from shifted maps, in the first convolution: 0 up to rounding (H2.2).

  conv(shift(x)) == shift(conv(x)) holds exactly where no field reaches over the frame of the image, so that
  only such positions are compared. The images move by `shift` strides, down and to the right.

  Args:
    model: called as `model.apply(variables, images, train=False)`.
    variables: of the model.
    images: [B, H, W, C], in model space.
    shift: pixels of the map.

  Returns:
    The norm of the difference as a share of that of the maps; None where the network has no convolution on the
    image, or one whose maps have no such positions.
  """
  chex.assert_rank(images, 4)
  convolution = _first_convolution(model, variables, images)
  if convolution is None:
    return None

  apply = jax.jit(functools.partial(_maps_of, model, convolution.path))
  rows, columns = (shift * stride for stride in convolution.strides)
  maps, of_moved = (
    np.asarray(apply(variables, x), np.float64) for x in (images, moved(np.asarray(images), rows, columns))
  )
  inside, before = [], []  # places of the map, per axis, and where they were
  for size, stride, side in zip(convolution.field, convolution.strides, maps.shape[1:3], strict=True):
    margin = -(-(size - 1) // stride)
    if margin + shift >= side - margin:
      return None
    inside.append(slice(margin + shift, side - margin))
    before.append(slice(margin, side - margin - shift))
  expected, found = maps[:, *before], of_moved[:, *inside]
  return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), np.finfo(np.float32).tiny))


def _maps_of(model: nn.Module, path: tuple[str, ...], variables: PyTree, images: jax.Array) -> jax.Array:
  """What the first call of the module at this path gives, [B, h, w, K]."""
  _, kept = model.apply(
    variables,
    images,
    train=False,
    capture_intermediates=lambda module, method: module.path == path and method == "__call__",
    mutable=["intermediates"],
  )
  return flatten_dict(kept["intermediates"])[*path, "__call__"][0]


@dataclasses.dataclass(frozen=True)
class Translation(Evaluator):
  """Accuracy on test images that are shifted, in image space, along either axis (H2.2).

  A shift loses what it moves out of the frame: on images with an empty margin of `pixels` it loses nothing.
  """

  pixels: int = 6
  """Largest shift, in both directions of both axes."""

  def __post_init__(self) -> None:
    """Refuses to shift nothing."""
    check_at_least(1, {"evaluators….pixels": self.pixels})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars of the largest shifts; a table and a figure "translation" of every shift.

    `accuracy_shifted` and `agreement` are means over the four shifts by `pixels`: the share of images whose
    class is right, and of those whose class is that of the image in its place. `equivariance_error`, see there,
    is given where the task has a network that begins with a convolution.

    Raises:
      UserError: the task is no classifier of images, or nothing would be left of them.
    """
    check_classifier(task, state, data, key, "Translation")
    batch = next(iter(data.eval_batches("test")))
    height, width = batch["image"].shape[1:3]
    if self.pixels >= min(height, width):
      raise UserError(
        f"--evaluators….pixels={self.pixels} leaves nothing of an image of {height}x{width}; lower it"
      )
    shifts = range(-self.pixels, self.pixels + 1)
    probabilities, labels, _ = predictions(task, state, data, key)
    unmoved = probabilities.argmax(axis=-1)
    rows = []
    for down, right in [(0, shift) for shift in shifts] + [(shift, 0) for shift in shifts if shift]:
      guessed = _guessed_where_moved(task, state, data, key, down, right)
      accuracy, agreement = float(np.mean(guessed == labels)), float(np.mean(guessed == unmoved))
      rows.append({"down": down, "right": right, "accuracy": accuracy, "agreement": agreement})
    far = [row for row in rows if self.pixels in (abs(row["down"]), abs(row["right"]))]
    scalars = {
      "accuracy_shifted": float(np.mean([row["accuracy"] for row in far])),
      "agreement": float(np.mean([row["agreement"] for row in far])),
    }
    network = task_of(task).network
    if network is not None:
      images = data.spec.prepare(None, batch)["image"]
      error = equivariance_error(network.model, network.variables(state), images)
      scalars |= {} if error is None else {"equivariance_error": error}
    return Report(scalars, {"translation": rows}, {"translation": _curves(rows, len(data.spec.classes))})


def _guessed_where_moved(task, state, data: Data, key: jax.Array, down: int, right: int) -> np.ndarray:
  """The classes [N] that the images of the test split get where they are shifted."""

  def shifted(split):
    return ({**batch, "image": moved(batch["image"], down, right)} for batch in data.eval_batches(split))

  return predictions(task, state, data._replace(eval_batches=shifted), key)[0].argmax(axis=-1)


def _curves(rows: Sequence[Mapping[str, float]], classes: int) -> Figure:
  """Accuracy by shift, a line an axis, and what guessing would give."""
  figure = new_figure(5.2, 3.6)
  axes = figure.subplots()
  for along, across, style in (("right", "down", "o-"), ("down", "right", "s--")):
    points = sorted((row[along], row["accuracy"]) for row in rows if not row[across])
    axes.plot(*zip(*points, strict=True), style, label=along, markersize=3)
  axes.axhline(1 / classes, color="0.5", linestyle=":", linewidth=1, label="guessing")
  axes.set(xlabel="shift, pixels", ylabel="test accuracy", ylim=(0, 1.02))
  axes.grid(alpha=0.3)
  axes.legend(frameon=False)
  return figure
