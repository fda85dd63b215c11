"""Image files that tests make: in any format of Pillow, and TIFFs with tags that it does not write."""

import io
import struct

import numpy as np
from PIL import Image

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


def tiff(pixels, order="<", **tags) -> bytes:
  """An uncompressed TIFF of [H, W] or [H, W, C], and tags by number that Pillow does not write: _262=[0]."""
  height, width, channels = (*pixels.shape, 1)[:3]
  data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
  fields = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * channels, 259: [1], 262: [1], 273: [8]}
  fields |= {277: [channels], 278: [height], 279: [len(data)]}
  fields |= {int(name[1:]): numbers for name, numbers in tags.items()}
  entries, lists, place = b"", b"", 8 + len(data) + 2 + 12 * len(fields) + 4
  for tag, numbers in sorted(fields.items()):
    packed = numbers if isinstance(numbers, bytes) else struct.pack(f"{order}{len(numbers)}I", *numbers)
    kind, count = (1, len(packed)) if isinstance(numbers, bytes) else (4, len(numbers))
    entries += struct.pack(f"{order}HHI", tag, kind, count)
    entries += packed if len(packed) == 4 else struct.pack(f"{order}I", place + len(lists))
    lists += packed if len(packed) > 4 else b""
  head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
  return head + data + struct.pack(f"{order}H", len(fields)) + entries + bytes(4) + lists
