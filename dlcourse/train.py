"""The training loop: restore -> step -> log -> evaluate -> save. It knows only `Task`."""

import dataclasses
import math
import pathlib
import time
from typing import NamedTuple

import jax
from absl import logging
from flax.errors import FlaxError

from dlcourse import metrics, workdir
from dlcourse.checkpoint import Checkpoints, Progress
from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, unknown
from dlcourse.evaluators import measure
from dlcourse.experiment import Best, Experiment
from dlcourse.parallel import Mode, Program, compile_task, make_mesh
from dlcourse.progress import Display
from dlcourse.task import TrainState


@dataclasses.dataclass(frozen=True)
class Options:
  """How a run is run. Only the seed changes what is computed.

  Attributes:
    seed: of initialisation, data order and step randomness.
    parallel: how the step is compiled.
    devices: how many are used; None: all.
    steps_per_dispatch: steps that one call of the compiled program makes.
  """

  seed: int = 0
  parallel: Mode = "jit"
  devices: int | None = None
  steps_per_dispatch: int = 1


class Session(NamedTuple):
  """What the loop works with."""

  experiment: Experiment
  options: Options
  data: Data
  program: Program
  checkpoints: Checkpoints
  log: workdir.MetricsLog
  display: Display


def train(
  name: str, overrides: list[str], experiment: Experiment, path: pathlib.Path, options: Options
) -> None:
  """Trains an experiment in a workdir, or goes on from its last checkpoint.

  Args:
    name: under which the experiment can be loaded again.
    overrides: with which it was.
    experiment: what to train.
    path: the workdir.
    options: how.

  Raises:
    UserError: the workdir, the data or the devices cannot be used.
  """
  data, program = assemble(experiment, options.devices, options.parallel)
  # Only now: a command that cannot be carried out must not leave its record in the way of the right one.
  workdir.create(path, workdir.new_record(name, overrides, options.seed, experiment))
  with workdir.locked(path):
    checkpoints = Checkpoints(path / "checkpoints")
    try:
      restored = checkpoints.restore(program.state)
      state, progress = restored or (program.init(jax.random.key(options.seed)), Progress())
      step = int(state.step)
      log = workdir.MetricsLog(path, step)
      with Display(name, step, experiment.steps) as display:
        loop(Session(experiment, options, data, program, checkpoints, log, display), state, progress)
      log.close()
    finally:
      checkpoints.close()


def loop(session: Session, state: TrainState, progress: Progress) -> None:
  """Steps until the end, or until patience runs out. Events fall on multiples of their intervals."""
  experiment, _, data, program, checkpoints, log, display = session
  step, pending, started = int(state.step), [], time.perf_counter()
  while step < experiment.steps and not gave_up(experiment.best, progress):
    with jax.transfer_guard("disallow"):  # a hidden transfer would make every step wait for the last
      state, measured, step = advance(session, state, step)
    pending.append(measured)
    display.advance(step)
    evaluates = step % experiment.eval_every == 0 or step == experiment.steps
    if evaluates or step % experiment.log_every == 0:
      values = metrics.read(metrics.accumulate(pending))
      _check_finite(step, values)
      display.show(step, "train", values)
      log.write(step, "train", values | {"seconds": round(time.perf_counter() - started, 4)})
      pending, started = [], time.perf_counter()
    if evaluates:
      values = measure(program, state, data, "validation")
      display.show(step, "validation", values)
      log.write(step, "validation", values)
      progress = judge(experiment.best, progress, step, values)
      checkpoints.save(state, progress)
      started = time.perf_counter()
  if gave_up(experiment.best, progress):
    display.note(f"stopped at step {step}: no better {experiment.best.metric} since {progress.best_step}")


def _check_finite(step: int, values: dict[str, float]) -> None:
  """A diverged run stops: it would only write NaN over everything that is still of use."""
  for name, value in values.items():
    if not math.isfinite(value):
      raise UserError(
        f"{name} is {value} at step {step}: training has diverged; a lower learning rate may help"
      )


def advance(session: Session, state: TrainState, step: int) -> tuple[TrainState, dict, int]:
  """One dispatch: `steps_per_dispatch` steps where no event falls between them, else one."""
  experiment, options, data, program = session[:4]
  ends = (experiment.log_every, experiment.eval_every)
  count = options.steps_per_dispatch
  until_event = min(experiment.steps - step, *(every - step % every for every in ends))
  if count == 1 or count > until_event:
    state, measured = program.train_step(state, data.batch(options.seed, step))
    return state, measured, step + 1
  batches = [data.batch(options.seed, step + i) for i in range(count)]
  state, measured = program.train_steps(state, batches)
  return state, measured, step + count


def judge(best: Best, progress: Progress, step: int, values: dict[str, float]) -> Progress:
  """The progress after an evaluation."""
  if best.metric is None:
    return Progress(best_step=step)
  if best.improves(values[best.metric], progress.best_value):
    return Progress(best_step=step, best_value=values[best.metric])
  return dataclasses.replace(progress, waited=progress.waited + 1)


def gave_up(best: Best, progress: Progress) -> bool:
  """Whether early stopping has run out of patience."""
  return best.patience is not None and progress.waited >= best.patience


def assemble(experiment: Experiment, devices: int | None, mode: Mode) -> tuple[Data, Program]:
  """The data and the compiled task of an experiment; by shapes alone, nothing is computed yet.

  Raises:
    UserError: the fields of the experiment do not make a network that fits the data and the devices.
  """
  try:
    data = experiment.data.build()
    task = experiment.task.build(data.spec, experiment.steps)
    program = compile_task(task, data.spec.batch, make_mesh(devices), mode)
    names = jax.eval_shape(task.eval_step, program.state, jax.random.key(0), data.spec.batch)
  except (ArithmeticError, TypeError, ValueError, MemoryError, FlaxError) as error:
    logging.debug("assembling failed", exc_info=True)
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    raise UserError(
      f"no network comes of these fields ({type(error).__name__}: {reason}); --help shows them with their "
      "defaults, --v=1 where it went wrong"
    ) from error
  if experiment.best.metric not in (None, *names):
    raise unknown("metric of --best.metric", experiment.best.metric, names)
  return data, program
