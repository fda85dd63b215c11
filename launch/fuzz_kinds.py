"""Every kind of file that people hand over: small valid ones, and who reads them; for `launch/fuzz.py`."""

import gzip
import importlib
import io
import json
import pathlib
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
from PIL import Image

from dlcourse.data.image_files import image_size, left_out, read_idx, read_image
from dlcourse.data.npz_source import load_npz
from dlcourse.interop.fill import Naming, fill
from dlcourse.interop.h5_file import write_h5, write_model
from dlcourse.interop.safetensors_file import write_safetensors
from dlcourse.interop.weights import DIGEST, digest_of, read_weights

WEIGHTS = {
  f"layer{i}/{name}": np.arange(1.0, 1.0 + np.prod(shape), dtype=np.float32).reshape(shape) / (i + 3)
  for i in range(3)
  for name, shape in (("kernel", (3, 4)), ("bias", (4,)))
}
FACTS = {
  "version": 2,
  "experiment": "cnn.mlp",
  "overrides": ["--steps=1"],
  "resolved": {"task!": "Classify", "task.model.hidden_dims": [6, 5]},
  "classes": ["cat", "dog"],
  "image_shape": [8, 8, 1],
  "scaling": [[0.5], [0.25]],
  "fit": "pad",
  "step": 1,
  "commit": None,
  "test": {"accuracy": 0.5},
}


class Kind(NamedTuple):
  """A kind of file.

  Attributes:
    group: images, weights or tables.
    seeds: folder -> valid files; the folder may be used to write them.
    read: the public reader: file -> the arrays that it finds.
    digest: whether what is read has to be what was written.
    sealed: a damaged file -> the same with checksums that fit, so that readers look behind them.
  """

  group: str
  seeds: Callable[[pathlib.Path], list[bytes]]
  read: Callable[[pathlib.Path], list[np.ndarray]]
  digest: bool = False
  sealed: Callable[[bytes], bytes] = bytes


def _picture(mode: str) -> Image.Image:
  y, x = np.mgrid[:20, :24]
  numbers = {"I;16": np.uint16, "F": np.float32}
  if mode in numbers:
    return Image.fromarray((2570 * x).astype(numbers[mode]))
  colours = Image.fromarray(np.stack([10 * x, 12 * y, 5 * (x + y), 255 - 9 * x], -1).astype(np.uint8))
  return colours if mode == "RGBA" else colours.convert("RGB").convert(mode)


def _encoded(kind: str, *variants: tuple[str, Mapping[str, Any]]) -> Callable[[pathlib.Path], list[bytes]]:
  """Seeds: a picture in each of some modes, with options of Pillow; `frames` more frames, `turned` by EXIF."""

  def seeds(folder: pathlib.Path) -> list[bytes]:
    files = []
    for mode, options in variants:
      picture, buffer, options = _picture(mode), io.BytesIO(), dict(options)
      if options.pop("frames", 0):
        options |= {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]}
      if turned := options.pop("turned", 0):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = turned
      picture.save(buffer, kind, **options)
      files.append(buffer.getvalue())
    return files

  return seeds


def _read_image(path: pathlib.Path) -> list[np.ndarray]:
  size = image_size(path)
  left_out(path)
  pixels = read_image(path)
  if pixels.shape != (*size, 3) or pixels.dtype != np.uint8:
    raise AssertionError(f"{pixels.dtype} {pixels.shape} where the header says {size}")
  return [pixels, read_image(path, 8)]


def _written(
  write: Callable[[pathlib.Path, Mapping[str, np.ndarray]], None],
) -> Callable[[pathlib.Path], list[bytes]]:
  def seeds(folder: pathlib.Path) -> list[bytes]:
    write(folder / "seed", WEIGHTS)
    return [(folder / "seed").read_bytes()]

  return seeds


def _export(write: Callable[..., None]) -> Callable[[pathlib.Path, Mapping[str, np.ndarray]], None]:
  """As `dlcourse.exported.export` writes files."""
  texts = {"dlcourse": json.dumps(FACTS)}
  return lambda path, arrays: write(path, arrays, texts | {DIGEST: digest_of(arrays, texts)})


