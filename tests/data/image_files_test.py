import gzip
import struct
import time
import zlib

import numpy as np
import pytest
from picture_files import CORNERS, encoded, tiff
from PIL import Image

from dlcourse.data import image_files
from dlcourse.data.image_files import MAX_BYTES, BadImage, image_size, read_idx, read_image
from dlcourse.errors import UserError


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
    (tiff(np.float32([[-1, 1]]), _339=[3]), "grey from -1.0 to 1.0 has no agreed black"),
    (tiff(np.float32([[np.nan, 1]]), _339=[3]), "grey from nan to nan"),
    (tiff(np.float32([[0, 1e9]]), _339=[3]), "grey from 0.0 to 1000000000.0"),
    (tiff(np.int32([[-5, 7]]), _339=[2]), "grey from -5 to 7"),
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


GREY = np.array([[0, 100, 255]], np.uint8)


def tiles_of_gigabytes() -> bytes:
  """Eight pixels, in tiles of a side of 2^15."""
  return tiff(GREY, _259=[8], _322=[2**15], _323=[2**15], _324=[8])


def tiles_without_number() -> bytes:
  return tiff(GREY, _322=[16], _323=[16], _324=bytes(2**20))


def samples_without_number() -> bytes:
  return tiff(GREY, _339=[1] * 2**20)


def exif_without_end() -> bytes:
  data = encoded(CORNERS, "JPEG")
  return data[:2] + (b"\xff\xe1\xff\xff" + b"Exif\0\0II*\0".ljust(2**16 - 3, b"\0")) * 100 + data[2:]


def exif_of_megabytes() -> bytes:
  return encoded(CORNERS, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0" + bytes(2**21))


@pytest.mark.parametrize(
  ("bomb", "reason"),
  [
    (tiles_of_gigabytes, "tiles of more than"),
    (tiles_without_number, "a list of 1,048,576 numbers"),
    (samples_without_number, "a list of 1,048,576 numbers"),
    (exif_without_end, "more than 16 blocks of EXIF"),
    (exif_of_megabytes, "EXIF of 2,097,"),
    (lambda: png_header(12_000, 12_000), "more than 50,000,000 pixels"),
    (lambda: png_header(2**31 - 1, 2**31 - 1), "cannot be decoded"),
    (lambda: encoded(CORNERS, "TIFF")[:-9], "cannot be decoded"),
  ],
)
def test_bombs_and_lies_are_refused_in_milliseconds(bomb, reason):
  data = bomb()
  read_image(encoded(CORNERS, "TIFF"))  # loads the decoders
  started = time.process_time()
  with pytest.raises(BadImage, match=reason):
    read_image(data)
  assert time.process_time() - started < 0.1


def scans_without_end(count) -> bytes:
  """A grey JPEG of 1,000 x 1,000 pixels whose coefficients, all 0, are refined again and again."""
  blocks, run = 125 * 125, 32767
  bits = ("0" + "1" * 14) * -(-blocks // run)  # "no coefficient in so many blocks"
  bits += "1" * (-len(bits) % 8)
  nothing = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
  tables = b"\xff\xdb\0\x43\0" + bytes([1]) * 64
  tables += b"\xff\xc2\0\x0b\x08" + struct.pack(">HH", 1000, 1000) + b"\1\1\x11\0"
  for kind, symbol in ((0x00, 0), (0x10, 0xE0)):
    tables += b"\xff\xc4\0\x14" + bytes([kind, 1, *[0] * 15, symbol])
  first = b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes(blocks // 8 + 1)
  return b"\xff\xd8" + tables + first + (b"\xff\xda\0\x08\1\1\0\1\x3f\0" + nothing) * count + b"\xff\xd9"


def test_a_file_that_keeps_the_decoder_busy_is_given_up(monkeypatch):
  assert read_image(scans_without_end(1), 4).shape == (4, 4, 3)
  monkeypatch.setattr(image_files, "MAX_SECONDS", 0.2)
  started = time.process_time()
  with pytest.raises(BadImage, match=r"cannot be decoded \(it takes more than 0.2 s\)"):
    read_image(scans_without_end(100_000))
  assert time.process_time() - started < 8


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
  with pytest.raises(BadImage, match="a folder; name the images in it"):
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
    (struct.pack(">BBBBIII", 0, 0, 8, 3, *[1000] * 3), 3, "declares 1,000,000,000 bytes"),
  ],
)
def test_bad_idx_is_refused(data, dimensions, reason, tmp_path):
  path = tmp_path / "file"
  path.write_bytes(data)
  with pytest.raises(UserError, match=reason) as info:
    read_idx(path, dimensions)
  assert "\n" not in str(info.value)
