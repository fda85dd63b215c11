"""The lab (Practical Work): what somebody's images are, the sizes that suit them, and a classifier."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dlcourse import console
from dlcourse.data.findings import Findings, found_in, inspect
from dlcourse.data.image_lists import is_table, list_folder, list_table
from dlcourse.data.image_sources import load_images
from dlcourse.data.images import Images
from dlcourse.data.streamed import StreamedImages
from dlcourse.errors import UserError, unknown
from dlcourse.experiment import Options, catalogue, load
from dlcourse.flops import step_flops
from dlcourse.parallel import on_first_process
from dlcourse.train import train
from dlcourse.workdir import RECORD, read_record, write_json

MODELS = {"cnn": "lab.cnn", "mlp": "lab.mlp", "transfer": "lab.transfer"}
DEFAULT = "mnist_5k"  # comes with pip
FINDINGS = "data.json"  # in the workdir
LARGEST = {"mlp": 32, "cnn": 64}  # side in pixels; a network that transfers keeps its own
EPOCHS = 40  # at most, before early stopping
EVALUATIONS = 40
LEAST_STEPS, MOST_STEPS = 1_000, 20_000
BATCHES = 20  # of an epoch, at least, where the images suffice
MINUTES = 15  # of training, on a processor
FLOPS_OF_A_CORE = 1e10  # a second: a tenth of what one multiplies in large matrices


class Plan(NamedTuple):
  """What the lab chooses for some images.

  Attributes:
    experiment: its name.
    overrides: of its fields, as on the command line.
    reasons: a sentence for each choice.
  """

  experiment: str
  overrides: tuple[str, ...]
  reasons: tuple[str, ...]


def look_at(data: str | None) -> tuple[str, Findings]:
  """The source of somebody's images, and what is found in them.

  Args:
    data: a folder of images, a CSV of files and labels, or a data set as in --data.source; None: 5,000 digits.

  Raises:
    UserError: there is none, or it is none.
  """
  if data is not None and Path(data).expanduser().is_dir():
    return f"folder:{Path(data).expanduser().resolve()}", inspect(list_folder(data))
  if data is not None and is_table(data):
    return f"csv:{Path(data).expanduser().resolve()}", inspect(list_table(data))
  kind, _, place = (data or DEFAULT).partition(":")
  if kind in ("folder", "csv"):
    return look_at(place)
  if Path(kind).expanduser().is_file():
    raise UserError(
      f"{kind} is a file; --data is a folder of images, or a table of files and labels called .csv"
    )
  if "/" in kind:
    raise UserError(f"no such folder: {data}; --data is a folder of images, one sub-folder per class")
  return data or DEFAULT, found_in(load_images(data or DEFAULT), data or DEFAULT)


def experiment_of(model: str) -> str:
  """Name of the experiment for cnn, mlp, transfer, or any experiment with images.

  Raises:
    UserError: no such model, or it does not learn from images.
  """
  name = MODELS.get(model, model)
  if name not in catalogue():
    raise unknown("model", model, (*MODELS, *catalogue()))
  if not isinstance(load(name).data, Images | StreamedImages):
    raise UserError(f"{name} does not learn from labelled images; --model=cnn does")
  return name


def plan(source: str, found: Findings, model: str) -> Plan:
  """Sizes that suit the images.

  Args:
    source: of the images, for --data.source.
    found: in them.
    model: see `experiment_of`.

  Raises:
    UserError: no such model, or too few images.
  """
  name, count = experiment_of(model), sum(found.classes.values())
  if min(found.classes.values()) < 2 or count < 10:
    raise UserError(
      f"{found.root}: {count} images in {len(found.classes)} classes are too few to train and to test; every "
      "class needs two at least, and hundreds are better"
    )
  trained_on = sum(found.counts["train"].values()) if "train" in found.counts else round(0.7 * found.distinct)
  batch = 2 ** math.floor(math.log2(min(64, max(8, trained_on / BATCHES))))
  epoch = max(1, trained_on // batch)
  steps = min(MOST_STEPS, max(LEAST_STEPS, EPOCHS * epoch))
  every = max(1, steps // EVALUATIONS)
  overrides = [f"--data.source={source}", f"--data.batch_size={batch}", f"--steps={steps}"]
  overrides += [f"--eval_every={every}", f"--log_every={max(1, every // 2)}"]
  reasons = [
    f"batches of {batch}: {trained_on} images to train on give {epoch} of them an epoch",
    f"{steps} steps, {steps / epoch:.0f} epochs, unless {every * 10} steps bring nothing (early stopping)",
  ]
  if model in LARGEST:
    side, reason = _side(found, LARGEST[model])
    overrides, reasons = [*overrides, f"--data.size={side}"], [reason, *reasons]
  if model in ("cnn", "mlp") and not found.grey and count < 1_000 * len(found.classes):
    reasons.append(
      "in colour and few: --model=transfer would begin with what another network knows of photographs"
    )
  return Plan(name, tuple(overrides), tuple(reasons))


def affordable(chosen: Plan, cores: int) -> Plan:
  """The same with no more steps than so many cores make in `MINUTES`; accelerators need no such care."""
  experiment = load(chosen.experiment, chosen.overrides)
  spec = experiment.data.build().spec
  task = experiment.task.build(spec, experiment.steps)
  if task.precompute or jax.default_backend() != "cpu":
    return chosen
  state = jax.eval_shape(task.init, jax.random.key(0), spec.batch)
  seconds = sum(step_flops(task.train_step, state, spec.batch).values()) / (cores * FLOPS_OF_A_CORE)
  most = max(LEAST_STEPS, int(60 * MINUTES / seconds))
  if experiment.steps <= most:
    return chosen
  reason = f"{most} steps only: {experiment.steps} would take these {cores} cores more than {MINUTES} minutes"
  overrides = (*chosen.overrides, f"--steps={most}", f"--eval_every={max(1, most // EVALUATIONS)}")
  return chosen._replace(overrides=overrides, reasons=(*chosen.reasons, reason))


def run(data: str | None, model: str, more: Sequence[str], path: Path, options: Options) -> None:
  """Looks at images, chooses sizes, and trains; a run that is under way goes on as it was planned.

  Args:
    data: see `look_at`.
    model: see `experiment_of`.
    more: overrides of one's own, which count before those that are chosen; where a run goes on they may be left
      out, and else have to be what they were.
    path: the workdir, which gets `data.json` as well.
    options: of the training.

  Raises:
    UserError: the images or the workdir cannot be used, or the training diverges.
  """
  load(experiment_of(model), more)  # what is wrong with them is said before anything is read
  source, found = look_at(data)
  console.show_findings(found)
  if (path / RECORD).exists():
    record = read_record(path)
    name, overrides = record["experiment"], [*record["overrides"], *more]
    _check_goes_on(path, record, source, model)
  else:
    chosen = affordable(plan(source, found, model), os.cpu_count() or 1)
    own = [f"but for what you ask: {' '.join(more)}"] if more else []
    console.show_plan(chosen.experiment, [*chosen.reasons, *own])
    name, overrides = chosen.experiment, [*chosen.overrides, *more]
  train(name, overrides, load(name, overrides), path, options)
  on_first_process(lambda: write_json(path / FINDINGS, found.record()))


def _check_goes_on(path: Path, record: Mapping[str, Any], source: str, model: str) -> None:
  was = {"--data": record["resolved"].get("data.source"), "--model": record["experiment"]}
  for flag, now in {"--data": source, "--model": MODELS.get(model, model)}.items():
    if was[flag] != now:
      raise UserError(
        f"{path} holds another run: {flag} was {was[flag]!r} and is now {now!r}; use another --workdir"
      )


def _side(found: Findings, largest: int) -> tuple[int, str]:
  """Side of the images for the network, a multiple of 4, and why."""
  small, middle, large = (min(shape) for shape in found.sides)
  side = min(largest, max(8, 4 * math.ceil(middle / 4)))
  if all(shape == (side, side) for shape in found.sides):
    return side, f"images stay as they are, {side} x {side} pixels"
  sizes = f"{small} pixels" if small == large else f"{small} to {large} pixels, half of them up to {middle}"
  return side, f"the middle of each image becomes {side} x {side} pixels; shorter sides have {sizes}"
