"""Images as one compressed file, and back: what `dlcourse compress` and `decompress` do (H5.4.1).

The file, all numbers little-endian: 4 bytes that say what it is; version, uint8; SHA-256 of all that follows;
SHA-256 of the model; the length of the facts, uint32; the facts, JSON; the words of the code, uint32 each. See
`dlcourse.bits_back` for the code.
"""

import hashlib
import importlib.metadata
import json
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from dlcourse import bits_back, platform
from dlcourse.bits_back import Coded, Networks
from dlcourse.data.image_files import read_idx, read_image
from dlcourse.data.image_sources import IMAGE_SUFFIXES
from dlcourse.data.npz_source import MAX_BYTES, read_arrays
from dlcourse.errors import UserError, described
from dlcourse.trained import Trained
from dlcourse.whole_file import whole_file

MAGIC, VERSION = b"dlbb", 1
PACKAGES = ("dlcourse", "jax", "jaxlib", "constriction")
_HEAD = struct.Struct("<4sB32s")
_MODEL = struct.Struct("<32sI")


class Compressed(NamedTuple):
  """What a file of compressed images says.

  Attributes:
    model: SHA-256 of the model.
    experiment: the name of its experiment.
    surroundings: what else the bits of floating point hang on, see `surroundings`.
    shape: (N, H, W, C).
    untouched: see `Coded`.
    words: likewise.
  """

  model: bytes
  experiment: str
  surroundings: dict[str, str]
  shape: tuple[int, int, int, int]
  untouched: int
  words: np.ndarray


class Rates(NamedTuple):
  """What compressing has given.

  Attributes:
    images: N.
    changed: pixels that had to become black or white first, for a model of such images.
    file_bytes: size of the file.
    bits_per_dim: of the file, for each pixel and channel.
    net_bits_per_dim: the same without header and initial bits, which do not grow with the images.
    initial_bits: that the first image took and no other had given.
  """

  images: int
  changed: int
  file_bytes: int
  bits_per_dim: float
  net_bits_per_dim: float
  initial_bits: int


def compress(trained: Trained, source: Path, file: Path) -> Rates:
  """Compresses images without loss.

  Args:
    trained: a VAE that `bits_back.networks_of` takes.
    source: see `read_images`.
    file: that is written; must not be there yet.

  Raises:
    UserError: the model cannot code images, these are not of its shape, or the file cannot be written.
  """
  _check_new(file)
  networks = _networks(trained)
  images = read_images(source, networks.shape)
  seen = networks.seen(images)
  coded = bits_back.encode(networks, seen)
  with whole_file(file) as temporary:
    temporary.write_bytes(_packed(trained, seen.shape, coded))
  size = file.stat().st_size
  return Rates(
    images=len(images),
    changed=int((seen != images).sum()),
    file_bytes=size,
    bits_per_dim=8 * size / images.size,
    net_bits_per_dim=coded.net_bits / images.size,
    initial_bits=coded.initial_bits,
  )


def decompress(trained: Trained, file: Path, target: Path) -> int:
  """Restores the images of a compressed file.

  Args:
    trained: what they were compressed with.
    file: that `compress` wrote.
    target: FILE.npz, with `images` uint8 [N, H, W, C], or a folder for N PNG files; must not be there yet.

  Returns:
    N.

  Raises:
    UserError: the file is damaged or none of these, or it was written with another model, by other versions or
      on another kind of machine; or the target cannot be written.
  """
  _check_new(target)
  compressed = read_compressed(file)
  networks = _networks(trained)
  _check_same(file, compressed, trained, networks)
  images = bits_back.decode(networks, compressed.words, compressed.untouched, compressed.shape[0])
  if target.suffix == ".npz":
    with whole_file(target) as temporary, temporary.open("wb") as opened:
      np.savez_compressed(opened, images=images)
    return len(images)
  target.mkdir()
  for index, image in enumerate(images):
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(target / f"{index:06d}.png")
  return len(images)


