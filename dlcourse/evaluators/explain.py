"""Why a network gave its answer: Grad-CAM, integrated gradients, and whether they name the pixels that count.

A network is a black box to its user (H1.3.2, H1.8); these look at what its answer depends on.
Shapes: B images, H and W their sides, C their channels; h and w sides of a feature map, K its channels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.data.batches import unbatched
from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least, unknown
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.classification import check_classifier, task_of
from dlcourse.report.figures import new_figure, shortened

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

PyTree = Any

GRAD_CAM, INTEGRATED = "Grad-CAM", "integrated gradients"
DELETIONS = 16  # steps in which the pixels of an image are removed
COLUMNS = 8  # images beside each other


def feature_maps(model: nn.Module, variables: PyTree, images: jax.Array) -> dict[str, jax.ShapeDtypeStruct]:
  """The maps [B, h, w, K] of more than one pixel that a network computes, by shape alone.

  Args:
    model: called as `model.apply(variables, images, train=False)`.
    variables: of the model.
    images: [B, H, W, C], or their shape.

  Returns:
    Path of the module that gives them -> shape, in the order in which they are computed; where a module is
    called again, its second call is "path#2".
  """
  maps = {}

  def note(name, module, out):
    if out.ndim == 4 and out.shape[1] * out.shape[2] > 1:
      maps[name] = jax.ShapeDtypeStruct(out.shape, out.dtype)
    return out

  with nn.intercept_methods(_visiting(note)):
    jax.eval_shape(lambda variables, images: model.apply(variables, images, train=False), variables, images)
  return maps


def _visiting(visit: Callable[[str, nn.Module, jax.Array], jax.Array]) -> Callable:
  """An interceptor: (name, module, what its call gives) -> what goes on in its place."""
  calls = Counter()

  def intercept(call, args, kwargs, context):
    out, module = call(*args, **kwargs), context.module
    if context.method_name != "__call__" or module.scope is None or not isinstance(out, jax.Array):
      return out
    path = "/".join(module.path)
    calls[path] += 1
    return visit(path if calls[path] == 1 else f"{path}#{calls[path]}", module, out)

  return intercept


def grad_cam(
  model: nn.Module, variables: PyTree, images: jax.Array, labels: jax.Array, layer: str | None = None
) -> jax.Array:
  """Where in a feature map the evidence for a class lies (Selvaraju et al., 2017, equations 1 and 2).

  Every channel weighs as much as the class's logit grows with it, on average over the map; negative sums are 0.

  Args:
    model: called as `model.apply(variables, images, train=False)`, gives logits.
    variables: of the model.
    images: [B, H, W, C], in model space.
    labels: [B] int, the class to explain.
    layer: a name of `feature_maps`; None: the last.

  Returns:
    [B, h, w] in [0, 1]: the largest number of each image is 1, unless nothing speaks for the class.

  Raises:
    UserError: the network has no such maps.
  """
  chex.assert_rank((images, labels), (4, 1))
  maps = feature_maps(model, variables, images)
  if not maps:
    raise UserError("no layer of this network gives feature maps, which Grad-CAM needs")
  layer = list(maps)[-1] if layer is None else layer
  if layer not in maps:
    raise unknown("layer", layer, maps)

  def class_logits(added):
    def add(name, module, out):
      if name != layer:
        return out
      module.sow("grad_cam", "maps", out)
      return out + added

    with nn.intercept_methods(_visiting(add)):
      logits, sown = model.apply(variables, images, train=False, mutable=["grad_cam"])
    return _of_class(logits, labels).sum(), jax.tree.leaves(sown)[0]

  added = jnp.zeros(maps[layer].shape, maps[layer].dtype)
  gradient, activations = jax.grad(class_logits, has_aux=True)(added)
  weights = gradient.mean(axis=(1, 2), keepdims=True)  # [B, 1, 1, K]
  heat = nn.relu((weights * activations).sum(axis=-1))  # [B, h, w]
  largest = heat.max(axis=(1, 2), keepdims=True)
  return heat / jnp.where(largest > 0, largest, 1)


def integrated_gradients(
  model: nn.Module,
  variables: PyTree,
  images: jax.Array,
  labels: jax.Array,
  steps: int = 64,
  baseline: jax.Array | float = 0.0,
) -> jax.Array:
  """What each number of an image adds to the logit of a class (Sundararajan et al., 2017, equation 1).

  The gradient is averaged along the straight line from the baseline to the image (midpoint rule), so that the
  attributions of an image sum up to logit(image) - logit(baseline).

  Args:
    model: called as `model.apply(variables, images, train=False)`, gives logits.
    variables: of the model.
    images: [B, H, W, C], in model space.
    labels: [B] int, the class to explain.
    steps: points on the line; memory does not grow with them.
    baseline: an image without content, in model space: [B, H, W, C] or what broadcasts to it.

  Returns:
    [B, H, W, C], in units of the logit.
  """
  chex.assert_rank((images, labels), (4, 1))
  difference = images - baseline

  def class_logits(images):
    return _of_class(model.apply(variables, images, train=False), labels).sum()

  def add(total, share):
    return total + jax.grad(class_logits)(baseline + share * difference), None

  shares = (jnp.arange(steps, dtype=images.dtype) + 0.5) / steps
  total, _ = jax.lax.scan(add, jnp.zeros_like(images), shares)
  return difference * total / steps


def _of_class(values: jax.Array, labels: jax.Array) -> jax.Array:
  """[B, classes], [B] -> [B]."""
  return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]


def deletion(
  probability: Callable[[jax.Array], jax.Array],
  images: jax.Array,
  importance: jax.Array,
  baseline: jax.Array | float = 0.0,
  steps: int = DELETIONS,
) -> jax.Array:
  """How likely a class stays while its pixels are removed, the most important first (Petsiuk et al., 2018).

  The area under probability over share removed: the lower it is, the better the order. Only a comparison with
  another order of the same pixels says something. Of equally important pixels the upper left goes first.

  Args:
    probability: images [B, H, W, C] -> [B], of the class that is explained.
    images: [B, H, W, C], in model space.
    importance: [B, H, W].
    baseline: what a removed pixel becomes, as in `integrated_gradients`.
    steps: in how many equal parts the pixels are removed.

  Returns:
    [B] in [0, 1].
  """
  chex.assert_rank((images, importance), (4, 3))
  pixels = importance[0].size
  order = jnp.argsort(-importance.reshape(-1, pixels), axis=1)
  ranks = jnp.argsort(order, axis=1).reshape(importance.shape)[..., None]  # 0 goes first

  def remaining(removed):
    return probability(jnp.where(ranks < removed, baseline, images))

  curve = jax.lax.map(remaining, jnp.round(jnp.linspace(0, pixels, steps + 1)))  # [steps + 1, B]
  return jnp.trapezoid(curve, dx=1 / steps, axis=0)


def of_each_class(data: Data, count: int) -> dict[str, np.ndarray]:
  """The first test image of every class, then the second of every class … until there are `count`, or all.

  Returns:
    A batch: name -> [B, ...].
  """
  batches = list(data.eval_batches("test"))
  rows = unbatched(batches, tuple(batches[0]))
  by_class = np.argsort(rows["label"], kind="stable")
  labels = rows["label"][by_class]
  ranks = np.arange(len(labels)) - np.searchsorted(labels, labels)  # how many of its class stand before it
  chosen = by_class[np.lexsort((labels, ranks))[:count]]
  return {name: array[chosen] for name, array in rows.items()}


@dataclasses.dataclass(frozen=True)
class Explain(Evaluator):
  """Test images of the first classes with the evidence for the predicted class, by two methods.

  A network without feature maps (an MLP) has no Grad-CAM, and is explained by integrated gradients alone.
  """

  images: int = 8
  """How many are shown."""
  layer: str | None = None
  """The module whose maps Grad-CAM reads, such as conv4_3; None: the last that gives maps."""
  steps: int = 64
  """Points on the line along which gradients are integrated."""
  baseline: Literal["black", "mean"] = "black"
  """The image without content, which also replaces removed pixels: black, or the mean of those explained."""
  scored: int = 32
  """How many images the deletion scores are means over."""

  def __post_init__(self) -> None:
    """Refuses to explain nothing."""
    fields = {"images": self.images, "steps": self.steps, "scored": self.scored}
    check_at_least(1, {f"evaluators….{name}": value for name, value in fields.items()})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars `completeness_error` and deletion scores; a table; a figure "explanations".

    `completeness_error` is what integrated gradients lack to sum up to the change of the logit, as a share of
    it. A deletion score (see `deletion`) below `deletion_random`, that of a random order, is one that knows
    something.

    Raises:
      UserError: the task is no classifier of images with one network, or has no such layer.
    """
    network = task_of(task).network
    if network is None:
      raise UserError("Explain looks into the network of a task, and this task does not train a single one")
    check_classifier(task, state, data, key, "Explain")
    batch = of_each_class(data, max(self.images, self.scored))
    pictures = batch["image"]
    empty = np.full_like(pictures, 0 if self.baseline == "black" else pictures.mean(axis=0), np.float32)
    images, empty = (data.spec.prepare(None, {**batch, "image": x})["image"] for x in (pictures, empty))
    explained = jax.jit(functools.partial(self._explained, network.model))
    found = jax.device_get(explained(network.variables(state), images, empty, key))
    probabilities, maps, numbers = found
    if not np.isfinite(probabilities).all():
      raise UserError("the model predicts NaN, which cannot be explained; train it with a lower learning rate")
    missing, change = np.abs(numbers["attributed"] - numbers["logit_change"]), np.abs(numbers["logit_change"])
    scalars = {"completeness_error": float(missing.sum() / max(change.sum(), np.finfo(np.float32).tiny))}
    scalars |= {
      name: float(values[: self.scored].mean())
      for name, values in numbers.items()
      if name.startswith("deletion")
    }
    guessed = probabilities.argmax(axis=-1)
    rows = [
      {
        "label": data.spec.classes[batch["label"][i]],
        "predicted": data.spec.classes[guess],
        "probability": float(probabilities[i, guess]),
        **{name: float(values[i]) for name, values in numbers.items()},
      }
      for i, guess in enumerate(guessed)
    ]
    figure = explanations(pictures[: self.images], [_title(row) for row in rows[: self.images]], maps)
    return Report(scalars, {"explanations": rows}, {"explanations": figure})

  def _explained(
    self, model: nn.Module, variables: PyTree, images: jax.Array, empty: jax.Array, key: jax.Array
  ):
    """(probabilities [B, classes], maps by name, numbers [B] of every image by name)."""
    logits = model.apply(variables, images, train=False)
    labels = logits.argmax(axis=-1)
    given = (model, variables, images, labels)
    shape = images.shape[:3]
    maps = {}
    if self.layer is not None or feature_maps(model, variables, images):
      maps[GRAD_CAM] = jax.image.resize(grad_cam(*given, self.layer), shape, "linear")
    maps[INTEGRATED] = integrated_gradients(*given, self.steps, empty).sum(axis=-1)
    orders = {**maps, "random": jax.random.uniform(key, shape)}

    def probability(images):
      return _of_class(jax.nn.softmax(model.apply(variables, images, train=False)), labels)

    start = model.apply(variables, empty, train=False)
    numbers = {
      "logit_change": _of_class(logits, labels) - _of_class(start, labels),
      "attributed": maps[INTEGRATED].sum(axis=(1, 2)),
    }
    for name, order in orders.items():
      numbers[f"deletion_{_snake(name)}"] = deletion(probability, images, order, empty)
    return jax.nn.softmax(logits), maps, numbers


