"""Weight files that lie, are cut off or want to run: one line each, and no memory beyond the file's worth."""

import json
import os
import pickle
import random
import resource
import tracemalloc
import zipfile
import zlib

import h5py
import jax
import numpy as np
import pytest
from networks import shapes_of

from dlcourse.errors import UserError
from dlcourse.interop import torch_file
from dlcourse.interop.h5_file import write_h5
from dlcourse.interop.safetensors_file import write_safetensors
from dlcourse.interop.weights import fill_model, read_weights, weights_of
from dlcourse.models.alexnet import AlexNet

MODEL = AlexNet((4, 4, 4, 4, 4), stem="small", dense_dim=4, num_classes=3)
SHAPES = shapes_of(MODEL, 32)
VARIABLES = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), SHAPES)
MOST = 32 * 2**20  # bytes that reading a file of a few kilobytes may take


def h5_cut_off(path):
  write_h5(path, weights_of(MODEL, VARIABLES, "keras"))
  path.write_bytes(path.read_bytes()[:-5000])


def h5_of_terabytes(path):
  with h5py.File(path, "w") as file:
    file.create_dataset("conv1/kernel", (2**40,), "f4", chunks=(2**20,))


def h5_of_a_large_chunk(path):
  with h5py.File(path, "w") as file:
    file.create_dataset("conv1/kernel", (4,), "f4", chunks=(2**28,), maxshape=(None,), compression="gzip")


def h5_packed_otherwise(path):
  with h5py.File(path, "w") as file:
    file.create_dataset("conv1/kernel", data=np.zeros(99), compression="lzf")


class Program:
  def __reduce__(self):
    return os.system, ("exit 1",)


def program(path):
  path.write_bytes(pickle.dumps({"conv1.weight": Program()}, protocol=2))


def zipped_program(path):
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("archive/data.pkl", pickle.dumps({"conv1.weight": Program()}, protocol=2))


def memo_of_gigabytes(path):
  path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")  # puts the list at memo index 2^31 - 1


def text(word):
  return b"X" + len(word).to_bytes(4, "little") + word.encode()


def tensor(shape=b"(K\x04t", strides=b"(K\x01t", offset=b"K\0", key="0"):
  """The pickle of a tensor of four floats, or one that says otherwise."""
  storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + b"K\x04tQ"
  return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"\x89NtR"


def torch_zip(*body, data=bytes(16)):
  """A file of PyTorch with this pickle, and the data of storage 0."""

  def make(path):
    with zipfile.ZipFile(path, "w") as file:
      file.writestr("archive/data.pkl", b"\x80\x02" + b"".join(body) + b".")
      file.writestr("archive/data/0", data)

  return make


# A pair of two pairs of two pairs …, each twice the same: a few bytes that take for ever to hash or to print.
PAIRS = b")" + b"2\x86" * 64
SIDE = b"\x8b" + (2**20).to_bytes(4, "little") + b"\x7f" * 2**20  # a number of 2^23 bits
OFTEN = b"".join(text(f"t{i}") + b"h\0" for i in range(5000))  # the tensor that the memo has as 0


def overlapping(path):
  """A zip file of 300 storages, each of which holds all that come after it."""
  keys = [f"{i:05}" for i in range(300)]  # so long that a header has a whole number of floats
  names = ["archive/data.pkl", *(f"archive/data/{key}" for key in keys)]
  body = b"".join(text(key) + tensor(key=key) for key in keys)
  tail, infos, ends = bytes(4096), [], []
  for name in reversed(names):
    info = zipfile.ZipInfo(name)
    own = b"\x80\x02}(" + body + b"u." if name == names[0] else tail
    info.file_size = info.compress_size = len(own)
    info.CRC = zlib.crc32(own)
    tail = info.FileHeader() + (own if name == names[0] else b"") + tail
    infos.append(info)
    ends.append(len(tail))
  for info, end in zip(infos, ends, strict=True):
    info.header_offset = len(tail) - end
  with zipfile.ZipFile(path, "w") as file:
    file.fp.write(tail)
    file.filelist, file.start_dir, file._didModify = infos, len(tail), True


