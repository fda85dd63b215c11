"""Pictures and text that a generative task makes."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from dlcourse.data.recipe import Data, Spec
from dlcourse.data.tokens import UNK
from dlcourse.errors import UserError, check_at_least, unknown
from dlcourse.evaluators import Evaluator, Report
from dlcourse.report.figures import image_grid, save_image_grid, text_page

MOST_SYMBOLS = 10_000_000  # in one call: what a laptop's memory holds
_OURS = re.compile(r"([0-9]{4}|[1-9][0-9]{4})\.(png|txt)|grid\.png|points\.csv")  # what `save_samples` writes


class Request(NamedTuple):
  """What a person asks a generative task for.

  Attributes:
    samples: how many.
    prompt: what a text begins with, None: a line break; or what is to be answered or translated.
    length: symbols of a text, the prompt included.
    temperature: 1 samples the model's distribution, 0 takes the likeliest symbol; of images, how far from the
      middle of the latents they are drawn.
    condition: the class that a conditional model's samples are of; None: all in turn.
    source: [samples, h, w, c] in [0, 1], what images are drawn for, where the model is told a source.
  """

  samples: int = 16
  prompt: str | None = None
  length: int = 500
  temperature: float = 1.0
  condition: str | None = None
  source: np.ndarray | None = None


def draw(task, state, spec: Spec, request: Request, key: jax.Array) -> dict[str, np.ndarray]:
  """Asks `task.generate` for what fits the data: texts or answers where there is a vocabulary, else images.

  A conditional model is asked for the class that is wanted, or for all in turn.

  Raises:
    UserError: a prompt for images, no source where one is needed, a class that there is not, a symbol the model
      has never seen, a prompt longer than the text, more than `MOST_SYMBOLS`, a temperature that is none.
  """
  if not spec.vocabulary:
    arrays = _picture_request(task.conditional, spec, request)
  elif "inputs" in spec.batch:
    arrays = _question(spec, request)
  else:
    arrays = _text_request(spec, request)
  return jax.device_get(task.generate(state, key, arrays))


def _picture_request(conditional: bool, spec: Spec, request: Request) -> dict[str, np.ndarray]:
  if request.prompt is not None:
    raise UserError("--prompt goes with a text model; this one makes images")
  _check_temperature("temperature", request.temperature)
  label = _wanted_classes(spec.classes if conditional else (), request)
  temperature = np.full(request.samples, request.temperature, np.float32)
  asked = {"index": np.arange(request.samples), "temperature": temperature}
  if "source" in spec.batch:
    if request.source is None:
      raise UserError(
        "this model draws images for sources; Plausible and `dlcourse sample` give it test sources"
      )
    asked["source"] = spec.scale(request.source)
  return asked | ({} if label is None else {"label": label})


def _wanted_classes(classes: Sequence[str], request: Request) -> np.ndarray | None:
  """[N] int32: the class that is asked for, or all in turn; None where the model knows none."""
  if not classes:
    if request.condition is not None:
      raise UserError("--condition goes with a conditional model; this one knows no classes")
    return None
  every = np.arange(request.samples, dtype=np.int32) % len(classes)
  if request.condition is None:
    return every
  if request.condition not in classes:
    raise unknown("class of --condition", request.condition, classes)
  return np.full_like(every, classes.index(request.condition))


def _question(spec: Spec, request: Request) -> dict[str, np.ndarray]:
  """The same source, to be answered as often as is asked for."""
  _check_temperature("temperature", request.temperature)
  if request.condition is not None:
    raise UserError("--condition goes with a conditional language model; this one answers --prompt")
  tokens = spec.tokenizer.encode(request.prompt or "")
  if not len(tokens):
    raise UserError("--prompt says what is to be answered, such as a sentence to translate")
  if UNK in tokens:
    logging.warning("--prompt has %d tokens that the training text has not", np.sum(tokens == UNK))
  count = request.samples
  return {
    "inputs": np.tile(tokens, (count, 1)),
    "lengths": np.full(count, len(tokens), np.int32),
    "temperature": np.full(count, request.temperature, np.float32),
  }


def _text_request(spec: Spec, request: Request) -> dict[str, np.ndarray]:
  _check_temperature("temperature", request.temperature)
  lines = spec.tokenizer is not None or "\n" in spec.vocabulary  # of parts of words any text can be made
  start = spec.encode(request.prompt or ("\n" if lines else spec.vocabulary[0]), "--prompt")
  if len(start) > request.length:
    raise UserError(f"--prompt has {len(start)} symbols, more than --length={request.length}")
  if request.samples * request.length > MOST_SYMBOLS:
    raise UserError(
      f"--samples={request.samples} of --length={request.length} are more than {MOST_SYMBOLS:,} symbols; "
      "draw fewer"
    )
  tokens = np.zeros((request.samples, request.length), np.int32)
  tokens[:, : len(start)] = start
  given = np.zeros((request.samples, request.length), np.float32)
  given[:, : len(start)] = 1.0
  temperature = np.full(request.samples, request.temperature, np.float32)
  asked = {"tokens": tokens, "given": given, "temperature": temperature}
  label = _wanted_classes(spec.classes, request)
  return asked | ({} if label is None else {"condition": label[:, None]})


def _check_temperature(path: str, temperature: float) -> None:
  if not 0 <= temperature < math.inf:
    raise UserError(f"--{path}={temperature} is no temperature; it is a number that is at least 0")


def save_samples(
  outputs: dict[str, np.ndarray], spec: Spec, folder: pathlib.Path, made_by: Mapping[str, str] | None = None
) -> list[pathlib.Path]:
  """Writes texts as one file each, points as a table, images as one grid and one PNG each; returns the files.

  Samples of an earlier call that they do not replace are removed; what has another name stays.

  Args:
    outputs: of `draw`.
    spec: of the data.
    folder: made where it does not exist.
    made_by: written into each PNG, so that a picture says that it was generated, and by what (H4.10.3).
  """
  folder.mkdir(parents=True, exist_ok=True)
  if "tokens" in outputs:
    files = []
    for index, text in enumerate(map(spec.decode, outputs["tokens"])):
      files.append(folder / f"{index:04d}.txt")
      files[-1].write_text(text + "\n", encoding="utf-8")
  elif "point" in outputs:
    files = [folder / "points.csv"]
    np.savetxt(files[0], outputs["point"], delimiter=",", header="x,y", comments="", fmt="%.6f")
  else:
    files = save_image_grid(_pictures(outputs["image"]), folder, made_by)
  for old in set(folder.iterdir()) - set(files):
    if _OURS.fullmatch(old.name):
      old.unlink()
  return files


def _pictures(images: np.ndarray) -> np.ndarray:
  """[N, H, W, C] as they are, grey or in colour; frames [N, H, W, T] side by side, [N, H, T W, 1]."""
  count, height, _, channels = images.shape
  return images if channels in (1, 3) else np.moveaxis(images, -1, 2).reshape(count, height, -1, 1)


@dataclasses.dataclass(frozen=True)
class SampleGrid(Evaluator):
  """A grid of images drawn from the model."""

  samples: int = 64
  """How many images."""

  def __post_init__(self) -> None:
    """Refuses an empty grid."""
    check_at_least(1, {"evaluators….samples": self.samples})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """One figure; of a conditional model each column is a class, and the last row is completed."""
    columns = len(data.spec.classes) if task.conditional else None
    count = self.samples if columns is None else -(-self.samples // columns) * columns
    images = draw(task, state, data.spec, Request(count), key)["image"]
    return Report(figures={"samples": image_grid(images, columns)})


@dataclasses.dataclass(frozen=True)
class Reconstructions(Evaluator):
  """Test images above what the model makes of them (H5.2.1)."""

  images: int = 16
  """How many pairs."""

  def __post_init__(self) -> None:
    """Refuses an empty grid."""
    check_at_least(1, {"evaluators….images": self.images})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """One figure: rows of originals, of what the encoder is shown if that differs, and of reconstructions."""
    batch = next(iter(data.eval_batches("test")))
    made = jax.device_get(task.predict(state, key, batch))
    count = min(self.images, int(batch["mask"].sum()))
    kinds = [
      batch["image"].astype(np.float32) / 255,
      *(made[name] for name in ("shown", "image") if name in made),
    ]
    columns = min(8, count)
    rows = []
    for start in range(0, count, columns):
      for pictures in kinds:
        row = pictures[:count][start : start + columns]
        rows.append(np.pad(row, [(0, columns - len(row))] + [(0, 0)] * 3))  # the last row may be short
    figure = image_grid(np.concatenate(rows), columns=columns)
    return Report(figures={"reconstructions": figure})


@dataclasses.dataclass(frozen=True)
class TextSamples(Evaluator):
  """Texts drawn from a language model (H3.11.4)."""

  samples: int = 2
  """How many texts."""
  length: int = 400
  """Symbols of each."""
  temperature: float = 0.8
  """Below 1 prefers likelier symbols."""

  def __post_init__(self) -> None:
    """Refuses an empty page, and a temperature that is none."""
    check_at_least(1, {"evaluators….samples": self.samples, "evaluators….length": self.length})
    _check_temperature("evaluators….temperature", self.temperature)

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """The texts as a table and as a page."""
    request = Request(self.samples, None, self.length, self.temperature)
    texts = [*map(data.spec.decode, draw(task, state, data.spec, request, key)["tokens"])]
    return Report(tables={"samples": [{"text": text} for text in texts]}, figures={"samples": text_page(texts)})
