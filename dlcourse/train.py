"""The training loop: restore -> step -> log -> evaluate -> save. It knows only `Task`."""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
from absl import logging

from dlcourse import metrics, workdir
from dlcourse.checkpoint import Checkpoints, Progress
from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, described, own_line, unknown
from dlcourse.evaluators import Report, measure
from dlcourse.experiment import Best, Experiment, Options, catalogue, load
from dlcourse.parallel import Mode, Program, batch_size, compile_task, make_mesh
from dlcourse.progress import Display
from dlcourse.task import TrainState
from dlcourse.whole_file import whole_file

# Overrides that an experiment named by `init_from` is given too, and those that it is not.
_SHARED, _NOT_SHARED = ("--data.", "--task.model."), "--data.augment"


class Session(NamedTuple):
  """What the loop works with."""

  path: pathlib.Path
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
  data, program = assemble(experiment, options.devices, options.parallel, tensor=options.tensor)
  _check_dispatch(experiment, options)
  first = experiment.data.first()
  if first:
    workdir.check_planned(path, name, overrides, experiment, options, program.devices)
    for folder, (source, flags) in first.items():
      _train_first(source, flags, path / folder, options)
    data = experiment.data.within(path).build()
  # Only now: a command that cannot be carried out must not leave its record in the way of the right one.
  record = workdir.new_record(name, overrides, experiment, options, program.devices, workdir.data_facts(data))
  with workdir.claimed(path, record), Checkpoints(path / "checkpoints") as checkpoints:
    _save_tokenizer(path, data)
    saved = checkpoints.resume(program.state)
    if saved is None:
      with workdir.withdrawn_if_refused(path):
        saved = _begin(experiment, program, path, overrides, options), Progress()
    state, progress = saved
    if program.task.precompute:
      data = program.task.precompute(state, data)
    log = workdir.MetricsLog(path, int(state.step))
    with contextlib.closing(log), Display(name, int(state.step), experiment.steps) as display:
      loop(Session(path, experiment, options, data, program, checkpoints, log, display), state, progress)


def _save_tokenizer(path: pathlib.Path, data: Data) -> None:
  """For those who use the network elsewhere; here it comes with the data."""
  if data.spec.tokenizer is not None and jax.process_index() == 0:
    with whole_file(path / "tokenizer.json") as file:
      file.write_text(data.spec.tokenizer.to_json(), encoding="utf-8")


def _begin(
  experiment: Experiment, program: Program, path: pathlib.Path, overrides: list[str], options: Options
) -> TrainState:
  """The very beginning: random numbers, or what `init_from` names, trained first if it is an experiment."""
  state, source = program.init(jax.random.key(options.seed)), experiment.init_from
  if source is None:
    return state
  from dlcourse.initial import begin_from, from_network, network_of  # which needs this file

  network = network_of(program.task)
  if source in catalogue():
    shared = shared_overrides(overrides)
    first = load(source, shared)
    _, other = assemble(first, options.devices, options.parallel, tensor=options.tensor)
    theirs = network_of(other.task).variables(other.state)
    from_network(network.variables(program.state), theirs, source)  # before it is trained: does it fit?
    _train_first(source, shared, path / "init", options)
    source = str(path / "init")
  return begin_from(network, state, source)


def _train_first(name: str, overrides: list[str], path: pathlib.Path, options: Options) -> None:
  """Trains in a folder of a workdir what its experiment starts from."""
  logging.warning("first %s, in %s", name, path)
  train(name, overrides, load(name, overrides), path, options)


def shared_overrides(overrides: Sequence[str]) -> list[str]:
  """Those of the data and the model, each with the values that follow it; augmentation is each phase's own."""
  shared, taken = [], False
  for token in overrides:
    if token.startswith("--"):
      taken = token.startswith(_SHARED) and not token.startswith(_NOT_SHARED)
    if taken:
      shared.append(token)
  return shared


def _check_dispatch(experiment: Experiment, options: Options) -> None:
  """Refuses a dispatch that no interval has room for: it would quietly never be made."""
  room = min(experiment.log_every, experiment.eval_every, experiment.steps)
  if options.steps_per_dispatch > room:
    raise UserError(
      f"--steps_per_dispatch={options.steps_per_dispatch} is longer than the {room} steps between two events "
      "(--log_every, --eval_every, --steps)"
    )


