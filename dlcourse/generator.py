"""A generator whose images are data: a workdir, or an experiment that has to be trained first."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from dlcourse.data.recipe import Data, digest_of
from dlcourse.errors import UserError, unknown
from dlcourse.evaluators.image_quality import draw_images
from dlcourse.experiment import catalogue, load
from dlcourse.task import Task
from dlcourse.trained import Trained, open_trained


class Generator(NamedTuple):
  """What makes images.

  Attributes:
    source: name of the experiment, or its workdir.
    task: as it is or will be trained.
    data: that it learns from.
    trained: the workdir, opened; None: there is nothing to draw from yet.
  """

  source: str
  task: Task
  data: Data
  trained: Trained | None

  @property
  def name(self) -> str:
    """The experiment."""
    return self.source if self.trained is None else self.trained.record["experiment"]

  @property
  def digest(self) -> str:
    """16 hexadecimal digits that change with the weights."""
    if self.trained is None:
      return "untrained"
    state = self.trained.state
    return digest_of(np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.model_state)))

  def draw(self, count: int, key: jax.Array, condition: str | None = None) -> np.ndarray:
    """Images as a picture file would keep them, uint8 [count, H, W, C].

    Args:
      count: how many.
      key: of the draws.
      condition: the class they are of; None: all that the generator can be asked for, in turn.

    Raises:
      UserError: it is not trained yet, knows no classes, or makes NaN.
    """
    if self.trained is None:
      raise UserError(f"{self.source} has to be trained before it makes images: `dlcourse train` does both")
    program, state = self.trained.program, self.trained.state
    return draw_images(program, state, self.data.spec, count, key, condition)


def open_generator(source: str, overrides: Sequence[str], images: Data) -> Generator:
  """What makes images like those of a data set.

  Args:
    source: a workdir, or an experiment; of that, which is not trained yet, only the shapes are known.
    overrides: of the experiment.
    images: the data set.

  Raises:
    UserError: it is neither, or makes no images, or such of another size or of other classes.
  """
  if source in catalogue():
    experiment = load(source, overrides)
    data = experiment.data.build()
    generator = Generator(source, experiment.task.build(data.spec, experiment.steps), data, None)
  elif Path(source).is_dir():
    trained = open_trained(Path(source))
    generator = Generator(source, trained.program.task, trained.data, trained)
  else:
    raise unknown("generator, which is a workdir or", source, catalogue())
  _check_fit(generator, images)
  return generator


def _check_fit(generator: Generator, images: Data) -> None:
  source, theirs, ours = generator.source, generator.data.spec, images.spec
  if generator.task.generate is None or theirs.image_shape is None:
    raise UserError(f"{source} makes no images; a GAN of chapter 4, such as gan.cgan, does")
  if theirs.image_shape != ours.image_shape:
    raise UserError(
      f"{source} makes images of {_size(theirs.image_shape)}, and these have {_size(ours.image_shape)}; "
      "train one on images of this --data.size"
    )
  if generator.task.conditional and theirs.classes != ours.classes:
    raise UserError(f"{source} makes images of other classes than these have; train one on this --data.source")
  if generator.data.digest != images.digest:
    logging.warning("%s was trained on other images, and perhaps on some that are a test here", source)


def _size(shape: tuple[int, int, int]) -> str:
  return "x".join(map(str, shape))
