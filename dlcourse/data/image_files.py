"""Decodes image files that nobody has vetted."""

import gzip
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dlcourse.errors import UserError

# The only decoders that are tried: the fewer, the less a hostile file can reach.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
MAX_BYTES = 50 * 2**20
MAX_PIXELS = 50_000_000
MAX_IDX_BYTES = 2**31

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


class BadImage(UserError):
  """A file that cannot be used as an image; the one-line message names it and says why."""


def read_image(source: Path | str | bytes, size: int | None = None) -> np.ndarray:
  """Decodes the first frame of an image as a person would see it.

  EXIF rotation is applied, transparency is laid over white, and 16-bit grey keeps its full range.

  Args:
    source: path or contents of a JPEG, PNG, BMP, GIF, WebP or TIFF file.
    size: pixels; the largest centred square is resized (bilinear) to size x size. None keeps all.

  Returns:
    uint8 [H, W, 3], RGB.

  Raises:
    BadImage: missing, empty, damaged, too large, or of another format.
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
    image = _open(data, name)
    frames = getattr(image, "n_frames", 1)
  except _DECODE_ERRORS as error:
    raise _damaged(name, error) from error
  if frames > 1:
    return f"{frames} frames"
  if image.mode.startswith("I;16"):
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
      turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
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
        raise BadImage(f"{name}: no such file")
      with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    except OSError as error:
      raise BadImage(f"{name}: {error.strerror}") from error
  if not data:
    raise BadImage(f"{name}: empty file")
  if len(data) > MAX_BYTES:
    raise BadImage(f"{name}: larger than {MAX_BYTES:,} bytes")
  return data, name


def _open(data: bytes, name: str) -> Image.Image:
  """The image with its pixels not decoded yet, refused by its header if it is too large."""
  image = Image.open(io.BytesIO(data), formats=FORMATS)
  if image.width * image.height > MAX_PIXELS:
    raise BadImage(f"{name}: {image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
  return image


def _decode(data: bytes, name: str, size: int | None) -> Image.Image:
  image = _open(data, name)
  if size:
    image.draft(None, (2 * size, 2 * size))  # JPEG only: decodes a large photo at 1/2, 1/4 or 1/8
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith("I;16"):  # convert() would clip at 255
    image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
  elif image.mode in ("I", "F"):
    raise BadImage(f"{name}: 32-bit grey has no agreed white; save it with 8 or 16 bits")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  image = image.convert("RGB")
  return centre_square(image, size) if size else image


def _damaged(name: str, error: BaseException) -> BadImage:
  return BadImage(f"{name}: cannot be decoded ({_one_line(error)})")


def _one_line(error: BaseException) -> str:
  if isinstance(error, UnidentifiedImageError):  # which would name an address in memory
    return f"it is none of {', '.join(FORMATS)}"
  kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
  return " ".join(f"{kind}{error}".split())[:200]
