"""The format of safetensors: written as specified, read back bit by bit."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.interop.safetensors_file import read_safetensors, write_safetensors

ARRAYS = {
  "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
  "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
  "every second": np.arange(10, dtype=np.int64)[::2],
  "half": np.array([0.5, -2], np.float16),
  "brain": np.array([0.5, -2], jnp.bfloat16),
  "scalar": np.array(7, np.uint8),
  "flags": np.array([True, False]),
  "empty": np.zeros((0, 3), np.float32),
  "jax": jnp.ones((2, 2)),
}


def test_what_is_written_is_read(tmp_path):
  write_safetensors(tmp_path / "w.safetensors", ARRAYS, {"model": "café"})
  arrays, metadata = read_safetensors(tmp_path / "w.safetensors")
  assert metadata == {"model": "café"}
  assert set(arrays) == set(ARRAYS)
  for name, array in ARRAYS.items():
    assert arrays[name].dtype == array.dtype, name
    np.testing.assert_array_equal(arrays[name], array)


def test_the_file_is_laid_out_as_specified(tmp_path):
  path = tmp_path / "w.safetensors"
  write_safetensors(path, {"x": np.arange(6, dtype=np.float32).reshape(2, 3).T})
  content = path.read_bytes()
  length = int.from_bytes(content[:8], "little")
  header = json.loads(content[8 : 8 + length])
  assert header.pop("x") == {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}
  assert content[8 + length :] == np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes()


def test_without_texts_there_are_none(tmp_path):
  write_safetensors(tmp_path / "w.safetensors", {"x": np.ones(1)})
  assert read_safetensors(tmp_path / "w.safetensors") == ({"x": np.ones(1)}, {})


def test_no_arrays_are_no_file(tmp_path):
  with pytest.raises(UserError, match="would hold no array"):
    write_safetensors(tmp_path / "w.safetensors", {}, {"model": "none"})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "w.safetensors"
  write_safetensors(path, {"x": np.ones(2)})
  with pytest.raises(UserError, match="cannot be written"):
    write_safetensors(path, {"x": np.array(["text"])})
  np.testing.assert_array_equal(read_safetensors(path)[0]["x"], [1, 1])
  with pytest.raises(UserError, match="cannot be written"):
    write_safetensors(tmp_path / "gone" / "w.safetensors", {"x": np.ones(2)})
  assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
