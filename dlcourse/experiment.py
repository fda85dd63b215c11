"""Experiments and studies: frozen recipes, found by name, changed by flags, recorded in a workdir."""

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import math
import pathlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

import flax.linen as nn
import tyro

from dlcourse.data.recipe import DataRecipe
from dlcourse.errors import UserError, check_at_least, described, own_line, unknown
from dlcourse.evaluators import Evaluator, Report
from dlcourse.parallel import Mode
from dlcourse.task import TaskRecipe


@dataclasses.dataclass(frozen=True)
class Best:
  """Which checkpoint is the best one, and when to give up waiting for a better one (H1.4.5)."""

  metric: str | None = "loss"
  """A metric of the validation split, or a scalar of a monitor; None: the last checkpoint is the best."""
  mode: Literal["min", "max"] | None = None
  """Whether smaller or larger is better; None: smaller for a loss, and to be said for anything else."""
  patience: int | None = None
  """Evaluations without a better value after which training stops; None never stops early."""

  def __post_init__(self) -> None:
    """Refuses to guess: the wrong one would keep the worst checkpoint."""
    if self.patience is not None:
      check_at_least(1, {"best.patience": self.patience})
    if self.metric is None and self.patience is not None:
      raise UserError("--best.patience waits for a better --best.metric, and there is none")
    if self.metric is not None and self.mode is None and not self.metric.endswith("loss"):
      raise UserError(f"--best.mode: say whether a smaller (min) or a larger (max) {self.metric} is better")

  def improves(self, value: float, best: float | None) -> bool:
    """Whether `value` is strictly better than the best so far."""
    if best is None:
      return value == value  # a NaN is never a best
    return value > best if self.mode == "max" else value < best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """A complete recipe of a training; every field, at any depth, is a flag."""

  data: DataRecipe
  """What it learns from."""
  task: TaskRecipe
  """What learns, and how."""
  steps: int
  """Updates of the parameters."""
  init_from: str | None = None
  """What its network begins with: a workdir, a weight file, pip:NAME, or an experiment, which is trained first
  in the folder `init` of the workdir, on the same --data; None: random numbers."""
  evaluators: tuple[Evaluator, ...] = ()
  """What is measured and drawn after training, on the test split."""
  monitors: tuple[Evaluator, ...] = ()
  """What is measured on the validation split at every evaluation, too; its figures go into `progress/`."""
  best: Best = Best()
  """Which checkpoint is kept as the best."""
  log_every: int = 50
  """Steps between two lines of training metrics."""
  eval_every: int = 250
  """Steps between two evaluations of the validation split, each followed by a checkpoint."""
  small: tyro.conf.Suppress[tuple[str, ...]] = ()
  """Overrides that make a tiny version for tests."""

  def __post_init__(self) -> None:
    """Refuses intervals that never come."""
    check_at_least(1, {name: getattr(self, name) for name in ("steps", "log_every", "eval_every")})


@dataclasses.dataclass(frozen=True)
class Options:
  """How a run is run. Modes, devices and dispatches round differently; pmap also draws other random numbers.

  Attributes:
    seed: of initialisation, data order and step randomness.
    parallel: how the step is compiled.
    devices: how many are used; None: all.
    steps_per_dispatch: steps that one call of the compiled program makes.
    tensor: how many devices share the blocks of a Transformer in the mode `tensor`; None: all of a process.
    nonfinite: what is done where a loss or a gradient is NaN or infinite: the run stops, or skips the batch.
    debug: whether every operation is checked for NaN and every state for what is not finite; slow.
    stuck_after: seconds in which a step has to end, or the process ends itself; None: it may take for ever.
  """

  seed: int = 0
  parallel: Mode = "jit"
  devices: int | None = None
  steps_per_dispatch: int = 1
  tensor: int | None = None
  nonfinite: Literal["stop", "skip"] = "stop"
  debug: bool = False
  stuck_after: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
  """One training of a study."""

  label: str
  """Row of the study's table; runs of one label are repetitions."""
  experiment: str
  """Name of the experiment."""
  overrides: tuple[str, ...] = ()
  """As on the command line."""
  seed: int = 0
  """Seed of the run."""


@dataclasses.dataclass(frozen=True)
class Study:
  """Several runs and what they say together."""

  runs: tuple[Run, ...]
  summarise: Callable[[Sequence[tuple[Run, Mapping[str, Any]]]], Report]
  """Runs and their results (`result.json` of their workdirs, and the path `workdir`) -> table and figures."""
  small: tuple[str, ...] = ()
  """Further overrides of every run that make a tiny version for tests."""


def catalogue(kind: type = Experiment) -> dict[str, Callable]:
  """Every function of the package `dlcourse.experiments` that returns a `kind`, by "module.function"."""
  package = importlib.import_module("dlcourse.experiments")
  found = {}
  for info in pkgutil.iter_modules(package.__path__):
    module = importlib.import_module(f"{package.__name__}.{info.name}")
    found |= {f"{info.name}.{name}": fn for name, fn in _recipes(module, kind)}
  return found


