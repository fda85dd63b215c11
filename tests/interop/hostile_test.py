"""Weight files that lie, are cut off or want to run: one line each, and no memory beyond the file's worth."""

import json
import os
import pickle
import random
import resource
import tracemalloc
import zipfile

import h5py
import jax
import numpy as np
import pytest
from networks import shapes_of

from dlcourse.errors import UserError
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
