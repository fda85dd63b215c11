"""A trained model as one file: its arrays, and what rebuilds it without the workdir (H, Practical Work, 5).

Such a file is passed around, so nothing in it is trusted: it names a recipe of this package, whose network its
arrays have to fit, and holds no code. By its digest damage shows.
"""

import contextlib
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import numpy as np

from dlcourse import workdir
from dlcourse.data.images import LARGEST_SIDE
from dlcourse.data.recipe import Scaling, Spec
from dlcourse.data.scaling import preparation
from dlcourse.data.single_images import Fit, fit_of
from dlcourse.errors import UserError, described
from dlcourse.experiment import Experiment
from dlcourse.interop.h5_file import write_model
from dlcourse.interop.keras_model import sequential
from dlcourse.interop.safetensors_file import write_safetensors
from dlcourse.interop.weights import DIGEST, digest_of, fill_model, read_file, weights_of
from dlcourse.task import Task
from dlcourse.trained import Trained

Format = Literal["h5", "safetensors"]

VERSION = 2
_WITHOUT_DIGEST = 1  # the version of files before there was one
_TEXT = "dlcourse"  # under which name the facts are in the file
_LONGEST = 2**21  # characters of the facts; those of ImageNet have 2**15
_CALLS = 50  # of modules, for each array: more than any network makes


class Facts(NamedTuple):
  """What an exported file says of its arrays.

  Attributes:
    experiment: under which name the recipe is loaded.
    overrides: with which it was.
    resolved: every field of it, see `experiment.resolved`.
    classes: of the data.
    image_shape: (H, W, C); None where the data is not images.
    scaling: of the images; None likewise.
    fit: how an image of another size becomes one of these; None likewise.
    step: of the checkpoint.
    commit: that the code was at.
    test: metrics of the test split, if they have been measured at that step.
  """

  experiment: str
  overrides: tuple[str, ...]
  resolved: Mapping[str, Any]
  classes: tuple[str, ...]
  image_shape: tuple[int, int, int] | None
  scaling: Scaling | None
  fit: Fit | None
  step: int
  commit: str | None
  test: Mapping[str, float] | None


class Exported(NamedTuple):
  """A classifier of images, rebuilt from its file.

  Attributes:
    experiment: the recipe; its data has not been loaded.
    spec: of batches of one image.
    task: built for it.
    model: the network of the task.
    variables: of the model, {collection: tree}.
    facts: what the file says of them.
  """

  experiment: Experiment
  spec: Spec
  task: Task
  model: nn.Module
  variables: dict[str, Any]
  facts: Facts


def export(trained: Trained, format: Format, file: Path) -> Path:
  """Writes a trained model as one file, whole or not at all.

  A classifier that is a sequence of layers becomes an .h5 that `keras.models.load_model` opens too.

  Args:
    trained: any experiment; only classifiers of images are rebuilt, of others the file holds the arrays.
    format: of the file.
    file: is replaced if there is one.

  Returns:
    `file`.

  Raises:
    UserError: it cannot be written, or is called like a file of another kind.
  """
  if file.suffix != f".{format}":  # nor can it replace a record, a photo or a recipe by mistake
    raise UserError(f"--output={file} should end in .{format}, which is what the file will be")
  if not file.parent.is_dir() or file.is_dir():
    raise UserError(f"--output={file} cannot be written: it is a folder, or in none that exists")
  text = _as_json(_facts_of(trained))
  if len(text) > _LONGEST:
    raise UserError(f"{file} would say {len(text):,} characters about its model; {_LONGEST:,} are read again")
  arrays, texts = _arrays(trained), {_TEXT: text}
  texts |= {DIGEST: digest_of(arrays, texts)}
  if format == "safetensors":
    write_safetensors(file, arrays, texts)
  else:
    write_model(file, arrays, texts, _as_keras(trained))
  return file