def _snake(name: str) -> str:
  return name.lower().replace("-", "_").replace(" ", "_")


def _title(row: Mapping[str, Any]) -> str:
  label, predicted = (shortened(row[name], 12) for name in ("label", "predicted"))
  return f"{label} →\n{predicted} {row['probability']:.0%}"


def explanations(images: np.ndarray, titles: Sequence[str], maps: Mapping[str, np.ndarray]) -> Figure:
  """Images in columns, below each its heat maps: Grad-CAM over the image, attributions in red and blue.

  Args:
    images: [N, H, W, C] uint8.
    titles: N.
    maps: `GRAD_CAM` and `INTEGRATED`, or one of them -> [N or more, H, W].
  """
  columns, rows = min(COLUMNS, len(images)), 1 + len(maps)
  blocks = -(-len(images) // columns)
  figure = new_figure(1.35 * columns + 0.4, (1.4 * rows + 0.3) * blocks + 0.2)
  grid = figure.subplots(rows * blocks, columns, squeeze=False)
  for axes in grid.flat:
    axes.set(xticks=[], yticks=[])
    axes.set_frame_on(False)
  for index, title in enumerate(titles):
    block, column = divmod(index, columns)
    places = grid[rows * block : rows * (block + 1), column]
    _draw_image(places[0], images[index])
    places[0].set_title(title, fontsize=8)
    for axes, (name, heat) in zip(places[1:], maps.items(), strict=True):
      (_draw_heat if name == GRAD_CAM else _draw_signed)(axes, images[index], heat[index])
    if column == 0:
      for axes, name in zip(places, ("image", *maps), strict=True):
        axes.set_ylabel(name.replace(" ", "\n"), fontsize=8)
  figure.supxlabel(f"{INTEGRATED}: red speaks for the prediction, blue against it", fontsize=8)
  return figure


def _draw_image(axes: Axes, image: np.ndarray) -> None:
  axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)


def _draw_heat(axes: Axes, image: np.ndarray, heat: np.ndarray) -> None:
  """Transparent where it is cold."""
  _draw_image(axes, image)
  axes.imshow(heat, cmap="plasma", vmin=0, vmax=1, alpha=0.75 * heat.clip(0, 1))


def _draw_signed(axes: Axes, image: np.ndarray, heat: np.ndarray) -> None:
  """Red speaks for the class and blue against it; a few large numbers do not fade the others."""
  del image
  limit = max(np.percentile(np.abs(heat), 99.5), 1e-12)
  axes.imshow(heat, cmap="RdBu_r", vmin=-limit, vmax=limit)
