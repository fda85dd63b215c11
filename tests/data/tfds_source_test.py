import functools
import gzip
import http.server
import io
import socket
import struct
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from dlcourse.data import tfds_source
from dlcourse.data.tfds_source import load_tfds
from dlcourse.errors import UserError


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
  folder = tmp_path / "prepared"
  monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
  return folder


@pytest.fixture
def published(tmp_path, monkeypatch):
  """A web server for the files in a folder; the probe of the real address is left out."""
  folder = tmp_path / "published"
  folder.mkdir()
  handler = functools.partial(QuietHandler, directory=str(folder))
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setattr(tfds_source, "_reachable", lambda address: True)
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  yield folder, f"http://127.0.0.1:{server.server_port}/"
  server.shutdown()
  server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *args):
    pass


def write_mnist(folder, rng):
  arrays = {}
  for split, prefix, count in (("train", "train", 12), ("test", "t10k", 5)):
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    labels = rng.integers(0, 10, count, np.uint8)
    header = struct.pack(">IIII", 0x803, count, 28, 28)
    path = folder / f"{prefix}-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(header + images.tobytes()))
    path = folder / f"{prefix}-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">II", 0x801, count) + labels.tobytes()))
    arrays[split] = images[..., None], labels
  return arrays


def pairs(images, labels) -> list[tuple[bytes, int]]:
  # TFDS shuffles once when it prepares, so only the pairs can be compared.
  return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_fashion_mnist_is_prepared_and_read_without_tensorflow(data_dir, published, monkeypatch):
  folder, address = published
  arrays = write_mnist(folder, np.random.default_rng(0))
  monkeypatch.setattr(tfds.builder_cls("fashion_mnist"), "URL", address)
  for attempt in ("prepares", "reads"):
    images = load_tfds("fashion_mnist", size=64)
    for split, (pixels, labels) in arrays.items():
      found = images.splits[split]
      assert found["image"].shape == pixels.shape, attempt
      assert found["image"].dtype == np.uint8
      assert found["label"].dtype == np.int32
      assert pairs(found["image"], found["label"]) == pairs(pixels, labels)
    assert images.classes[0] == "T-shirt/top"
    assert images.description.startswith("fashion_mnist/3.0.1")
    for path in folder.iterdir():  # the second attempt has nothing to download
      path.unlink()
  assert "tensorflow" not in sys.modules


def test_cifar10_is_prepared_and_read_without_tensorflow(data_dir, published, monkeypatch):
  folder, address = published
  rng = np.random.default_rng(0)
  records = {}
  with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:

    def add(name, data):
      member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))

    add("batches.meta.txt", "\n".join(f"class {i}" for i in range(10)).encode())
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
      records[name] = rng.integers(0, 10, (3, 3073), np.uint8)
      add(f"{name}.bin", records[name].tobytes())
  cifar = tfds.builder_cls("cifar10")
  info = cifar._cifar_info.fget(cifar)
  local = info._replace(url=f"{address}cifar-10-binary.tar.gz")
  monkeypatch.setattr(cifar, "_cifar_info", local)
  images = load_tfds("cifar10", size=64)
  test = records.pop("test_batch")
  for split, expected in {"train": np.concatenate(list(records.values())), "test": test}.items():
    pixels = expected[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    found = images.splits[split]
    assert pairs(found["image"], found["label"]) == pairs(pixels, expected[:, 0])
  assert images.classes[3] == "class 3"


def prepare(data_dir, name, features, examples, file_format="array_record"):
  class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      yield from enumerate(examples)

  Small.name = name
  builder = Small(data_dir=data_dir, file_format=file_format)
  builder.download_and_prepare()


def test_images_of_different_sizes_are_resized(data_dir):
  features = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "label": tfds.features.ClassLabel(names=["red", "blue"]),
  }
  examples = [
    {"image": Image.new("RGB", (30, 10), "red"), "label": 0},
    {"image": Image.new("RGB", (7, 9), "blue"), "label": 1},
  ]
  prepare(data_dir, "flags", features, examples)
  images = load_tfds("flags", size=5)
  split = images.splits["train"]
  order = np.argsort(split["label"])
  assert split["image"].shape == (2, 5, 5, 3)
  np.testing.assert_array_equal(split["image"][order, 2, 2], [[255, 0, 0], [0, 0, 255]])
  assert images.classes == ("red", "blue")
  assert images.licence == "none stated"


def test_other_kinds_of_data_are_refused(data_dir):
  prepare(data_dir, "numbers", {"label": tfds.features.ClassLabel(num_classes=2)}, [{"label": 1}])
  with pytest.raises(UserError, match="'numbers' is no image classification set"):
    load_tfds("numbers", size=5)


def test_another_file_format_is_refused(data_dir):
  features = {
    "image": tfds.features.Image(shape=(2, 2, 3)),
    "label": tfds.features.ClassLabel(names=["red"]),
  }
  prepare(data_dir, "flags", features, [{"image": Image.new("RGB", (2, 2)), "label": 0}])
  info = data_dir / "flags" / "1.0.0" / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match="is not stored as array_record") as refused:
    load_tfds("flags", size=5)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kept", [0, 40_000])
def test_a_damaged_set_is_reported(data_dir, kept):
  features = {
    "image": tfds.features.Image(shape=(2, 2, 3)),
    "label": tfds.features.ClassLabel(names=["red"]),
  }
  prepare(data_dir, "flags", features, [{"image": Image.new("RGB", (2, 2)), "label": 0}])
  (path,) = (data_dir / "flags" / "1.0.0").glob("*array_record*")
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(UserError, match=r"is damaged .* delete it") as refused:
    load_tfds("flags", size=5)
  assert "\n" not in str(refused.value)


def test_offline_is_found_out_at_once(data_dir, monkeypatch):
  def no_network(*args, **kwargs):
    raise socket.gaierror("offline")

  monkeypatch.setattr(socket, "getaddrinfo", no_network)
  started = time.monotonic()
  with pytest.raises(UserError, match="cannot be reached") as info:
    load_tfds("cifar10", size=64)
  assert time.monotonic() - started < 10
  assert str(data_dir) in str(info.value)
  assert "\n" not in str(info.value)


def test_a_set_that_must_be_prepared_elsewhere(data_dir):
  with pytest.raises(UserError, match=r"prepare it elsewhere with tfds.builder\('beans'") as info:
    load_tfds("beans", size=64)
  assert "\n" not in str(info.value)


def test_a_missing_package_is_reported(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  with pytest.raises(UserError, match=r"pip install 'dlcourse\[tfds\]'"):
    load_tfds("mnist", size=64)
