"""Decodes image files that nobody has vetted."""

import gzip
import io
import math
import struct
import time
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dlcourse.data.npz_source import check_unpacked
from dlcourse.errors import UserError

# The only decoders that are tried: the fewer, the less a hostile file can reach.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
MAX_BYTES = 50 * 2**20
MAX_PIXELS = 50_000_000
MAX_IDX_BYTES = 2**31
MAX_SECONDS = 15  # of one core: what an honest image takes is a tenth of it

# What Pillow's decoders are known to raise on damaged files.
_DECODE_ERRORS = (
  OSError,
  SyntaxError,
  ValueError,
  TypeError,
  LookupError,
  ArithmeticError,
  MemoryError,
  EOFError,
  AttributeError,
  struct.error,
  zlib.error,
  Image.DecompressionBombError,
)
_EXIF_ORIENTATION = 0x0112
_MOST_EXIF = 2**20  # bytes; a camera writes up to 2**16
_EXIF_PARTS = 16  # of 2**16 bytes each: a JPEG may hold more, and Pillow makes one of them
_MOST_NUMBERS = 2**16  # in a list of a TIFF: Pillow makes an object of a hundred bytes of every one
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")  # the last two are wrong, and read
_TIFF_TEXTS = (1, 2, 6, 7)  # kinds of lists that stay bytes …
_TIFF_PIECES = (273, 324)  # … but for the places of strips and tiles
_TIFF_TILE = (322, 323)  # its width and height
_TIFF_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
_TIFF_SAMPLE_FORMAT = 339
_SIGNED = (2,)


class BadImage(UserError):
  """A file that cannot be used as an image; the one-line message names it and says why."""


def read_image(source: Path | str | bytes, size: int | None = None) -> np.ndarray:
  """Decodes the first frame of an image as a person would see it.

  EXIF rotation is applied, transparency is laid over white, and more than 8 bits of grey keep their range, see
  `_eight_bits`.

  Args:
    source: path or contents of a JPEG, PNG, BMP, GIF, WebP or TIFF file.
    size: pixels; the largest centred square is resized (bilinear) to size x size. None keeps all.

  Returns:
    uint8 [H, W, 3], RGB.

  Raises:
    BadImage: missing, empty, damaged, too large, too slow to decode, or of another format.
  """
  data, name = _contents(source)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      return np.array(_decode(data, name, size))
  except _DECODE_ERRORS as error:
    raise _damaged(name, error) from error


def left_out(source: Path | str | bytes) -> str | None:
  """What `read_image` leaves out of a file, such as "16 bits"; None: nothing. Reads only the header.

  Raises:
    BadImage: as `read_image`, as far as the header shows.
  """
  data, name = _contents(source)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      image = _open(data, name)
      frames = getattr(image, "n_frames", 1)
  except _DECODE_ERRORS as error:
    raise _damaged(name, error) from error
  if frames > 1:
    return f"{frames} frames"
  if image.mode in ("I", "F"):
    return "32 bits"
  if any(";16" in str(tile.args) for tile in image.tile):  # of colours too, which Pillow cuts to 8
    return "16 bits"
  if image.has_transparency_data:
    return "transparency"
  return f"{image.mode} colours" if image.mode in ("CMYK", "LAB", "HSV", "YCbCr") else None


def image_size(source: Path | str | bytes) -> tuple[int, int]:
  """(height, width) in pixels that `read_image` would give without `size`; reads only the header.

  Raises:
    BadImage: as `read_image`, as far as the header shows.
  """
  data, name = _contents(source)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      image = _open(data, name)
      # Of a TIFF, Pillow gives the size as it is when turned.
      turned = image.format != "TIFF" and image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
  except _DECODE_ERRORS as error:
    raise _damaged(name, error) from error
  return image.size if turned else image.size[::-1]


def centre_square(image: Image.Image, size: int) -> Image.Image:
  """The largest centred square, resized (bilinear with antialiasing) to size x size pixels."""
  return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def read_idx(path: Path | str, dimensions: int) -> np.ndarray:
  """Reads an IDX file of bytes, as MNIST and Fashion-MNIST are published.

  Format: http://yann.lecun.com/exdb/mnist/ (two zero bytes, type, number of dimensions, sizes).

  Args:
    path: plain or gzip-compressed file.
    dimensions: 3 for images [N, H, W], 1 for labels [N].

  Returns:
    uint8, with that many dimensions.

  Raises:
    UserError: not such a file, truncated, or longer than its header says.
  """
  try:
    with open(path, "rb") as file:
      compressed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if compressed else open(path, "rb") as file:
      magic, sizes = file.read(4), file.read(4 * dimensions)
      if magic != bytes([0, 0, 8, dimensions]) or len(sizes) < 4 * dimensions:
        raise UserError(f"{path} is no IDX file of bytes with {dimensions} dimensions")
      shape = struct.unpack(f">{dimensions}I", sizes)
      # In Python's integers: the product of three 32-bit sizes overflows any of NumPy's.
      expected = 1
      for n in shape:
        expected *= n
      if expected > MAX_IDX_BYTES:
        raise UserError(f"{path} claims {expected:,} bytes, more than {MAX_IDX_BYTES:,}")
      check_unpacked(Path(path), expected)
      data = file.read(expected + 1)
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f"cannot read {path} ({_one_line(error)}); fetch it again") from error
  if len(data) != expected:
    found = "more" if len(data) > expected else f"{len(data):,}"
    raise UserError(f"{path} should hold {expected:,} bytes, found {found}; fetch it again")
  return np.frombuffer(data, np.uint8).reshape(shape)