def _recipes(module: ModuleType, kind: type) -> Iterator[tuple[str, Callable]]:
  for name, function in inspect.getmembers(module, inspect.isfunction):
    if function.__module__ != module.__name__ or name.startswith("_"):
      continue
    with contextlib.suppress(Exception):  # one that cannot be read is the annotation of no recipe
      if inspect.get_annotations(function, eval_str=True).get("return") is kind:
        yield name, function


def find(name: str, kind: type = Experiment) -> Callable:
  """The function behind "module.function" or "path/to/file.py:function".

  Raises:
    UserError: there is no such experiment or study, or the file cannot be imported.
  """
  if ".py:" in name:
    path, _, function = name.rpartition(":")
    recipes = dict(_recipes(_import_file(pathlib.Path(path)), kind))
    if function not in recipes:
      raise unknown(f"function returning {kind.__name__} in {path}", function, recipes)
    return recipes[function]
  module_name, _, function = name.rpartition(".")
  spec = module_name.isidentifier() and importlib.util.find_spec(f"dlcourse.experiments.{module_name}")
  recipes = dict(_recipes(importlib.import_module(spec.name), kind)) if spec else {}
  if function not in recipes:
    if kind is Experiment and name in catalogue(Study):
      raise UserError(f"{name} is a study, of several experiments: dlcourse study {name}")
    raise unknown(kind.__name__.lower(), name, catalogue(kind))
  return recipes[function]


def runs_no_code(name: str) -> bool:
  """Whether loading an experiment runs no file but one that this process has been told to run already."""
  if ".py:" not in name:
    return True
  path = pathlib.Path(name.rpartition(":")[0])
  module = sys.modules.get(_module_of(path))
  return module is not None and pathlib.Path(module.__file__).resolve() == path.resolve()


def _module_of(path: pathlib.Path) -> str:
  return f"dlcourse_file_{path.stem}"  # a file called random.py must not become the module random


def _import_file(path: pathlib.Path) -> ModuleType:
  if not path.is_file():
    raise UserError(f"no such file: {path}; a recipe is named MODULE.FUNCTION or FILE.py:FUNCTION")
  name = _module_of(path)
  spec = importlib.util.spec_from_file_location(name, path)
  module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
  try:
    spec.loader.exec_module(module)
  except (Exception, SystemExit) as error:
    raise _failed(f"{path} cannot be imported", error) from error
  return module


def _failed(what: str, error: BaseException) -> UserError:
  return UserError(f"{what}: {own_line(error)}{described(error)}")


def load(name: str, overrides: Sequence[str] = ()) -> Experiment:
  """The experiment of that name with "--path.to.field=value" overrides.

  Raises:
    UserError: no such experiment.
    SystemExit: with code 2, after tyro has said which override is wrong.
  """
  recipe = find(name)
  if inspect.signature(recipe).parameters:
    raise UserError(f"{name} takes arguments; a recipe is a function without any")
  try:
    experiment = recipe()
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    raise _failed(f"{name} cannot be made", error) from error
  if not isinstance(experiment, Experiment):
    raise UserError(f"{name} returns a {type(experiment).__name__}, not the Experiment it announces")
  if not overrides:
    return experiment
  experiment = tyro.cli(
    Experiment,
    prog=f"dlcourse train --experiment={name}",
    default=experiment,
    args=list(overrides),
    config=(tyro.conf.FlagConversionOff,),
    use_underscores=True,
  )
  for path, value in resolved(experiment).items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"--{path}={value} is not a finite number")
  return experiment


def resolved(recipe: Any, prefix: str = "") -> dict[str, Any]:
  """Every field of a recipe at any depth: "path.to.field" -> JSON value, types under "path.to!"."""
  if dataclasses.is_dataclass(recipe):
    table = {f"{prefix}!": type(recipe).__name__}
    for name in _field_names(recipe):
      table |= resolved(getattr(recipe, name), f"{prefix}.{name}" if prefix else name)
    return table
  if isinstance(recipe, tuple) and any(dataclasses.is_dataclass(item) for item in recipe):
    table = {f"{prefix}!": len(recipe)}
    for index, item in enumerate(recipe):
      table |= resolved(item, f"{prefix}.{index}")
    return table
  if isinstance(recipe, tuple):
    return {prefix: list(recipe)}
  return {prefix: recipe if isinstance(recipe, str | int | float | bool | None) else repr(recipe)}


def _field_names(recipe: Any) -> list[str]:
  hidden = ("parent", "name") if isinstance(recipe, nn.Module) else ("small",)
  return [field.name for field in dataclasses.fields(recipe) if field.name not in hidden]


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, tuple]:
  """path -> (recorded value, current value) where two resolved tables differ."""
  paths = sorted({*recorded, *current})
  pairs = {path: (recorded.get(path), current.get(path)) for path in paths}
  return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def with_value(recipe: Any, path: str, value: Any) -> Any:
  """A copy of a recipe in which the field at "path.to.field" has another value."""
  head, _, rest = path.partition(".")
  if isinstance(recipe, tuple):
    index = int(head)
    return (*recipe[:index], with_value(recipe[index], rest, value), *recipe[index + 1 :])
  if rest:
    value = with_value(getattr(recipe, head), rest, value)
  elif isinstance(value, list):
    value = tuple(value)
  return dataclasses.replace(recipe, **{head: value})
