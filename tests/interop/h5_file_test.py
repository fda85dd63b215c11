"""HDF5 files: what Keras writes is read; what lies, points elsewhere or never ends is refused."""

import h5py
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.interop.h5_file import (
  keras_opens,
  keras_weights,
  own_arrays,
  read_h5,
  read_texts,
  write_h5,
  write_model,
)


def write(path, build):
  with h5py.File(path, "w") as file:
    build(file)
  return path


def test_arrays_come_back_by_their_path(tmp_path):
  kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
  path = write(
    tmp_path / "w.h5", lambda file: file.create_dataset("model_weights/C1/net/C1/kernel:0", data=kernel)
  )
  read = read_h5(path)
  assert list(read) == ["model_weights/C1/net/C1/kernel:0"]
  np.testing.assert_array_equal(keras_weights(read)["C1/kernel"], kernel)


@pytest.mark.parity
def test_what_keras_writes_is_read_by_layer_and_weight(tmp_path, monkeypatch):
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  import keras

  layers = [keras.layers.Conv2D(2, 3, name="C1"), keras.layers.BatchNormalization(name="norm")]
  model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
  model.compile("adam", "mse")
  model.save(tmp_path / "m.h5")
  weights = keras_weights(read_h5(tmp_path / "m.h5"))
  assert set(weights) == {
    *("C1/kernel", "C1/bias"),
    *("norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance"),
  }
  np.testing.assert_array_equal(weights["C1/kernel"], np.asarray(layers[0].kernel))


def endless(file):
  group = file.create_group("a")
  group["b"] = group


def virtual(file):
  layout = h5py.VirtualLayout((4,), "f4")
  layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
  file.create_virtual_dataset("x", layout)


@pytest.mark.parametrize(
  ("build", "said"),
  [
    (
      lambda file: file.create_dataset("x", (2**40,), "f4", chunks=(2**20,)),
      "declares 4,398,046,511,104 bytes",
    ),
    (lambda file: file.create_dataset("x", data=np.zeros(2**22), compression="gzip"), "declares"),
    (endless, "inside itself"),
    (lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "x")), "points elsewhere"),
    (lambda file: file.__setitem__("x", h5py.SoftLink("/y")), "points elsewhere"),
    (lambda file: file.create_dataset("x", (4,), "f4", external=[("/etc/passwd", 0, 16)]), "elsewhere"),
    (virtual, "elsewhere"),
    (lambda file: file.create_dataset("x", data="a text"), "not numbers"),
  ],
)
def test_what_is_no_plain_array_is_refused_in_one_line(tmp_path, build, said):
  path = write(tmp_path / "w.h5", build)
  with pytest.raises(UserError, match=said) as refused:
    read_h5(path)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"not hdf5", None])
def test_a_damaged_file_is_one_line(tmp_path, content):
  path = write(tmp_path / "w.h5", lambda file: file.create_dataset("x", data=np.arange(999.0)))
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2] if content is None else content)
  with pytest.raises(UserError, match="cannot be read as HDF5"):
    read_h5(path)


def test_what_is_written_is_read_with_its_order_and_its_texts(tmp_path):
  weights = {
    "z/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "z/bias": np.zeros(3, np.float16),
    "a/b/gamma": np.ones(2),
    "a/count": np.int32(7),
  }
  write_h5(tmp_path / "w.h5", weights, {"model": "café"})
  read = keras_weights(read_h5(tmp_path / "w.h5"))
  assert set(read) == set(weights)
  for name, array in weights.items():
    assert read[name].dtype == array.dtype
    np.testing.assert_array_equal(read[name], array)
  with h5py.File(tmp_path / "w.h5") as file:
    assert file.attrs["model"] == "café"
    assert list(file.attrs["layer_names"]) == [b"z", b"a/b", b"a"]
    assert list(file["z"].attrs["weight_names"]) == [b"z/kernel", b"z/bias"]


