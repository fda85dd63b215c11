"""Answers while a sequence arrives: each step is read once, and memory does not grow (H3.12.5)."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.trained import Trained

LONGEST_CHUNK = 256  # steps of one call; shorter ones are powers of two, so that few programs are compiled


class Listener:
  """Takes a sequence in parts and gives the network's outputs after every step.

  Attributes:
    seen: steps so far.
  """

  def __init__(self, trained: Trained) -> None:
    """Starts before the first step.

    Args:
      trained: whose network reads from the start to the end.

    Raises:
      UserError: it does not.
    """
    if trained.program.stream is None:
      raise UserError(f"{trained.record['experiment']} does not read a sequence step by step: it cannot stream")
    self._trained = trained
    self.restart()
    self._prepare = jax.jit(lambda batch: trained.data.spec.prepare(None, batch)["inputs"])
    self._check_scaling()
    inputs = trained.data.spec.batch["inputs" if "inputs" in trained.data.spec.batch else "tokens"]
    one = jax.ShapeDtypeStruct((1, 1, *inputs.shape[2:]), inputs.dtype)
    jax.eval_shape(trained.program.task.stream, trained.state, None, one)  # refuses before the first line comes

  def _scaled(self, steps: np.ndarray) -> jax.Array:
    """Steps [T] or [T, D] as training has seen them, [1, T, ...]."""
    if not np.issubdtype(steps.dtype, np.floating):
      return steps[None]
    ones = np.ones(1, np.float32)
    return self._prepare({"inputs": steps[None], "lengths": np.full(1, len(steps), np.int32), "mask": ones})

  def _check_scaling(self) -> None:
    shape = self._trained.data.spec.batch.get("inputs")
    if shape is None or not np.issubdtype(shape.dtype, np.floating):
      return
    two = np.linspace(0, 1, 2 * math.prod(shape.shape[2:]), dtype=np.float32).reshape(2, *shape.shape[2:])
    apart = np.concatenate([self._scaled(two[:1]), self._scaled(two[1:])], axis=1)
    if not np.allclose(self._scaled(two), apart):
      raise UserError("this data is scaled by the whole sequence (--data.scale): it cannot be streamed")

  def restart(self) -> None:
    """Forgets all that has been heard."""
    self.seen, self._carry = 0, None

  def hear(self, steps: np.ndarray) -> np.ndarray:
    """Goes on.

    Args:
      steps: [T] token numbers, or [T, D] values as the data has them.

    Returns:
      What the task's `predict` gives for each step, [T, ...].
    """
    outputs, start = [], 0
    while start < len(steps):
      size = min(LONGEST_CHUNK, 1 << (len(steps) - start).bit_length() - 1)
      chunk = self._scaled(steps[start : start + size])
      self._carry, out = self._trained.program.stream(self._trained.state, self._carry, chunk)
      outputs.append(np.asarray(out[0]))
      start += size
    self.seen += len(steps)
    return np.concatenate(outputs)


def answers(trained: Trained, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
  """What a network says to lines as they come; an empty line ends a sequence, but for a language model.

  A line is a sample of numbers, or text. To a sample there is one answer, a class with its probability or a
  forecast; to text one for every token, or for a language model one a line: how many nats a symbol of it cost,
  given all before, and what is likeliest to follow.

  Raises:
    UserError: the network cannot stream, or a line cannot be read.
  """
  spec, listener = trained.data.spec, Listener(trained)
  if spec.vocabulary and not spec.classes:
    yield from _of_language_model(spec, listener, lines)
    return
  for number, line in enumerate(lines, 1):
    if not line.strip():
      listener.restart()
    elif spec.vocabulary:
      tokens = spec.encode(line.strip("\n"), f"line {number}")
      for token, probabilities in zip(tokens, listener.hear(tokens), strict=True):
        yield {"token": spec.vocabulary[token], **_class(spec, probabilities)}
    else:
      (output,) = listener.hear(_sample(spec, line, number)[None])
      yield _class(spec, output) if spec.classes else {"forecast": [round(float(x), 6) for x in output]}


def _of_language_model(spec: Spec, listener: Listener, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
  following = None  # [V], what comes after all that has been read
  for number, line in enumerate(lines, 1):
    tokens = spec.encode(line, f"line {number}")
    if not len(tokens):
      continue
    probabilities = listener.hear(tokens)
    before = probabilities[:-1] if following is None else np.stack([following, *probabilities[:-1]])
    chances = before[np.arange(len(before)), tokens[len(tokens) - len(before) :]]  # of the symbols that came
    following = probabilities[-1]
    likeliest = np.argsort(-following)[:5]
    yield {
      "symbols": len(tokens),
      "nats": round(float(-np.log(np.maximum(chances, 1e-30)).mean()), 4) if len(chances) else None,
      "next": {spec.vocabulary[i]: round(float(following[i]), 4) for i in likeliest},
    }


def _sample(spec: Spec, line: str, number: int) -> np.ndarray:
  """The values [D] of one step."""
  size = spec.batch["inputs"].shape[-1]
  wanted = f"{size} finite numbers" + (f": {', '.join(spec.channels)}" if spec.channels else "")
  try:
    values = np.array([float(value) for value in line.replace(",", " ").split()], np.float32)
  except ValueError as error:
    raise UserError(f"line {number} is no sample: {line.strip()[:60]!r}; it takes {wanted}") from error
  if values.shape != (size,) or not np.isfinite(values).all():
    raise UserError(f"line {number} has {len(values)} numbers; a sample is {wanted}")
  return values


def _class(spec: Spec, probabilities: np.ndarray) -> dict[str, Any]:
  best = int(probabilities.argmax())
  return {"class": spec.classes[best], "probability": round(float(probabilities[best]), 4)}