def loop(session: Session, state: TrainState, progress: Progress) -> None:
  """Steps until the end, or until patience runs out. Events fall on multiples of their intervals."""
  experiment, data, program = session.experiment, session.data, session.program
  log, display = session.log, session.display
  step, pending, started = int(state.step), [], time.perf_counter()
  while step < experiment.steps and not gave_up(experiment.best, progress):
    with jax.transfer_guard("disallow"):  # a hidden transfer would make every step wait for the last
      state, measured, step = advance(session, state, step)
    pending += measured
    display.advance(step)
    evaluates = step % experiment.eval_every == 0 or step == experiment.steps
    if evaluates or step % experiment.log_every == 0:
      values = metrics.read(metrics.accumulate(pending))
      _check_finite(step, values)
      display.show(step, "train", values)
      log.write(step, "train", values | {"seconds": round(time.perf_counter() - started, 4)})
      pending, started = [], time.perf_counter()
    if evaluates:
      values = measure(program, state, data, "validation") | monitor(session, state, step)
      _check_finite(step, values)
      display.show(step, "validation", values)
      log.write(step, "validation", values)
      progress = judge(experiment.best, progress, step, values)
      session.checkpoints.save(state, progress)
      started = time.perf_counter()
  if gave_up(experiment.best, progress):
    display.note(f"stopped at step {step}: no better {experiment.best.metric} since {progress.best_step}")


def monitor(session: Session, state: TrainState, step: int) -> dict[str, float]:
  """What the monitors say of the validation split; their figures are kept in the workdir."""
  data, key = on_validation(session.data), jax.random.key(session.options.seed)
  scalars: dict[str, float] = {}
  if session.experiment.monitors:
    from dlcourse.report.write import save  # which a training without them need not wait for
  for index, each in enumerate(session.experiment.monitors):
    said = each(session.program, state, data, jax.random.fold_in(key, index))
    scalars |= said.scalars
    if jax.process_index() == 0:
      figures = {f"{step:07d}_{name}": figure for name, figure in said.figures.items()}
      save(Report(figures=figures), session.path / "progress")
  return scalars


def on_validation(data: Data) -> Data:
  """The data as evaluators see it that take its validation split for the test split."""

  def eval_batches(split):
    return data.eval_batches("validation" if split == "test" else split)

  sizes = {**data.sizes, "test": data.sizes["validation"]}
  return data._replace(eval_batches=eval_batches, sizes=sizes)


def _check_finite(step: int, values: dict[str, float]) -> None:
  """A diverged run stops: it would only write NaN over everything that is still of use."""
  for name, value in values.items():
    if not math.isfinite(value):
      raise UserError(
        f"{name} is {value} at step {step}: training has diverged; a lower learning rate may help"
      )


def advance(session: Session, state: TrainState, step: int) -> tuple[TrainState, list[dict], int]:
  """`steps_per_dispatch` steps where no event falls between them, else one; with what was measured.

  They are one dispatch where their batches are alike, and not of several buckets of lengths.
  """
  experiment, options, data, program = session.experiment, session.options, session.data, session.program
  ends = (experiment.log_every, experiment.eval_every)
  count = options.steps_per_dispatch
  until_event = min(experiment.steps - step, *(every - step % every for every in ends))
  if count > until_event:
    count = 1
  batches = [data.batch(options.seed, step + i) for i in range(count)]
  if count > 1 and len({tuple(x.shape for x in batch.values()) for batch in batches}) == 1:
    state, measured = program.train_steps(state, batches)
    return state, [measured], step + count
  every = []
  for batch in batches:
    state, measured = program.train_step(state, batch)
    every.append(measured)
  return state, every, step + count


def judge(best: Best, progress: Progress, step: int, values: dict[str, float]) -> Progress:
  """The progress after an evaluation."""
  if best.metric is None:
    return Progress(best_step=step)
  if best.metric not in values:
    raise unknown("metric of --best.metric", best.metric, values)
  if best.improves(values[best.metric], progress.best_value):
    return Progress(best_step=step, best_value=values[best.metric])
  return dataclasses.replace(progress, waited=progress.waited + 1)


def gave_up(best: Best, progress: Progress) -> bool:
  """Whether early stopping has run out of patience."""
  return best.patience is not None and progress.waited >= best.patience


def assemble(
  experiment: Experiment, devices: int | None, mode: Mode, fit: bool = False, tensor: int | None = None
) -> tuple[Data, Program]:
  """The data and the compiled task of an experiment; by shapes alone, nothing is computed yet.

  Args:
    experiment: what to build.
    devices: how many to use; None: all.
    mode: how the training step is compiled.
    fit: where `devices` is None, leave out the devices that cannot share a batch evenly.
    tensor: see `make_mesh`.

  Raises:
    UserError: the fields of the experiment do not make a network that fits the data and the devices.
  """
  with _explained("the data cannot be made of"):
    data = experiment.data.build()
  mesh = make_mesh(devices, batch_size(data.spec.batch) if fit else None, mode, tensor)
  with _explained("no network comes of"):
    task = experiment.task.build(data.spec, experiment.steps)
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