def open_exported(path: Path, recipe: str | None = None) -> Exported:
  """Rebuilds a classifier of images from its file alone.

  Args:
    path: of a file that `export` wrote.
    recipe: FILE.py:FUNCTION, where the model was trained with a recipe of one's own. Its code is run, so a file
      does not choose it.

  Raises:
    UserError: no such file, damaged, or of something else; the recipe is one's own and not given, or another
      one by now.
  """
  arrays, facts = read_exported(path)
  name = recipe or facts.experiment
  if not recipe:
    workdir.check_runs_no_code(path, name)
  if facts.image_shape is None or facts.scaling is None or not facts.classes:
    raise UserError(f"{path} holds the arrays of {name!r}; only classifiers of images are rebuilt from a file")
  spec = _spec(facts)
  with _explained(path, name), _bounded(_CALLS * len(arrays)):
    experiment = workdir.rebuilt(str(path), name, facts.overrides, facts.resolved, within="task")
    task = experiment.task.build(spec, experiment.steps)
    state = jax.eval_shape(task.init, jax.random.key(0), dict(spec.batch))
  if task.network is None:
    raise UserError(f"{path} holds {name!r}, whose task has not one network")
  model, shapes = task.network.model, task.network.variables(state)
  return Exported(experiment, spec, task, model, fill_model(model, shapes, arrays, str(path)), facts)


def read_exported(path: Path) -> tuple[dict[str, np.ndarray], Facts]:
  """The arrays of a file that `export` wrote, and what it says of them, checked field by field.

  Raises:
    UserError: no such file, damaged, or of something else.
  """
  arrays, texts = read_file(path)
  if _TEXT not in texts:
    raise UserError(
      f"{path} was not written by `dlcourse export`: it does not say which model its arrays are of"
    )
  try:
    if len(texts[_TEXT]) > _LONGEST:
      raise ValueError(f"{len(texts[_TEXT]):,} characters")
    return arrays, _checked(json.loads(texts[_TEXT]), DIGEST in texts)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path} says nothing about its model that can be read ({described(error)})") from error


def _facts_of(trained: Trained) -> Facts:
  record, spec = trained.record, trained.data.spec
  return Facts(
    experiment=record["experiment"],
    overrides=tuple(record["overrides"]),
    resolved=record["resolved"],
    classes=spec.classes,
    image_shape=spec.image_shape,
    scaling=spec.scaling,
    fit=fit_of(trained.experiment.data) if spec.image_shape else None,
    step=int(trained.state.step),
    commit=record.get("commit"),
    test=_tested(trained),
  )


def _tested(trained: Trained) -> Mapping[str, float] | None:
  """The metrics of `result.json`, if they are those of this checkpoint."""
  file = trained.path / "result.json"
  result = workdir.read_json(file) if file.exists() else {}
  same = isinstance(result, dict) and result.get("best_step") in (None, int(trained.state.step))
  return result.get("test") if same else None


def _arrays(trained: Trained) -> dict[str, np.ndarray]:
  network, state = trained.program.task.network, trained.state
  if network is not None:
    return weights_of(network.model, network.variables(state))
  leaves, _ = jax.tree_util.tree_flatten_with_path({"params": state.params, **state.model_state})
  return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def _as_keras(trained: Trained) -> tuple[dict, dict] | None:
  network, spec = trained.program.task.network, trained.data.spec
  if network is None or spec.scaling is None:
    return None
  return sequential(network.model, network.variables(trained.state), spec.image_shape, *spec.scaling)


def _as_json(facts: Facts) -> str:
  table = {"version": VERSION, **facts._asdict(), "scaling": None}
  if facts.scaling:  # a float32 is exactly the float64 that is printed
    table["scaling"] = [np.atleast_1d(part).tolist() for part in facts.scaling]
  return json.dumps(table)