def read_images(source: Path, shape: tuple[int, int, int]) -> np.ndarray:
  """The images that are to be compressed, as they are.

  Args:
    source: a folder of image files, in the order of their names; one image file; an .npz with `images` uint8
      [N, H, W, C] or [N, H, W]; an IDX file, plain or .gz.
    shape: (H, W, C) that they have to have; files in colour may hold grey.

  Returns:
    uint8 [N, H, W, C].

  Raises:
    UserError: it cannot be read, there are none, or they have another shape.
  """
  if source.is_dir():
    files = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    images = [_fitting(str(path), read_image(path)[None], shape) for path in files]
    if not images:
      raise UserError(f"{source} holds no images: png, jpg, bmp, gif, webp or tif")
    return np.concatenate(images)
  if not source.is_file():
    raise UserError(f"no such file or folder: {source}")
  if source.suffix == ".npz":
    images = read_arrays(source).get("images")
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
      raise UserError(f"{source} needs an array `images`, uint8 [N, H, W] or [N, H, W, C]")
  elif "idx3-ubyte" in source.name:
    images = read_idx(source, dimensions=3)
  else:
    images = read_image(source)[None]
  return _fitting(str(source), images[..., None] if images.ndim == 3 else images, shape)


def read_compressed(file: Path) -> Compressed:
  """Reads and checks a file that `compress` wrote.

  Raises:
    UserError: it is none, of another version, or damaged.
  """
  try:
    data = file.read_bytes()
  except OSError as error:
    raise UserError(f"{file} cannot be read: {error.strerror}") from error
  if len(data) < _HEAD.size or not data.startswith(MAGIC):
    raise UserError(f"{file} was not written by `dlcourse compress`")
  _, version, digest = _HEAD.unpack_from(data)
  if version != VERSION:
    raise UserError(f"{file} is of version {version} of this format; this dlcourse reads version {VERSION}")
  if hashlib.sha256(data[_HEAD.size :]).digest() != digest:
    raise UserError(f"{file} is damaged: its checksum does not fit; fetch it again")
  try:
    return _unpacked(data[_HEAD.size :])
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


def _networks(trained: Trained) -> Networks:
  return bits_back.networks_of(trained.program.task, trained.state, trained.data.spec)


def _packed(trained: Trained, shape: tuple[int, ...], coded: Coded) -> bytes:
  facts = {
    "experiment": trained.record["experiment"],
    "surroundings": surroundings(),
    "shape": shape,
    "untouched": coded.untouched,
  }
  text = json.dumps(facts, separators=(",", ":")).encode()
  body = _MODEL.pack(digest_of_model(trained), len(text)) + text + coded.words.astype("<u4").tobytes()
  return _HEAD.pack(MAGIC, VERSION, hashlib.sha256(body).digest()) + body


def _unpacked(body: bytes) -> Compressed:
  """Anybody can write a file with a right checksum, so that each field is looked at."""
  model, length = _MODEL.unpack_from(body)
  text, words = body[_MODEL.size :][:length], body[_MODEL.size + length :]
  facts: dict[str, Any] = json.loads(text)
  compressed = Compressed(
    model=model,
    experiment=str(facts["experiment"]),
    surroundings={str(name): str(value) for name, value in dict(facts["surroundings"]).items()},
    shape=tuple(facts["shape"]),
    untouched=facts["untouched"],
    words=np.frombuffer(words, "<u4").astype(np.uint32),
  )
  numbers = (*compressed.shape, compressed.untouched)
  if len(numbers) != 5 or not all(type(number) is int and number >= 0 for number in numbers):
    raise ValueError("'shape' or 'untouched' is not made of whole numbers")
  if not 0 < np.prod(compressed.shape, dtype=object) <= MAX_BYTES:
    raise ValueError(f"images of more than {MAX_BYTES:,} bytes, or none")
  if not len(compressed.words) or not compressed.words[-1]:
    raise ValueError("a code without an end")
  return compressed


def _check_same(file: Path, compressed: Compressed, trained: Trained, networks: Networks) -> None:
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
  if compressed.shape[1:] != networks.shape:
    raise UserError(f"{file} says that its images are {compressed.shape[1:]}, its model has {networks.shape}")
  if compressed.untouched > bits_back.most_initial_words(compressed.shape[0], networks.latents):
    raise UserError(f"{file} says that {compressed.untouched:,} words were left over, which are too many")


def _fitting(name: str, images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
  if shape[-1] == 1 and images.shape[-1] == 3 and (images == images[..., :1]).all():
    images = images[..., :1]
  if images.shape[1:] != shape:
    found, wanted = (" x ".join(map(str, sizes)) for sizes in (images.shape[1:], shape))
    raise UserError(f"{name} is {found}, and the model codes images of {wanted} (height, width, channels)")
  return images


def _check_new(path: Path) -> None:
  if os.path.lexists(path):
    raise UserError(f"{path} is there already; name another, or remove it")
  if not path.parent.is_dir():
    raise UserError(f"{path} would be in a folder that does not exist")
