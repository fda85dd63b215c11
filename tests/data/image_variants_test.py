"""Pixels of every kind, from every format, become the RGB that a person sees."""

import struct
import zlib

import numpy as np
import PIL
import pytest
from picture_files import CORNERS, encoded, tiff
from PIL import Image

from dlcourse.data.image_files import BadImage, image_size, left_out, read_image

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


@pytest.mark.parametrize(
  ("kind", "options"),
  [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_applied(orientation, kind, options):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = encoded(CORNERS, kind, exif=exif, **options)
  expected = TURNS[orientation](CORNERS)
  np.testing.assert_array_equal(read_image(data), expected)
  assert image_size(data) == expected.shape[:2]


GREY = np.array([[0, 100, 255]], np.uint8)
WIDE = GREY.astype(np.uint16) * 257
RED_IN_LAB = [138, 81, 70]  # 54.29, 80.81, 69.89 of CIELAB under D50, L in 255ths of 100
OVER_WHITE = [[255, 155, 127]]  # of black in GREY, with 0, 100 and 128 of 255 opaque


def grey(*values):
  return np.repeat(np.array([values])[..., None], 3, -1)


def adobe_inverted() -> bytes:
  """A JPEG of cyan as Photoshop writes it: the inks are stored as 255 minus themselves."""
  data = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100)
  assert b"Adobe" in data
  return data


def animated(kind, **options) -> bytes:
  frames = [Image.new("RGB", (3, 1), colour) for colour in ("red", "blue")]
  return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def palette_and_alpha() -> Image.Image:
  image = Image.fromarray(np.zeros((1, 3), np.uint8)).convert("P").convert("PA")
  image.putalpha(Image.fromarray(np.array([[0, 100, 128]], np.uint8)))
  return image


def transparent() -> Image.Image:
  alpha = np.array([[0, 100, 128]], np.uint8)
  return Image.fromarray(np.stack([np.zeros_like(alpha), alpha], -1))


def clear_grey() -> bytes:
  """A PNG of 16 bits in which one level is transparent, by a chunk that Pillow does not write."""
  data = encoded(Image.fromarray(WIDE), "PNG")
  chunk = b"tRNS" + struct.pack(">H", 25700)
  return data[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


RED, LAB = [[[255, 0, 0]] * 3], np.array([[[255, 0, 0], [0, 0, 0], RED_IN_LAB]], np.uint8)
PALETTE = {"_262": [3], "_320": [257 * i for i in range(256)] * 3}
VARIANTS = {
  "1 bit": (encoded(Image.fromarray(GREY > 99), "PNG"), grey(0, 255, 255), 0),
  "1 bit, fax": (encoded(Image.fromarray(GREY > 99), "TIFF", compression="group4"), grey(0, 255, 255), 0),
  "grey": (encoded(GREY, "PNG"), grey(0, 100, 255), 0),
  "grey, white is 0": (tiff(GREY, _262=[0]), grey(255, 155, 0), 0),
  "16 bits, PNG": (encoded(Image.fromarray(WIDE), "PNG"), grey(0, 100, 255), 0),
  "16 bits, one transparent": (clear_grey(), grey(0, 255, 255), 0),
  "16 bits, TIFF": (tiff(WIDE), grey(0, 100, 255), 0),
  "16 bits, big-endian": (tiff(WIDE, ">"), grey(0, 100, 255), 0),
  "16 bits, LZW": (encoded(Image.fromarray(WIDE), "TIFF", compression="tiff_lzw"), grey(0, 100, 255), 0),
  "16 bits, white is 0": (tiff(WIDE, _262=[0]), grey(255, 155, 0), 0),
  "16 bits, signed": (tiff((WIDE // 2).astype(np.int16), _339=[2]), grey(0, 50, 127), 1),
  "16 bits of colours": (
    tiff(np.stack([WIDE, WIDE, 0 * WIDE], -1), _262=[2]),
    [[[i, i, 0] for i in GREY[0]]],
    0,
  ),
  "32 bits, unsigned": (tiff(WIDE.astype(np.uint32) * 65537), grey(0, 100, 255), 0),
  "32 bits with 16 in use": (tiff(WIDE.astype(np.int32), _339=[2]), grey(0, 100, 255), 0),
  "32 bits with 8 in use": (tiff(GREY.astype(np.int32), _339=[2]), grey(0, 100, 255), 0),
  "floats to 1": (tiff((GREY / 255).astype(np.float32), _339=[3]), grey(0, 100, 255), 0),
  "floats to 1, big-endian": (tiff((GREY / 255).astype(np.float32), ">", _339=[3]), grey(0, 100, 255), 0),
  "floats to 1, white is 0": (tiff((GREY / 255).astype(np.float32), _339=[3], _262=[0]), grey(255, 155, 0), 0),
  "floats to 255": (tiff(GREY.astype(np.float32), _339=[3]), grey(0, 100, 255), 0),
  "floats to 65535": (tiff(WIDE.astype(np.float32), _339=[3]), grey(0, 100, 255), 0),
  "palette": (encoded(Image.fromarray(GREY).convert("P"), "PNG"), grey(0, 100, 255), 0),
  "palette, TIFF": (tiff(GREY, **PALETTE), grey(0, 100, 255), 0),
  "palette, GIF": (encoded(Image.fromarray(GREY).convert("P"), "GIF"), grey(0, 100, 255), 0),
  "grey and alpha": (encoded(transparent(), "PNG"), grey(*OVER_WHITE[0]), 0),
  "grey and alpha, TIFF": (encoded(transparent(), "TIFF"), grey(*OVER_WHITE[0]), 0),
  "grey and alpha, multiplied": (tiff(np.stack([GREY // 2, GREY], -1), _338=[1]), grey(255, 205, 127), 1),
  "palette and alpha": (encoded(palette_and_alpha(), "TIFF"), grey(*OVER_WHITE[0]), 0),
  "colours and alpha": (encoded(transparent().convert("RGBA"), "PNG"), grey(*OVER_WHITE[0]), 0),
  "colours and alpha, WebP": (
    encoded(transparent().convert("RGBA"), "WEBP", lossless=True, exact=True),
    grey(*OVER_WHITE[0]),
    0,
  ),
  "unused channel": (tiff(np.stack([GREY, 0 * GREY], -1), _338=[0]), grey(0, 100, 255), 0),
  "CMYK, TIFF": (
    tiff(np.array([[[255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8), _262=[5]),
    [[[0, 255, 255], [0] * 3]],
    0,
  ),
  "CMYK, JPEG of Adobe": (adobe_inverted(), np.full((8, 8, 3), [0, 255, 255]), 2),
  "YCbCr, TIFF": (encoded(Image.fromarray(GREY).convert("YCbCr"), "TIFF"), grey(0, 100, 255), 0),
  "LAB": (tiff(LAB, _262=[8]), [[[255] * 3, [0] * 3, [255, 0, 0]]], 6),
  "animated GIF": (animated("GIF"), RED, 0),
  "animated PNG": (animated("PNG"), RED, 0),
  "animated WebP": (animated("WEBP", lossless=True), RED, 0),
  "TIFF of two pages": (animated("TIFF"), RED, 0),
}


SINCE_13 = ("grey and alpha, multiplied", "unused channel", "YCbCr, TIFF")  # of Pillow; Gradio needs 12


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_pixels_is_seen_as_a_person_sees_it(name):
  data, expected, tolerance = VARIANTS[name]
  if name in SINCE_13 and int(PIL.__version__.partition(".")[0]) < 13:
    with pytest.raises(BadImage, match="cannot be decoded"):
      read_image(data)
    return
  pixels = read_image(data)
  assert pixels.dtype == np.uint8
  np.testing.assert_allclose(pixels, expected, atol=tolerance)
  assert image_size(data) == pixels.shape[:2]


@pytest.mark.parametrize(
  ("name", "lost"),
  [
    ("grey", None),
    ("16 bits, PNG", "16 bits"),
    ("16 bits of colours", "16 bits"),
    ("floats to 1", "32 bits"),
    ("colours and alpha", "transparency"),
    ("LAB", "LAB colours"),
    ("animated GIF", "2 frames"),
    ("TIFF of two pages", "2 frames"),
  ],
)
def test_what_is_left_out_is_named(name, lost):
  assert left_out(VARIANTS[name][0]) == lost