def _checked(table: Any, has_digest: bool) -> Facts:
  if not isinstance(table, dict) or table.get("version") not in (_WITHOUT_DIGEST, VERSION):
    raise ValueError(f"only versions up to {VERSION} are read")
  if table["version"] == VERSION and not has_digest:
    raise ValueError("its digest is missing")
  for field, fits in _FIELDS.items():
    if field not in table or not fits(table[field]):
      raise ValueError(f"{field!r} is missing, or is not what it should be")
  shape = table["image_shape"] and tuple(table["image_shape"])
  return Facts(
    **{field: table[field] for field in ("experiment", "resolved", "fit", "step", "commit", "test")},
    overrides=tuple(table["overrides"]),
    classes=tuple(table["classes"]),
    image_shape=shape,
    scaling=_scaling(table["scaling"], shape),
  )


def _scaling(parts: list[list[float]] | None, shape: tuple[int, int, int] | None) -> Scaling | None:
  if parts is None:
    return None
  with np.errstate(over="ignore"):
    shift, width = (np.asarray(part, np.float32) for part in parts)
  sizes = {1, shape[-1]} if shape else set()
  if not {shift.size, width.size} <= sizes or not np.isfinite([*shift, *width]).all() or not (width > 0).all():
    raise ValueError("'scaling' does not fit the images")
  return Scaling(shift, width)


def _spec(facts: Facts) -> Spec:
  shapes = {
    "image": jax.ShapeDtypeStruct((1, *facts.image_shape), np.uint8),
    "label": jax.ShapeDtypeStruct((1,), np.int32),
    "mask": jax.ShapeDtypeStruct((1,), np.float32),
  }
  prepare = preparation(facts.scaling.scale, (), shapes)
  return Spec(shapes, facts.classes, prepare=prepare, scaling=facts.scaling)


@contextlib.contextmanager
def _explained(path: Path, name: str) -> Iterator[None]:
  """Whatever the fields of a file lead to is one line, that of tyro's too, which would draw a box."""
  try:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
      yield
  except UserError:
    raise
  except (Exception, SystemExit) as error:
    raise UserError(
      f"{path}: no network can be built of {name!r} with what the file says ({described(error)})"
    ) from error


@contextlib.contextmanager
def _bounded(most: int) -> Iterator[None]:
  """Ends the tracing of a network that has many times more layers than the file has arrays for."""
  calls = itertools.count()

  def counted(function, args, options, context):
    if next(calls) > most:
      raise UserError(f"the network of the file has more layers than arrays; {context.module.path} is too many")
    return function(*args, **options)

  with nn.intercept_methods(counted):
    yield


def _is_list(kind: type | tuple[type, ...]) -> Callable[[Any], bool]:
  return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_numbers(value: Any) -> bool:
  return _is_list((int, float))(value) and all(math.isfinite(number) for number in value)


def _is_shape(value: Any) -> bool:
  return _is_list(int)(value) and len(value) == 3 and all(1 <= side <= LARGEST_SIDE for side in value)


def _is_table(value: Any, kinds: tuple[type, ...]) -> bool:
  return isinstance(value, dict) and all(isinstance(item, kinds) for item in value.values())


_PLAIN = (str, int, float, type(None))  # bool is an int
_FIELDS: dict[str, Callable[[Any], bool]] = {
  "experiment": lambda value: isinstance(value, str),
  "overrides": _is_list(str),
  "resolved": lambda value: (
    _is_table(value, (*_PLAIN, list))
    and all(_is_list(_PLAIN)(item) for item in value.values() if isinstance(item, list))
  ),
  "classes": _is_list(str),
  "image_shape": lambda value: value is None or _is_shape(value),
  "scaling": lambda value: (
    value is None or (isinstance(value, list) and len(value) == 2 and all(map(_is_numbers, value)))
  ),
  "fit": lambda value: value in (None, *get_args(Fit)),
  "step": lambda value: isinstance(value, int),
  "commit": lambda value: isinstance(value, str | None),
  "test": lambda value: value is None or _is_table(value, (int, float, type(None))),
}
