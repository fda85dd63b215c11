"""The tests run on eight virtual CPU devices, so that parallel code is tested on any machine."""

import os

import numpy as np
import pytest

from dlcourse import platform

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
platform.enable_compilation_cache()  # imports JAX, after the environment is set


@pytest.fixture
def stand_ins(monkeypatch):
  """ImageNet and MedMNIST as their classes and two black images: shapes need no more of what is not at hand."""
  from dlcourse.data import image_sources, npz_source, streamed

  def stored(name, size):
    if name != "tfds:imagenet2012":
      return opened(name, size)
    rows = [{"image": np.zeros((300, 400, 3), np.uint8), "label": label} for label in (0, 999)]
    classes = tuple(f"class {label}" for label in range(1000))
    return streamed.Stored({"train": rows, "validation": rows}, classes, "stand-in", "none", "none", "")

  def read(file, size):
    if file != "pneumoniamnist.npz":
      return npz_source.load_npz(file)
    split = {"image": np.zeros((2, 28, 28, 1), np.uint8), "label": np.arange(2, dtype=np.int32)}
    splits = dict.fromkeys(("train", "validation", "test"), split)
    return image_sources.ImageSet(splits, ("normal", "pneumonia"), "stand-in", "none", "none")

  opened = streamed.open_images
  monkeypatch.setattr(streamed, "open_images", stored)
  monkeypatch.setitem(image_sources._PLACED, "npz", read)
