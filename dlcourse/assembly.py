"""From the fields of an experiment to its data and its compiled task."""

import contextlib
import functools
from collections.abc import Iterator, Mapping

import jax
from absl import logging
from jax.sharding import Mesh

from dlcourse.data.recipe import Data, DataRecipe
from dlcourse.errors import UserError, described, own_line, unknown
from dlcourse.experiment import Experiment, Options
from dlcourse.parallel import Mode, Program, batch_size, compile_task, make_mesh
from dlcourse.task import TaskRecipe, skipping


def assemble(experiment: Experiment, options: Options, fit: bool = False) -> tuple[Data, Program]:
  """The data and the compiled task of an experiment; by shapes alone, nothing is computed yet.

  What was assembled last is still there: a run that reports after its training loads and compiles once.

  Args:
    experiment: what to build.
    options: how it is run.
    fit: where `options.devices` is None, leave out the devices that cannot share a batch evenly.

  Raises:
    UserError: the fields of the experiment do not make a network that fits the data and the devices.
  """
  data = data_of(experiment.data)
  mode, skips = options.parallel, options.nonfinite == "skip"
  room = batch_size(data.spec.batch) if fit else None
  mesh = make_mesh(options.devices, room, mode, options.tensor)
  program, metrics = program_of(experiment.data, experiment.task, experiment.steps, mesh, mode, skips)
  if experiment.best.metric not in (None, *metrics) and not experiment.monitors:
    raise unknown("metric of --best.metric", experiment.best.metric, metrics)
  return data, program


@functools.lru_cache(maxsize=1)
def data_of(recipe: DataRecipe) -> Data:
  """The data of a recipe."""
  with _explained("the data cannot be made of"):
    return recipe.build()


@functools.lru_cache(maxsize=1)
def program_of(
  data_recipe: DataRecipe, task_recipe: TaskRecipe, steps: int, mesh: Mesh, mode: Mode, skips: bool
) -> tuple[Program, Mapping[str, jax.ShapeDtypeStruct]]:
  """The compiled task for the data of a recipe, and the shapes of the metrics of an evaluation."""
  spec = data_of(data_recipe).spec
  with _explained("no network comes of"):
    task = task_recipe.build(spec, steps)
    if skips:
      task = task._replace(train_step=skipping(task.train_step))
    program = compile_task(task, spec.batch, mesh, mode)
    metrics = jax.eval_shape(task.eval_step, program.state, jax.random.key(0), spec.batch)
  return program, metrics


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
  """Whatever a person's fields, model or files lead to is one line, with its place where that is their file."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    logging.debug("assembling failed", exc_info=True)
    raise UserError(
      f"{what} these fields ({own_line(error)}{described(error)}); --help shows them "
      "with their defaults, --v=1 where it went wrong"
    ) from error
