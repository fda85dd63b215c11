"""Images as one compressed file, and back: what `dlcourse compress` and `decompress` do (H5.4.1).

A VAE codes them without loss (`dlcourse.bits_back`), a VQ-VAE with a prior codes what it makes of them
(`dlcourse.symbol_code`); `dlcourse.compressed_file` says what the file looks like.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from dlcourse import bits_back, symbol_code
from dlcourse.compressed_file import (
  Compressed,
  check_same,
  digest_of_model,
  packed,
  read_compressed,
  surroundings,
)
from dlcourse.data.image_files import left_out, read_idx, read_image
from dlcourse.data.image_lists import IMAGE_SUFFIXES
from dlcourse.data.npz_source import read_arrays
from dlcourse.errors import UserError
from dlcourse.image_code import ImageCode
from dlcourse.trained import Trained
from dlcourse.whole_file import whole_file


def compress(trained: Trained, source: Path, file: Path, threshold: bool = False) -> dict[str, float]:
  """Compresses images: without loss by a VAE, as symbols by a VQ-VAE with a prior.

  Args:
    trained: a model that `bits_back.networks_of` or `symbol_code.networks_of` takes.
    source: see `read_images`.
    file: that is written; must not be there yet.
    threshold: make pixels black or white first, for a model of such images.

  Returns:
    images: N; file_bytes; bits_per_dim, of the file, for each pixel and channel; net_bits_per_dim, the same
    without header and initial bits, which do not grow with the images. Without loss: initial_bits, that the
    first image took and no other had given. With loss: psnr in dB, of all pixels that will come back.

  Raises:
    UserError: the model cannot code images, these are not of its shape or are grey where it codes black and
      white ones, or the file cannot be written.
  """
  _check_new(file)
  code = _code_of(trained)
  images = read_images(source, code.shape)
  seen = code.seen(images)
  if not threshold and (changed := int((seen != images).sum())):
    raise UserError(
      f"{changed:,} of {images.size:,} pixels are neither black nor white, and this model codes no others; "
      "--threshold makes them so first, and so they come back (a model like vae.logistic codes grey ones)"
    )
  coded = code.encode(seen, _shown)
  content = Compressed(
    code.kind,
    digest_of_model(trained),
    trained.record["experiment"],
    surroundings(),
    images.shape,
    coded.numbers,
    coded.words,
  )
  with whole_file(file) as temporary:
    temporary.write_bytes(packed(content))
  size = file.stat().st_size
  return {"images": len(images), "file_bytes": size, "bits_per_dim": 8 * size / images.size, **coded.rates}


def decompress(trained: Trained, file: Path, target: Path) -> int:
  """Restores the images of a compressed file, or what a code with loss has left of them.

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
  check_same(file, compressed, trained)
  images = _code_of(trained).decode(compressed.words, compressed.numbers, compressed.shape[0], _shown)
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
    images = [_fitting(str(path), _image(path)[None], shape) for path in files]
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
    images = _image(source)[None]
  return _fitting(str(source), images[..., None] if images.ndim == 3 else images, shape)


def _image(path: Path) -> np.ndarray:
  """uint8 [H, W, 3] of a file in which there is nothing else."""
  if lost := left_out(path):
    raise UserError(f"{path} has {lost}, which would not come back; save it as 8-bit grey or RGB first")
  return read_image(path)


def _code_of(trained: Trained) -> ImageCode:
  task = trained.program.task
  by = symbol_code if task.codes else bits_back
  return by.image_code(by.networks_of(task, trained.state, trained.data.spec))


def _shown(turns: Sequence[int]) -> Iterable[int]:
  """The same, with a bar where somebody sees it."""
  console = Console(stderr=True)
  return track(turns, "images", console=console, transient=True, disable=not console.is_terminal)


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