@pytest.mark.parametrize("length", [3, 200_000])
def test_a_model_comes_back_with_its_texts_and_beside_what_keras_reads(tmp_path, length):
  arrays = {"params/a/kernel": np.ones(2), "batch_stats/a/mean": np.zeros(3, np.float32)}
  text, config = "é" * length, {"class_name": "Sequential", "config": {"layers": ["x" * length]}}
  write_model(tmp_path / "m.h5", arrays, {"about": text}, (config, {"k/kernel": np.full(2, 5.0)}))
  read = read_h5(tmp_path / "m.h5")
  assert set(own_arrays(read)) == set(arrays)
  for name, array in own_arrays(read).items():
    assert array.dtype == arrays[name].dtype
    np.testing.assert_array_equal(array, arrays[name])
  assert read["model_weights/k/k/kernel"][0] == 5
  assert read_texts(tmp_path / "m.h5") == {"about": text}
  assert keras_opens(tmp_path / "m.h5")


def test_a_model_that_keras_has_not_is_written_without(tmp_path):
  write_model(tmp_path / "m.h5", {"params/a": np.ones(2)}, {})
  assert not keras_opens(tmp_path / "m.h5")
  assert list(read_h5(tmp_path / "m.h5")) == ["dlcourse/params/a"]


@pytest.mark.parametrize(
  "value", ["of any length", np.zeros(3), np.array([b"a", b"b"]), np.bytes_(b"x" * 2**22)]
)
def test_what_is_no_text_of_ours_is_left_out(tmp_path, value):
  with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
    file.attrs["other"], file.attrs["about"] = value, np.bytes_(b"mine")
  assert read_texts(tmp_path / "m.h5") == {"about": "mine"}


def test_a_text_that_is_none_is_one_line(tmp_path):
  path = write(tmp_path / "m.h5", lambda file: file.attrs.__setitem__("about", np.bytes_(b"\xff")))
  with pytest.raises(UserError, match="cannot be read as HDF5") as refused:
    read_texts(path)
  assert "\n" not in str(refused.value)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "w.h5"
  write_h5(path, {"a/kernel": np.ones(2)})
  with pytest.raises(UserError, match="cannot be written"):
    write_h5(path, {"a/kernel": np.array([object()])})
  with pytest.raises(UserError, match="'kernel' is no LAYER/WEIGHT"):
    write_h5(path, {"kernel": np.ones(2)})
  np.testing.assert_array_equal(keras_weights(read_h5(path))["a/kernel"], [1, 1])
  with pytest.raises(UserError, match="cannot be written"):
    write_h5(tmp_path / "gone" / "w.h5", {"a/kernel": np.ones(2)})
  assert [file.name for file in tmp_path.iterdir()] == ["w.h5"]


def test_a_layer_whose_name_has_a_slash_keeps_it():
  arrays = {"conv1/bn/conv1/bn/gamma:0": np.ones(2), "bn/bn/gamma:0": np.zeros(2), "base/C1/kernel": np.ones(1)}
  assert set(keras_weights(arrays)) == {"conv1/bn/gamma", "bn/gamma", "C1/kernel"}


def test_two_arrays_of_one_name_are_refused():
  with pytest.raises(UserError, match="two arrays are called C1/kernel"):
    keras_weights({"a/C1/kernel": np.ones(1), "b/C1/kernel": np.ones(1)})


def numbered(file, name, layer="dense_1"):
  group = file.create_group(f"layers/{layer}/vars")
  group.attrs["name"] = name
  group.create_dataset("1", data=np.ones(3))
  group.create_dataset("2", data=np.ones(3))


def test_numbered_weights_are_named_by_layer_and_class(tmp_path):
  path = write(tmp_path / "w.weights.h5", lambda file: numbered(file, "predictions"))
  assert set(keras_weights(read_h5(path))) == {"predictions/bias", "predictions/2"}


@pytest.mark.parametrize("name", [7, "x" * 10_000, np.zeros(4), np.bytes_(b"y" * 999)])
def test_a_name_that_is_none_is_one_line(tmp_path, name):
  path = write(tmp_path / "w.weights.h5", lambda file: numbered(file, name))
  with pytest.raises(UserError, match="is no short text"):
    read_h5(path)


def test_two_layers_of_one_name_are_refused(tmp_path):
  def build(file):
    numbered(file, "mine")
    numbered(file, "mine", "dense_2")

  with pytest.raises(UserError, match="two arrays are called layers/mine/bias"):
    read_h5(write(tmp_path / "w.weights.h5", build))
