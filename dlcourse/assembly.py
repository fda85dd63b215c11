"""From the fields of an experiment to its data and its compiled task."""

import contextlib
from collections.abc import Iterator

import jax
from absl import logging

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, described, own_line, unknown
from dlcourse.experiment import Experiment, Options
from dlcourse.parallel import Program, batch_size, compile_task, make_mesh
from dlcourse.task import skipping


def assemble(experiment: Experiment, options: Options, fit: bool = False) -> tuple[Data, Program]:
  """The data and the compiled task of an experiment; by shapes alone, nothing is computed yet.

  Args:
    experiment: what to build.
    options: how it is run.
    fit: where `options.devices` is None, leave out the devices that cannot share a batch evenly.

  Raises:
    UserError: the fields of the experiment do not make a network that fits the data and the devices.
  """
  with _explained("the data cannot be made of"):
    data = experiment.data.build()
  mode = options.parallel
  mesh = make_mesh(options.devices, batch_size(data.spec.batch) if fit else None, mode, options.tensor)
  with _explained("no network comes of"):
    task = experiment.task.build(data.spec, experiment.steps)
    if options.nonfinite == "skip":
      task = task._replace(train_step=skipping(task.train_step))
    program = compile_task(task, data.spec.batch, mesh, mode)
    names = jax.eval_shape(task.eval_step, program.state, jax.random.key(0), data.spec.batch)
  if experiment.best.metric not in (None, *names) and not experiment.monitors:
    raise unknown("metric of --best.metric", experiment.best.metric, names)
  return data, program


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
