"""The training loop: restore -> step -> log -> evaluate -> save. It knows only `Task`."""

import contextlib
import dataclasses
import math
import pathlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import chex
import jax
import numpy as np
from absl import logging

from dlcourse import metrics, workdir
from dlcourse.assembly import assemble
from dlcourse.checkpoint import Checkpoints, Progress
from dlcourse.data.recipe import Data
from dlcourse.errors import Preempted, UserError, unknown
from dlcourse.evaluators import Report, measure
from dlcourse.experiment import Best, Experiment, Options, catalogue, load
from dlcourse.metrics_log import MetricsLog
from dlcourse.parallel import Program
from dlcourse.preemption import Notice
from dlcourse.progress import Display
from dlcourse.task import TrainState
from dlcourse.watchdog import Watchdog
from dlcourse.whole_file import whole_file

# Overrides that an experiment named by `init_from` is given too, and those that it is not.
_SHARED, _NOT_SHARED = ("--data.", "--task.model."), "--data.augment"


class Session(NamedTuple):
  """What the loop works with; `name` and `overrides` are those of `train`."""

  name: str
  overrides: Sequence[str]
  path: pathlib.Path
  experiment: Experiment
  options: Options
  data: Data
  program: Program
  checkpoints: Checkpoints
  log: MetricsLog
  display: Display
  notice: Notice
  watchdog: Watchdog

  @property
  def command(self) -> str:
    """What trains this, or goes on with it."""
    words = ["dlcourse", "train", f"--experiment={self.name}", f"--workdir={self.path}"]
    words += [f"--seed={self.options.seed}"] if self.options.seed else []
    return shlex.join([*words, *self.overrides])


class Measured(NamedTuple):
  """What was measured in one dispatch, of one step or of several."""

  steps: range
  metrics: Mapping[str, metrics.Mean]


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
    UserError: the workdir, the data or the devices cannot be used, or the training diverges.
    Preempted: it was asked to end, and is saved.
  """
  with jax.debug_nans(options.debug):
    _train(name, overrides, experiment, path, options)


def _train(
  name: str, overrides: list[str], experiment: Experiment, path: pathlib.Path, options: Options
) -> None:
  data, program = assemble(experiment, options)
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
    with (
      contextlib.closing(MetricsLog(path, int(state.step))) as log,
      Display(name, int(state.step), experiment.steps) as display,
      Notice() as notice,
      Watchdog(options.stuck_after) as watchdog,
    ):
      run = (name, overrides, path, experiment, options, data, program)
      loop(Session(*run, checkpoints, log, display, notice, watchdog), state, progress)


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
    _, other = assemble(first, options)
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
  """Steps until the end, or until patience runs out. Events fall on multiples of their intervals.

  Raises:
    UserError: the training diverges, or its last state cannot be saved.
    Preempted: it was asked to end, and is saved.
  """
  experiment, watchdog = session.experiment, session.watchdog
  # A hidden transfer would make every step wait for the last; but what JAX repeats one by one is full of them.
  guard = "allow" if session.options.debug else "disallow"
  step, pending, started, compiling = int(state.step), [], time.perf_counter(), True
  while step < experiment.steps and not gave_up(experiment.best, progress):
    watchdog.all_is_well(compiling)
    with _found(session, step):
      with jax.transfer_guard(guard):
        state, measured, step = advance(session, state, step)
      if session.options.debug:
        chex.assert_tree_all_finite((state.params, state.model_state))
    pending += measured
    session.display.advance(step)
    leaves = step < experiment.steps and session.notice.given()
    evaluates = step % experiment.eval_every == 0 or step == experiment.steps
    if evaluates or leaves or step % experiment.log_every == 0:
      values = read(session, pending)
      _log(session, step, "train", values | {"seconds": round(time.perf_counter() - started, 4)})
      pending, started = [], time.perf_counter()
    if evaluates:
      watchdog.all_is_well(compiling=True)
      values = measure(session.program, state, session.data, "validation") | monitor(session, state, step)
      _check_finite(session, range(step, step + 1), values)
      _log(session, step, "validation", values)
      progress, compiling = judge(experiment.best, progress, step, values), False
    if evaluates or leaves:
      progress = session.checkpoints.save(state, progress)
      started = time.perf_counter()
    if leaves:
      session.checkpoints.insist(state, progress)
      raise Preempted(f"asked to end: saved at step {step}; the same command goes on")
  session.checkpoints.insist(state, progress)
  if gave_up(experiment.best, progress):
    better = f"no better {experiment.best.metric} since {progress.best_step}"
    session.display.note(f"stopped at step {step}: {better}")


@contextlib.contextmanager
def _found(session: Session, step: int) -> Iterator[None]:
  """Says when it was that `--debug` found something."""
  try:
    yield
  except (FloatingPointError, AssertionError) as error:
    error.add_note(f"in step {step + 1} (batch {step} of seed {session.options.seed})")
    raise


def _log(session: Session, step: int, split: str, values: dict[str, float]) -> None:
  session.display.show(step, split, values)
  session.log.write(step, split, values)


def read(session: Session, pending: Sequence[Measured]) -> dict[str, float]:
  """What several steps measured.

  Raises:
    UserError: it is not finite in one of them.
  """
  values = metrics.read(metrics.accumulate(part.metrics for part in pending))
  if not all(map(math.isfinite, values.values())):
    parts = ((part.steps, jax.device_get(part.metrics)) for part in pending)
    wrong = (steps for steps, part in parts if not all(map(np.isfinite, jax.tree.leaves(part))))
    _check_finite(session, next(wrong, pending[-1].steps), values)
  return values


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


def _check_finite(session: Session, steps: range, values: Mapping[str, float]) -> None:
  """A diverged run stops: it would only write NaN over everything that is still of use."""
  for name, value in values.items():
    if not math.isfinite(value):
      first, last = steps[0], steps[-1]
      when = f"step {first} (batch {first - 1}"
      if last > first:
        when = f"one of the steps {first} to {last} (batches {first - 1} to {last - 1}"
      raise UserError(
        f"{name} is {value} at {when} of seed {session.options.seed}): training has diverged; a lower learning "
        "rate may help, --nonfinite=skip leaves such batches out, and this shows where it comes from: "
        f"{session.command} --debug"
      )


def advance(session: Session, state: TrainState, step: int) -> tuple[TrainState, list[Measured], int]:
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
    return state, [Measured(range(step + 1, step + count + 1), measured)], step + count
  every = []
  for i, batch in enumerate(batches):
    state, measured = program.train_step(state, batch)
    every.append(Measured(range(step + i + 1, step + i + 2), measured))
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
