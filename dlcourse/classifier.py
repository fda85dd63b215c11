"""Trained classifiers and single images: what `dlcourse predict` and the window ask.

Shapes: B images of H x W pixels, C channels.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.data.image_files import BadImage
from dlcourse.data.recipe import Spec
from dlcourse.data.single_images import Fit, fit_of, read_single
from dlcourse.errors import UserError
from dlcourse.evaluators.explain import feature_maps, grad_cam
from dlcourse.exported import Exported, open_exported
from dlcourse.task import Task
from dlcourse.trained import Trained, Which, open_trained


class Classifier(NamedTuple):
  """A network that says what is on an image.

  Attributes:
    classes: their names, in the order of the probabilities.
    image_shape: (H, W, C); C is 1 or 3.
    fit: how an image of another size becomes one of these.
    probabilities: uint8 [B, H, W, C] -> float32 [B, classes].
    evidence: uint8 [B, H, W, C], labels [B] -> float32 [B, H, W] in [0, 1], where what speaks for these classes
      lies (Grad-CAM); None where the network has no feature maps, as an MLP.
  """

  classes: tuple[str, ...]
  image_shape: tuple[int, int, int]
  fit: Fit
  probabilities: Callable[[np.ndarray], np.ndarray]
  evidence: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


class Answer(NamedTuple):
  """What is on an image.

  Attributes:
    image: its file, as it was named.
    likeliest: (class, probability), the likeliest first.
  """

  image: str
  likeliest: list[tuple[str, float]]


def open_classifier(path: Path, which: Which = "best", recipe: str | None = None) -> Classifier:
  """A classifier from an exported file or from a workdir, on one device.

  Args:
    path: of either.
    which: checkpoint of a workdir.
    recipe: see `open_exported` and `workdir.rebuild`.

  Raises:
    UserError: it cannot be opened, or is no classifier of images.
  """
  if path.is_dir():
    return of_trained(open_trained(path, which, devices=1, recipe=recipe))
  return of_exported(path, open_exported(path, recipe))


def of_trained(trained: Trained) -> Classifier:
  """The classifier of a workdir; see `open_classifier`."""
  network, spec = trained.program.task.network, trained.data.spec
  variables = network and network.variables(trained.state)
  return _classifier(trained.path, trained.program.task, spec, variables, fit_of(trained.experiment.data))


def of_exported(path: Path, exported: Exported) -> Classifier:
  """The classifier of an exported file; see `open_classifier`."""
  fit = exported.facts.fit or "resize"
  return _classifier(path, exported.task, exported.spec, exported.variables, fit)


def answers(classifier: Classifier, images: Iterable[str], top: int = 5) -> Iterator[Answer | BadImage]:
  """What is on each of some image files, one after the other; of a file that is no image, why.

  Args:
    classifier: whom to ask.
    images: their paths.
    top: how many classes.
  """
  for image in images:
    try:
      pixels = read_single(image, classifier.image_shape, classifier.fit)
    except BadImage as error:
      yield error
      continue
    shares = classifier.probabilities(pixels[None])[0]
    order = np.argsort(-shares, kind="stable")[:top]
    yield Answer(image, [(classifier.classes[i], float(shares[i])) for i in order])


def _classifier(path: Path, task: Task, spec: Spec, variables: Any, fit: Fit) -> Classifier:
  shape, count = spec.image_shape, spec.num_classes
  if task.network is None or shape is None or shape[-1] not in (1, 3) or count is None:
    raise UserError(
      f"{path} is no classifier of grey or colour images, the only kind that is asked about files"
    )
  state = jax.eval_shape(task.init, jax.random.key(0), dict(spec.batch))

  def batch_of(images):
    rows = images.shape[0]
    return {"image": images, "label": jnp.zeros(rows, jnp.int32), "mask": jnp.ones(rows)}

  @jax.jit
  def probabilities(variables, images):
    # Of the state only what the network has is there; nothing else is read.
    return task.predict(task.network.with_variables(state, variables), jax.random.key(0), batch_of(images))

  @jax.jit
  def evidence(variables, images, labels):
    heat = grad_cam(task.network.model, variables, spec.prepare(None, batch_of(images))["image"], labels)
    return jax.image.resize(heat, images.shape[:3], "linear")

  def of_images(images):
    return np.asarray(probabilities(variables, images))

  def of_classes(images, labels):
    return np.asarray(evidence(variables, images, labels))

  one = jnp.zeros((1, *shape), jnp.uint8)
  if jax.eval_shape(probabilities, variables, one).shape != (1, count):
    raise UserError(f"{path} predicts something else than the class of an image")
  has_maps = feature_maps(task.network.model, variables, spec.prepare(None, batch_of(one))["image"])
  return Classifier(spec.classes, shape, fit, of_images, of_classes if has_maps else None)