def _keras3(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """As Keras 3 writes `.weights.h5`: numbered arrays, and the layer's name as a text of variable length."""
  with h5py.File(path, "w") as file:
    for name, array in arrays.items():
      layer, weight = name.split("/")
      group = file.require_group(f"layers/dense_{layer[-1]}/vars")
      group.attrs["name"] = layer
      group.create_dataset("0" if weight == "kernel" else "1", data=array)


def _packed_h5(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  with h5py.File(path, "w", libver="latest") as file:
    for name, array in arrays.items():
      chunks = (1, *array.shape[1:])
      file.create_dataset(name, data=array, chunks=chunks, compression="gzip", shuffle=True, fletcher32=True)


def _global(name: str) -> bytes:
  module, _, attribute = name.rpartition(".")
  return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def _text(text: str) -> bytes:
  return b"X" + struct.pack("<I", len(text)) + text.encode()


def _state_dict(arrays: Mapping[str, np.ndarray]) -> bytes:
  """The pickle of a dict of tensors, as `torch.save` writes it."""
  body = _global("collections.OrderedDict") + b")R("
  for key, (name, array) in enumerate(arrays.items()):
    shape = b"(" + b"".join(b"K" + bytes([n]) for n in array.shape) + b"t"
    strides = b"(" + b"".join(b"K" + bytes([n // 4]) for n in array.strides) + b"t"
    storage = b"(" + _text("storage") + _global("torch.FloatStorage") + _text(str(key)) + _text("cpu")
    storage += b"K" + bytes([array.size]) + b"tQ"
    body += _text(name) + _global("torch._utils._rebuild_tensor_v2") + b"(" + storage + b"K\0" + shape + strides
    body += b"\x89" + _global("collections.OrderedDict") + b")RtR"
  return b"\x80\x02" + body + b"u}" + _text("_metadata") + b"}sb."


def _torch_zip(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("archive/data.pkl", _state_dict(arrays))
    for key, array in enumerate(arrays.values()):
      file.writestr(f"archive/data/{key}", array.tobytes())


def _torch_legacy(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  magic = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
  keys = b"\x80\x02](" + b"".join(_text(str(key)) for key in range(len(arrays))) + b"e."
  head = b"\x80\x02\x8a\n" + magic + b"." + b"\x80\x02M\xe9\x03." + b"\x80\x02}."
  data = b"".join(struct.pack("<Q", array.size) + array.tobytes() for array in arrays.values())
  path.write_bytes(head + _state_dict(arrays) + keys + data)


def _read_weights(path: pathlib.Path) -> list[np.ndarray]:
  naming = Naming("the seed", {name: name for name in WEIGHTS})
  filled = fill(WEIGHTS, read_weights(path), naming, source=str(path))
  return [array for layer in filled.values() for array in layer.values()]


def _read_exported(path: pathlib.Path) -> list[np.ndarray]:
  from dlcourse.exported import read_exported  # imports JAX, which few kinds need

  arrays, facts = read_exported(path)
  return [*(arrays[name] for name in sorted(arrays)), np.array(repr(facts))]


def _compressed(folder: pathlib.Path) -> list[bytes]:
  from dlcourse.compressed_file import NUMBERS, Compressed, packed

  words = np.arange(1, 50, dtype=np.uint32)
  return [
    packed(Compressed(kind, bytes(32), "vae.tiny", {"jax": "1"}, (6, 4, 4, 1), {NUMBERS[kind]: 5}, words))
    for kind in NUMBERS
  ]


def _read_compressed(path: pathlib.Path) -> list[np.ndarray]:
  from dlcourse.compressed_file import read_compressed

  found = read_compressed(path)
  return [found.words, np.array(repr(found._replace(words=None)))]


def _read_npz(path: pathlib.Path) -> list[np.ndarray]:
  found = load_npz(str(path))
  return [array for split in found.splits.values() for array in split.values()]


def _npz(folder: pathlib.Path) -> list[bytes]:
  arrays = {
    "train_images": np.arange(6 * 5 * 4).reshape(6, 5, 4).astype(np.uint8),
    "train_labels": np.arange(6),
  }
  files = []
  for save in (np.savez, np.savez_compressed):
    save(folder / "seed.npz", **arrays, classes=np.array(list("abcdef")))
    files.append((folder / "seed.npz").read_bytes())
  return files


def _idx(folder: pathlib.Path) -> list[bytes]:
  plain = struct.pack(">BBBBIII", 0, 0, 8, 3, 6, 5, 4) + bytes(range(120))
  return [plain, gzip.compress(plain, mtime=0)]


def _wav(folder: pathlib.Path) -> list[bytes]:
  with wave.open(str(folder / "seed.wav"), "wb") as file:
    file.setparams((2, 2, 8000, 0, "NONE", ""))
    file.writeframes(np.arange(400, dtype="<i2").tobytes())
  return [(folder / "seed.wav").read_bytes()]


def _record(folder: pathlib.Path) -> list[bytes]:
  record = {
    "experiment": "cnn.mlp",
    "overrides": [],
    "seed": 0,
    "resolved": {"steps": 3},
    "devices": {"count": 1},
  }
  return [json.dumps(record | {"versions": {"jax": "0.10"}}, indent=1).encode()]


def _texts(*texts: str) -> Callable[[pathlib.Path], list[bytes]]:
  return lambda folder: [text.encode() for text in texts]


def _sealed_png(data: bytes) -> bytes:
  """With the CRC-32 of every chunk as it should be."""
  result, place = bytearray(data), 8
  while place + 12 <= len(data):
    end = place + 8 + int.from_bytes(data[place : place + 4])
    if end + 4 > len(data):
      break
    result[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4)
    place = end + 4
  return bytes(result)


def _sealed_zip(data: bytes) -> bytes:
  """With the CRC-32 of every member that is stored as it is."""
  result, sums = bytearray(data), {}
  for place in _places(data, b"PK\3\4"):
    size, name, extra = (
      int.from_bytes(data[place + at :][:n], "little") for at, n in ((18, 4), (26, 2), (28, 2))
    )
    start = place + 30 + name + extra
    sums[data[place + 30 :][:name]] = result[place + 14 : place + 18] = struct.pack(
      "<I", zlib.crc32(data[start : start + size])
    )
  for place in _places(data, b"PK\1\2"):
    name = data[place + 46 :][: int.from_bytes(data[place + 28 :][:2], "little")]
    result[place + 16 : place + 20] = sums.get(name, data[place + 16 : place + 20])
  return bytes(result[: len(data)])


def _places(data: bytes, what: bytes) -> Iterator[int]:
  place = data.find(what)
  while place >= 0:
    yield place
    place = data.find(what, place + 1)


def _plain(read: str, *arguments: Any) -> Callable[[pathlib.Path], list[np.ndarray]]:
  """A reader of anything, by its name, which is imported when it is needed."""
  module, _, function = read.rpartition(".")

  def reader(path: pathlib.Path) -> list[np.ndarray]:
    found = getattr(importlib.import_module(module), function)(path, *arguments)
    return [np.array(repr(found).encode("utf-8", "backslashreplace"))]

  return reader


def _read_record(path: pathlib.Path) -> list[np.ndarray]:
  from dlcourse.workdir import RECORD, read_record

  path.replace(path.with_name(RECORD))
  return [np.array(json.dumps(read_record(path.parent)))]


_IMAGES: Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]] = {
  "JPEG": (("RGB", {"turned": 6}), ("L", {"progressive": True}), ("CMYK", {}), ("RGB", {"subsampling": 2})),
  "PNG": (("RGB", {"turned": 8}), ("P", {"transparency": 3}), ("I;16", {}), ("LA", {}), ("RGB", {"frames": 2})),
  "GIF": (("P", {}), ("L", {"frames": 2}), ("RGB", {"interlace": 1})),
  "WEBP": (("RGB", {}), ("RGBA", {"lossless": True}), ("RGB", {"frames": 2}), ("RGB", {"turned": 3})),
  "BMP": (("RGB", {}), ("P", {}), ("1", {}), ("RGBA", {})),
  "TIFF": (
    ("RGB", {"turned": 5}),
    ("F", {"compression": "tiff_adobe_deflate"}),
    ("I;16", {"compression": "tiff_lzw"}),
    ("1", {"compression": "group4"}),
    ("RGB", {"compression": "jpeg"}),
    ("RGB", {"compression": "tiff_lzw", "tiffinfo": {322: 16, 323: 16}}),
    ("LAB", {}),
    ("P", {"frames": 2}),
  ),
}
KINDS: dict[str, Kind] = {
  **{
    name.lower(): Kind(
      "images", _encoded(name, *variants), _read_image, sealed=_sealed_png if name == "PNG" else bytes
    )
    for name, variants in _IMAGES.items()
  },
  "h5": Kind("weights", _written(write_h5), _read_weights),
  "h5, keras 3": Kind("weights", _written(_keras3), _read_weights),
  "h5, packed": Kind("weights", _written(_packed_h5), _read_weights),
  "h5, exported": Kind("weights", _written(_export(write_model)), _read_exported, digest=True),
  "pth, zip": Kind("weights", _written(_torch_zip), _read_weights, sealed=_sealed_zip),
  "pth, legacy": Kind("weights", _written(_torch_legacy), _read_weights),
  "safetensors": Kind("weights", _written(write_safetensors), _read_weights),
  "safetensors, exported": Kind("weights", _written(_export(write_safetensors)), _read_exported, digest=True),
  "compressed": Kind("weights", _compressed, _read_compressed, digest=True),
  "npz": Kind("tables", _npz, _read_npz, sealed=_sealed_zip),
  "idx": Kind("tables", _idx, lambda path: [read_idx(path, 3)]),
  "wav": Kind("tables", _wav, _plain("dlcourse.data.audio.read_wav")),
  "csv": Kind(
    "tables",
    _texts('text,label\n"a, b",x\nc d,y\n"e\nf",x\n'),
    _plain("dlcourse.data.sentence_sources.labelled_table"),
  ),
  "tsv": Kind("tables", _texts("a b\tc d\ne\tf\n"), _plain("dlcourse.data.pair_sources.pair_table")),
  "conll": Kind("tables", _texts("a X B\nb Y O\n\nc X B\n"), _plain("dlcourse.data.tagged.read_columns", 1)),
  "record": Kind("tables", _record, _read_record),
}