def _contents(source: Path | str | bytes) -> tuple[bytes, str]:
  """(bytes, name for messages)."""
  if isinstance(source, bytes):
    data, name = source, "image"
  else:
    path, name = Path(source), str(source)
    try:
      if not path.is_file():
        is_folder = path.is_dir()
        raise BadImage(f"{name}: " + ("a folder; name the images in it" if is_folder else "no such file"))
      with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    except OSError as error:
      raise BadImage(f"{name}: {error.strerror}") from error
  if not data:
    raise BadImage(f"{name}: empty file")
  if len(data) > MAX_BYTES:
    raise BadImage(f"{name}: larger than {MAX_BYTES:,} bytes")
  return data, name


class _Impatient(io.BytesIO):
  """A file in memory that cannot be read for ever: small ones can keep a decoder busy for hours."""

  def __init__(self, data: bytes):
    super().__init__(data)
    self._end = time.thread_time() + MAX_SECONDS

  def read(self, size: int | None = -1) -> bytes:
    if time.thread_time() > self._end:
      raise OSError(f"it takes more than {MAX_SECONDS} s")
    return super().read(size)


def _open(data: bytes, name: str) -> Image.Image:
  """The image with its pixels not decoded yet, refused by its header if it would take too much memory."""
  if data.startswith(_TIFF):
    _check_lists(data)
  if data.count(b"Exif\0\0") > _EXIF_PARTS:
    raise BadImage(f"{name}: more than {_EXIF_PARTS} blocks of EXIF")
  image = Image.open(_Impatient(data), formats=FORMATS)
  if image.width * image.height > MAX_PIXELS:
    raise BadImage(f"{name}: {image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
  if len(image.info.get("exif", b"")) > _MOST_EXIF:
    raise BadImage(f"{name}: EXIF of {len(image.info['exif']):,} bytes")
  if image.format == "TIFF" and math.prod(_tiles(image)) > MAX_PIXELS:
    raise BadImage(f"{name}: tiles of more than {MAX_PIXELS:,} pixels")
  return image


def _check_lists(data: bytes) -> None:
  """Refuses the first directory of a TIFF (TIFF 6.0, section 2) if Pillow would make too much of its lists."""
  order, big = "<" if data.startswith(b"II") else ">", data[2:3] == b"+"
  (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
  head, entry = struct.Struct(order + ("Q" if big else "H")), struct.Struct(order + ("HHQQ" if big else "HHII"))
  (count,) = head.unpack_from(data, start)
  entries = data[start + head.size :][: count * entry.size]
  for tag, kind, numbers, _ in entry.iter_unpack(entries[: len(entries) // entry.size * entry.size]):
    if numbers > _MOST_NUMBERS and (kind not in _TIFF_TEXTS or tag in _TIFF_PIECES):
      raise ValueError(f"a list of {numbers:,} numbers")


def _tiles(image: Image.Image) -> list[int]:
  """Width and height of the tiles of a TIFF, for which a decoder takes memory; 1 where it has none."""
  sides = [image.tag_v2.get(tag, 1) for tag in _TIFF_TILE]
  if not all(isinstance(side, int) for side in sides):
    raise ValueError("tiles without a size")
  return sides


def _decode(data: bytes, name: str, size: int | None) -> Image.Image:
  opened = _open(data, name)
  if size:
    opened.draft(None, (2 * size, 2 * size))  # JPEG only: decodes a large photo at 1/2, 1/4 or 1/8
  image = ImageOps.exif_transpose(opened)
  if image.mode.startswith(("I", "F")):  # convert() would clip at 255
    image = Image.fromarray(_eight_bits(image, getattr(opened, "tag_v2", {}), name))
  if image.mode == "La":  # which becomes nothing but LA
    image = image.convert("LA")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  image = image.convert("RGB")
  return centre_square(image, size) if size else image


def _eight_bits(image: Image.Image, tags: Mapping[int, Any], name: str) -> np.ndarray:
  """uint8 [H, W] of grey with 16 or 32 bits, or of floats: black is 0.

  White is the largest number of 16 bits; of 32 that of the fewest bits (8, 16, all) that hold every value; of
  floats 1, or that of 8 or 16 bits. By a larger white the image would be black all over.

  Args:
    image: of mode I;16, I or F.
    tags: of its file, if that is a TIFF.
    name: for messages.

  Raises:
    BadImage: there are values below 0, above any white, or that are no numbers.
  """
  values = np.asarray(image)
  if image.mode == "I" and tags.get(_TIFF_SAMPLE_FORMAT) != _SIGNED:
    values = values.view(np.uint32)
  whites = (65535,)
  if image.mode == "I":
    whites = (255, 65535, np.iinfo(values.dtype).max)
  elif image.mode == "F":
    whites = (1, 255, 65535)
  low, high = values.min(), values.max()
  white = next((white for white in whites if high <= white), None)
  if white is None or not low >= 0:
    raise BadImage(
      f"{name}: grey from {low} to {high} has no agreed black and white; save it with 8 or 16 bits"
    )
  scaled = values.astype(np.float32)
  scaled *= 255 / white
  if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow sees to that for 8 bits alone
    scaled = 255 - scaled
  pixels = np.rint(scaled).astype(np.uint8)
  if "transparency" in image.info:
    pixels[values == image.info["transparency"]] = 255
  return pixels


def _damaged(name: str, error: BaseException) -> BadImage:
  return BadImage(f"{name}: cannot be decoded ({_one_line(error)})")


def _one_line(error: BaseException) -> str:
  if isinstance(error, UnidentifiedImageError):  # which would name an address in memory
    return f"it is none of {', '.join(FORMATS)}"
  kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
  return " ".join(f"{kind}{error}".split())[:200]
