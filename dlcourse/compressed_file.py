"""The file of compressed images: what it says, and whom it lets read it (H5.4.1).

All numbers little-endian: 4 bytes, the kind of code; version, uint8; SHA-256 of all that follows; SHA-256 of
the model; the length of the facts, uint32; the facts, JSON; the words of the code, uint32 each.
"""

import hashlib
import importlib.metadata
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dlcourse import bits_back, platform, symbol_code
from dlcourse.data.npz_source import MAX_BYTES
from dlcourse.errors import UserError, described
from dlcourse.trained import Trained

VERSION = 1
NUMBERS = {bits_back.KIND: "untouched", symbol_code.KIND: "checksum"}  # what a code wants to know besides
PACKAGES = ("dlcourse", "jax", "jaxlib", "constriction")
_HEAD = struct.Struct("<4sB32s")
_MODEL = struct.Struct("<32sI")


class Compressed(NamedTuple):
  """What a file of compressed images says.

  Attributes:
    kind: of the code, see `ImageCode`.
    model: SHA-256 of the model.
    experiment: the name of its experiment.
    surroundings: what else the bits of floating point hang on, see `surroundings`.
    shape: (N, H, W, C).
    numbers: see `Encoded`.
    words: likewise.
  """

  kind: bytes
  model: bytes
  experiment: str
  surroundings: dict[str, str]
  shape: tuple[int, int, int, int]
  numbers: dict[str, int]
  words: np.ndarray


def packed(compressed: Compressed) -> bytes:
  """The bytes of a file."""
  facts = {
    "experiment": compressed.experiment,
    "surroundings": compressed.surroundings,
    "shape": compressed.shape,
    **compressed.numbers,
  }
  text = json.dumps(facts, separators=(",", ":")).encode()
  body = _MODEL.pack(compressed.model, len(text)) + text + compressed.words.astype("<u4").tobytes()
  return _HEAD.pack(compressed.kind, VERSION, hashlib.sha256(body).digest()) + body


def read_compressed(file: Path) -> Compressed:
  """Reads and checks a file that `compress` wrote.

  Raises:
    UserError: it is none, of another version, or damaged.
  """
  try:
    data = file.read_bytes()
  except OSError as error:
    raise UserError(f"{file} cannot be read: {error.strerror}") from error
  if len(data) < _HEAD.size or data[:4] not in NUMBERS:
    raise UserError(f"{file} was not written by `dlcourse compress`")
  kind, version, digest = _HEAD.unpack_from(data)
  if version != VERSION:
    raise UserError(f"{file} is of version {version} of this format; this dlcourse reads version {VERSION}")
  if hashlib.sha256(data[_HEAD.size :]).digest() != digest:
    raise UserError(f"{file} is damaged: its checksum does not fit; fetch it again")
  try:
    return _unpacked(kind, data[_HEAD.size :])
  except (struct.error, ValueError, TypeError, KeyError, RecursionError) as error:
    raise UserError(f"{file} says nothing about its images that can be read ({described(error)})") from error


def surroundings() -> dict[str, str]:
  """What the bits of floating point hang on beside the model: device and versions."""
  device = jax.devices()[0]
  versions = {package: importlib.metadata.version(package) for package in PACKAGES}
  return {"device": f"{device.platform}, {platform.device_name(device)}", **versions}


def digest_of_model(trained: Trained) -> bytes:
  """SHA-256 of the weights, and of the fields of the task that say what is computed with them."""
  digest = hashlib.sha256()
  fields = {path: value for path, value in trained.record["resolved"].items() if path.startswith("task")}
  digest.update(json.dumps(fields, sort_keys=True).encode())
  tree = jax.device_get({"params": trained.state.params, "model_state": trained.state.model_state})
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.digest()


def check_same(file: Path, compressed: Compressed, trained: Trained) -> None:
  """Refuses what this model, here, does not read.

  Args:
    file: for messages.
    compressed: what it says.
    trained: what is to read it.

  Raises:
    UserError: it was written with another model, by other versions or on another kind of machine.
  """
  if compressed.model != digest_of_model(trained):
    raise UserError(
      f"{file} was compressed with another model than that of {trained.path}: one of {compressed.experiment}; "
      "name its --workdir, and its --checkpoint if that was not the default"
    )
  here = surroundings()
  for name, theirs in compressed.surroundings.items():
    if here.get(name) != theirs:
      raise UserError(
        f"{file} was compressed with {name} {theirs!r}, and here is {here.get(name)!r}, where a network may "
        "compute other bits, by which nothing is decompressed; use the former"
      )
  if compressed.shape[1:] != trained.data.spec.image_shape:
    raise UserError(
      f"{file} says that its images are {compressed.shape[1:]}, its model has {trained.data.spec.image_shape}"
    )


def _unpacked(kind: bytes, body: bytes) -> Compressed:
  """Anybody can write a file with a right checksum, so that each field is looked at."""
  model, length = _MODEL.unpack_from(body)
  text, words = body[_MODEL.size :][:length], body[_MODEL.size + length :]
  facts: dict[str, Any] = json.loads(text)
  compressed = Compressed(
    kind=kind,
    model=model,
    experiment=str(facts["experiment"]),
    surroundings={str(name): str(value) for name, value in dict(facts["surroundings"]).items()},
    shape=tuple(facts["shape"]),
    numbers={NUMBERS[kind]: facts[NUMBERS[kind]]},
    words=np.frombuffer(words, "<u4").astype(np.uint32),
  )
  numbers = (*compressed.shape, *compressed.numbers.values())
  if len(numbers) != 5 or not all(type(number) is int and number >= 0 for number in numbers):
    raise ValueError(f"'shape' or '{NUMBERS[kind]}' is not made of whole numbers")
  if not 0 < np.prod(compressed.shape, dtype=object) <= MAX_BYTES:
    raise ValueError(f"images of more than {MAX_BYTES:,} bytes, or none")
  if kind == bits_back.KIND and not compressed.words[-1:].any():
    raise ValueError("a code without an end")
  return compressed
