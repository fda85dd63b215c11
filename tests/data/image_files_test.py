import gzip
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dlcourse.data.image_files import MAX_BYTES, BadImage, image_size, read_idx, read_image
from dlcourse.errors import UserError

# Rows x columns x RGB, every corner different, so that each flip and turn can be told apart.
CORNERS = np.array(
  [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 0], [0, 255, 255], [255, 255, 255]]],
  np.uint8,
)


def encoded(image, kind, **options) -> bytes:
  buffer = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def png_header(width, height) -> bytes:
  body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
  return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 10) + b"IDAT" + bytes(10)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels(kind, tmp_path):
  path = tmp_path / "image"
  path.write_bytes(encoded(CORNERS, kind))
  pixels = read_image(path)
  assert pixels.dtype == np.uint8
  np.testing.assert_array_equal(pixels, CORNERS)


def test_webp_and_gif_are_read():
  np.testing.assert_array_equal(read_image(encoded(CORNERS, "WEBP", lossless=True)), CORNERS)
  np.testing.assert_array_equal(read_image(encoded(CORNERS, "GIF")), CORNERS)


# What a viewer shows for each EXIF orientation (TIFF 6.0, tag 274).
TURNS = {
  1: lambda x: x,
  2: lambda x: x[:, ::-1],
  3: lambda x: x[::-1, ::-1],
  4: lambda x: x[::-1],
  5: lambda x: x.transpose(1, 0, 2),
  6: lambda x: np.rot90(x, -1),
  7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
  8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_applied(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = encoded(CORNERS, "PNG", exif=exif)
  expected = TURNS[orientation](CORNERS)
  np.testing.assert_array_equal(read_image(data), expected)
  assert image_size(data) == expected.shape[:2]


def test_transparency_is_laid_over_white():
  image = np.zeros((1, 3, 4), np.uint8)
  image[0, :, 3] = 0, 128, 255
  np.testing.assert_array_equal(read_image(encoded(image, "PNG"))[0, :, 0], [255, 127, 0])


def test_a_transparent_palette_is_laid_over_white():
  image = Image.new("P", (2, 1))
  image.putpalette([0, 0, 0, 0, 0, 200])
  image.putpixel((1, 0), 1)
  data = encoded(image, "PNG", transparency=0)
  np.testing.assert_array_equal(read_image(data), [[[255, 255, 255], [0, 0, 200]]])


def test_16_bit_grey_keeps_its_range():
  image = np.array([[0, 257, 257 * 100, 65535]], np.uint16)
  np.testing.assert_array_equal(read_image(encoded(image, "PNG"))[0, :, 1], [0, 1, 100, 255])


def test_cmyk_becomes_rgb():
  data = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100)
  assert np.abs(read_image(data)[0, 0].astype(int) - [0, 255, 255]).max() <= 2


def test_size_keeps_the_aspect_ratio_and_the_centre():
  image = np.zeros((40, 120, 3), np.uint8)
  image[:, 40:80] = 200  # the centred square
  resized = read_image(encoded(image, "PNG"), size=10)
  assert resized.shape == (10, 10, 3)
  assert (resized[:, 1:-1] == 200).all()  # the filter lets the neighbours into the outer columns
  assert resized.min() > 150


def test_size_of_a_large_jpeg():
  image = np.zeros((800, 800, 3), np.uint8)
  image[:, 400:] = 200
  resized = read_image(encoded(image, "JPEG"), size=8).astype(int)
  assert np.abs(resized[:, :3]).max() <= 3
  assert np.abs(resized[:, 5:] - 200).max() <= 3


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"", "empty"),
    (
      b"not an image at all",
      r"photo.png: cannot be decoded \(it is none of JPEG, PNG, BMP, GIF, WEBP, TIFF\)$",
    ),
    (encoded(CORNERS.repeat(60, 0).repeat(60, 1), "JPEG")[:-200], "cannot be decoded"),
    (encoded(CORNERS, "PNG")[:-30], r"photo.png: cannot be decoded \(image file is truncated"),
    (png_header(8_000, 8_000), "more than 50,000,000 pixels"),
    (png_header(12_000, 12_000), "more than 50,000,000 pixels"),
    (png_header(60_000, 60_000), "cannot be decoded"),
    (encoded(CORNERS, "PPM"), "cannot be decoded"),
    (encoded(Image.new("F", (2, 2)), "TIFF"), "32-bit"),
    (b"\xff" * (MAX_BYTES + 1), "larger than"),
  ],
)
@pytest.mark.filterwarnings("error")
def test_bad_images_are_refused_in_one_line(data, reason, tmp_path):
  path = tmp_path / "photo.png"
  path.write_bytes(data)
  with pytest.raises(BadImage, match=reason) as info:
    read_image(path)
  assert str(path) in str(info.value)
  assert "\n" not in str(info.value)


def test_a_bomb_is_refused_by_its_header():
  with pytest.raises(BadImage, match="8000 x 8000"):
    image_size(png_header(8_000, 8_000))


def test_mutated_files_never_escape():
  rng = np.random.default_rng(0)
  exif = Image.Exif()
  exif[0x0112] = 6
  big = CORNERS.repeat(20, 0).repeat(20, 1)
  said = []
  for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
    good = np.frombuffer(encoded(big, kind, **({"exif": exif} if kind == "JPEG" else {})), np.uint8)
    for _ in range(60):
      bad = good.copy()
      bad[rng.integers(0, len(bad), 8)] = rng.integers(0, 256, 8)
      try:
        assert read_image(bad.tobytes(), 4).shape == (4, 4, 3)
      except BadImage as error:
        said.append(str(error))
  assert not [message for message in said if " at 0x" in message]


def test_missing_files_are_reported(tmp_path):
  with pytest.raises(BadImage, match="no such file"):
    read_image(tmp_path / "gone.png")
  with pytest.raises(BadImage, match="no such file"):
    read_image(tmp_path)


IDX = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 1, 3) + bytes(range(6))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_is_read(pack, tmp_path):
  path = tmp_path / "file"
  path.write_bytes(pack(IDX))
  np.testing.assert_array_equal(read_idx(path, 3), [[[0, 1, 2]], [[3, 4, 5]]])


@pytest.mark.parametrize(
  ("data", "dimensions", "reason"),
  [
    (IDX[:-1], 3, "should hold 6 bytes, found 5"),
    (IDX + b"x", 3, "found more"),
    (IDX, 1, "no IDX file"),
    (IDX[:7], 3, "no IDX file"),
    (b"\0\0\x0d" + IDX[3:], 3, "no IDX file"),  # floats
    (b"", 3, "no IDX file"),
    (gzip.compress(IDX, mtime=0)[:-12], 3, "cannot read"),
    (gzip.compress(IDX, mtime=0)[:15] + b"\xff" * 9, 3, "cannot read"),
    (struct.pack(">BBBBIII", 0, 0, 8, 3, *[2**32 - 1] * 3), 3, "claims"),
  ],
)
def test_bad_idx_is_refused(data, dimensions, reason, tmp_path):
  path = tmp_path / "file"
  path.write_bytes(data)
  with pytest.raises(UserError, match=reason) as info:
    read_idx(path, dimensions)
  assert "\n" not in str(info.value)