def safetensors(path, header, length=None, data=b"\0" * 16):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(**changed):
  return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changed


def twice(path):
  one = json.dumps(entry()).encode()
  safetensors(path, b'{"a":' + one + b',"a":' + one + b"}")


HOSTILE = {
  "h5, cut off": (h5_cut_off, "cannot be read as HDF5"),
  "h5, of terabytes": (h5_of_terabytes, "declares 4,398,046,511,104 bytes"),
  "h5, a chunk of a gigabyte": (h5_of_a_large_chunk, "declares 1,073,741,824 bytes"),
  "h5, packed by another filter": (h5_packed_otherwise, "packed otherwise than with gzip"),
  "pth, keys that are pairs": (torch_zip(b"}", PAIRS, b"Ns"), "whose keys are no texts"),
  "pth, several keys that are pairs": (torch_zip(b"}(", PAIRS, b"Nu"), "whose keys are no texts"),
  "pth, a dict of pairs": (torch_zip(b"(", PAIRS, b"Nd"), "whose keys are no texts"),
  "pth, an ordered dict of pairs": (
    torch_zip(b"ccollections\nOrderedDict\n]]", PAIRS, b"aNaa\x85R"),
    "whose keys are no texts",
  ),
  "pth, a set of pairs": (torch_zip(b"\x8f(", PAIRS, b"\x90"), "sets are no part of a tensor"),
  "pth, a frozen set of pairs": (torch_zip(b"(", PAIRS, b"\x91"), "sets are no part of a tensor"),
  "pth, a storage called by pairs": (
    torch_zip(b"(", text("storage"), b"ctorch\nFloatStorage\n", PAIRS, text("cpu"), b"K\x04tQ"),
    "without a key",
  ),
  "pth, a kind of storage that is pairs": (
    torch_zip(b"(", PAIRS, b"ctorch\nFloatStorage\n", text("0"), text("cpu"), b"K\x04tQ"),
    "of an unknown kind",
  ),
  "pth, one tensor thousands of times": (
    torch_zip(b"}(", text("t"), tensor(b"(J\0\0\4\0t"), b"q\0", OFTEN, b"u", data=bytes(2**20)),
    "more than 8 times the size",
  ),
  "pth, storages that overlap": (overlapping, "storages are larger than the file"),
  "pth, a thousand axes": (
    torch_zip(b"}", text("t"), tensor(b"(" + b"K\1" * 1000 + b"t", b"(" + b"K\1" * 1000 + b"t"), b"s"),
    "1000 axes",
  ),
  "pth, sides of a million digits": (
    torch_zip(b"}", text("t"), tensor(b"(" + SIDE + b"2" * 60 + b"t", b"(" + b"K\1" * 61 + b"t"), b"s"),
    "not made of whole numbers",
  ),
  "pth, a global on two lines": (
    torch_zip(text("os\nsystem"), text("a\nb"), b"\x93"),
    "asks for os system.a b",
  ),
  "pickle, a program": (program, r"asks for (posix|nt)\.system"),
  "pickle, a zipped program": (zipped_program, r"asks for (posix|nt)\.system"),
  "pickle, a memo of gigabytes": (memo_of_gigabytes, "cannot be read as PyTorch weights"),
  "safetensors, a header of exabytes": (lambda path: safetensors(path, {"a": entry()}, 2**62), "damaged"),
  "safetensors, a header longer than the file": (
    lambda path: safetensors(path, {"a": entry()}, 9999),
    "damaged",
  ),
  "safetensors, data beyond the end": (
    lambda path: safetensors(path, {"a": entry(shape=[2**38], data_offsets=[0, 2**40])}),
    "damaged",
  ),
  "safetensors, arrays that overlap": (lambda path: safetensors(path, {"a": entry(), "b": entry()}), "damaged"),
  "safetensors, a shape that is not that of the data": (
    lambda path: safetensors(path, {"a": entry(shape=[5])}),
    "damaged",
  ),
  "safetensors, a shape that overflows": (
    lambda path: safetensors(path, {"a": entry(shape=[2**62, 2**62])}),
    "damaged",
  ),
  "safetensors, a negative shape": (lambda path: safetensors(path, {"a": entry(shape=[-4])}), "damaged"),
  "safetensors, an unknown type": (lambda path: safetensors(path, {"a": entry(dtype="F99")}), "damaged"),
  "safetensors, a type that NumPy has not": (
    lambda path: safetensors(path, {"a": entry(dtype="F8_E4M3", shape=[16])}),
    "damaged",
  ),
  "safetensors, two arrays of one name": (twice, "two arrays have one name"),
  "safetensors, a header without an end": (lambda path: safetensors(path, b'{"a":' * 100_000), "damaged"),
  "safetensors, cut off": (lambda path: safetensors(path, {"a": entry()}, data=b"\0" * 9), "damaged"),
  "safetensors, more data than arrays": (
    lambda path: safetensors(path, {"a": entry()}, data=b"\0" * 17),
    "damaged",
  ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line_and_takes_no_memory(tmp_path, name):
  make, said = HOSTILE[name]
  make(tmp_path / "w")
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # what libraries in C take, in KiB
  tracemalloc.start()
  with pytest.raises(UserError, match=said) as refused:
    read_weights(tmp_path / "w")
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < MOST
  assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 2 * MOST
  assert "\n" not in str(refused.value)
  assert str(tmp_path / "w") in str(refused.value)


def test_what_builds_tensors_is_not_changed_by_a_file(tmp_path):
  defaults = b"N}" + text("__defaults__") + b"Ks\x85s\x86b"
  torch_zip(b"ctorch._utils\n_rebuild_tensor_v2\n", defaults)(tmp_path / "w")
  with pytest.raises(UserError):
    read_weights(tmp_path / "w")
  assert torch_file._rebuild.__defaults__ is None


def test_a_file_made_by_hand_is_read(tmp_path):
  data = np.arange(4, dtype=np.float32)
  torch_zip(b"}", text("t"), tensor(), b"s}b", data=data.tobytes())(tmp_path / "w")
  np.testing.assert_array_equal(read_weights(tmp_path / "w")["t"], data)


@pytest.mark.parametrize("shape", [(), (3,), (4, 3, 3), (3, 3, 3, 4), (4, 3, 3, 3, 1), (3, 5), (0, 0)])
@pytest.mark.parametrize("style", ["flat", "keras", "torch"])
def test_wrong_shapes_are_one_line(shape, style):
  arrays = weights_of(MODEL, VARIABLES, style)
  arrays = {name: np.zeros((*shape, 1) if shape == array.shape else shape) for name, array in arrays.items()}
  with pytest.raises(UserError, match=r"w: .* of another shape, the first") as refused:
    fill_model(MODEL, SHAPES, arrays, "w")
  assert "\n" not in str(refused.value)


def as_safetensors(path):
  write_safetensors(path, weights_of(MODEL, VARIABLES, "flat"), {"model": "AlexNet"})


def as_torch(path, zipped):
  import torch

  state = {name: torch.tensor(array) for name, array in weights_of(MODEL, VARIABLES, "torch").items()}
  torch.save(state, path, _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize(
  "make",
  [
    as_safetensors,
    pytest.param(lambda path: as_torch(path, True), id="zip", marks=pytest.mark.parity),
    pytest.param(lambda path: as_torch(path, False), id="legacy", marks=pytest.mark.parity),
  ],
)
def test_flipped_bits_end_in_one_line_or_in_arrays_of_the_right_shapes(tmp_path, make):
  """Half of them in the first kilobytes, where names, shapes and offsets are."""
  path, draw = tmp_path / "w", random.Random(0)
  make(path)
  whole, refused = path.read_bytes(), 0
  for i in range(300):
    damaged = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
      damaged[draw.randrange(2000 if i % 2 else len(whole))] ^= 1 << draw.randrange(8)
    path.write_bytes(damaged)
    said = ""
    try:
      filled = fill_model(MODEL, SHAPES, read_weights(path), "w")
    except UserError as error:
      said = str(error)
    assert said or jax.tree.map(np.shape, filled) == jax.tree.map(lambda leaf: leaf.shape, SHAPES)
    assert "\n" not in said
    refused += bool(said)
  assert 100 < refused < 300
