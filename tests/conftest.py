"""The tests run on eight virtual CPU devices, so that parallel code is tested on any machine."""

import os

import numpy as np
import pytest

from dlcourse import platform

# Programs of tests run once or twice: their compilation is what takes the time. Without these three it takes
# three to eight times as long.
_XLA_FLAGS = (
  "--xla_force_host_platform_device_count=8",
  "--xla_backend_optimization_level=0",
  "--xla_cpu_use_fusion_emitters=false",
  "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_XLA_FLAGS])
os.environ["JAX_PLATFORMS"] = "cpu"
platform.enable_compilation_cache()  # imports JAX, after the environment is set


def pytest_make_parametrize_id(config, val, argname):
  """Bytes are named by their length: a packed file may hold the time, and workers must agree on names."""
  return f"{len(val)} bytes" if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _nothing_assembled():
  """Tests change files, environments and functions from which data and programs are made."""
  from dlcourse import assembly

  yield
  assembly.data_of.cache_clear()
  assembly.program_of.cache_clear()


@pytest.fixture
def stand_ins(monkeypatch):
  """What is not at hand, as its classes and two black images: shapes need no more."""
  from dlcourse.data import image_sources, streamed

  def stored(name, size):
    if name != "tfds:imagenet2012":
      return opened(name, size)
    rows = [{"image": np.zeros((300, 400, 3), np.uint8), "label": label} for label in (0, 999)]
    classes = tuple(f"class {label}" for label in range(1000))
    return streamed.Stored({"train": rows, "validation": rows}, classes, "stand-in", "none", "none", "")

  def read(file, size):
    shapes = {"pneumoniamnist.npz": (2, 28, 1), "fashion_mnist": (10, 28, 1), "cifar10": (10, 32, 3)}
    classes, side, channels = shapes[file]
    images = np.zeros((2, side, side, channels), np.uint8)
    split = {"image": images, "label": np.arange(2, dtype=np.int32)}
    splits = dict.fromkeys(("train", "validation", "test"), split)
    return image_sources.ImageSet(splits, tuple(map(str, range(classes))), "stand-in", "none", "none")

  opened = streamed.open_images
  monkeypatch.setattr(streamed, "open_images", stored)
  for kind in ("npz", "tfds"):
    monkeypatch.setitem(image_sources._PLACED, kind, read)
