"""The switches of a machine, each tried in a fresh interpreter where it acts on the process."""

import os
import subprocess
import sys

import jax
import pytest

from dlcourse import platform


def python(code, **environment):
  """Standard output of a fresh interpreter."""
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


def test_module_does_not_import_jax():
  code = "import sys, dlcourse.platform as p; p.tune_malloc(); print('jax' in sys.modules)"
  assert python(code) == "False"


def test_own_gradients_follow_the_backend(monkeypatch):
  monkeypatch.delenv("DLCOURSE_PLAIN_GRADIENTS", raising=False)
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  assert platform.own_gradients()
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert not platform.own_gradients()


def test_own_gradients_can_be_turned_off(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  monkeypatch.setenv("DLCOURSE_PLAIN_GRADIENTS", "1")
  assert not platform.own_gradients()


def test_the_plain_formulas_are_those_of_no_platform(monkeypatch):
  monkeypatch.delenv("DLCOURSE_PLAIN_GRADIENTS", raising=False)
  for backend in ("cpu", "gpu"):
    monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
    chosen = (platform.own_gradients(), platform.fused_attention("bfloat16"))
    assert any(chosen)
    with platform.plain_formulas():
      assert not platform.own_gradients()
      assert not platform.fused_attention("bfloat16")
    assert (platform.own_gradients(), platform.fused_attention("bfloat16")) == chosen


@pytest.mark.parametrize(
  ("kind", "half", "single"),
  [
    ("NVIDIA A100-SXM4-40GB", 312, 156),
    ("NVIDIA A100 80GB PCIe", 312, 156),
    ("NVIDIA H100 80GB HBM3", 989.4, 494.7),
    ("NVIDIA L4", 121, 60),
    ("Tesla T4", 8.1, 8.1),
    ("TPU v5 lite", 197, 197),
    ("TPU v5", 459, 459),
  ],
)
def test_peaks_are_those_of_the_very_device(kind, half, single):
  assert platform.peak_flops(kind, "bfloat16") == half * 1e12
  assert platform.peak_flops(kind, "float32") == single * 1e12


@pytest.mark.parametrize(
  "kind",
  [
    "NVIDIA L40S",
    "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "TPU v4 lite",
    "cpu",
  ],
)
def test_peaks_of_other_devices_are_not_known(kind):
  assert platform.peak_flops(kind, "float32") is None


TUNE = "from dlcourse import platform; print(platform.tune_malloc())"


def test_tune_malloc_can_be_turned_off():
  assert python(TUNE, DLCOURSE_MALLOC="0") == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt belongs to glibc")
def test_tune_malloc_stops_page_faults():
  """Buffers of 32 MiB, taken and given back ten times: their pages stay in the process."""
  if python(TUNE) != "True":
    pytest.skip("not glibc")
  code = """
import resource
from dlcourse import platform
platform.tune_malloc()
bytes(2**25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
  b"x" * 2**25
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
  tuned = int(python(code))
  plain = int(python(code, DLCOURSE_MALLOC="0"))
  assert tuned < plain / 5


def test_tune_malloc_does_nothing_elsewhere(monkeypatch):
  monkeypatch.setattr(sys, "platform", "darwin")
  assert not platform.tune_malloc()


def test_tune_malloc_does_nothing_on_another_c_library(monkeypatch):
  monkeypatch.setattr(platform.ctypes, "CDLL", lambda name: object())
  assert not platform.tune_malloc()


COMPILE = """
from dlcourse import platform
print(platform.enable_compilation_cache())
import jax
print(int(jax.jit(lambda x: x + 1)(1)))
"""


def test_compiled_programs_are_kept(tmp_path):
  folder = tmp_path / "a" / "b"
  assert python(COMPILE, DLCOURSE_CACHE=str(folder)).split() == [str(folder), "2"]
  assert list(folder.iterdir())


def test_default_folder_follows_xdg(tmp_path):
  expected = tmp_path / "dlcourse" / "xla"
  printed = python(COMPILE, DLCOURSE_CACHE="", XDG_CACHE_HOME=str(tmp_path))
  assert printed.split() == [str(expected), "2"]
  expected = tmp_path / ".cache" / "dlcourse" / "xla"
  printed = python(COMPILE, DLCOURSE_CACHE="", XDG_CACHE_HOME="", HOME=str(tmp_path))
  assert printed.split() == [str(expected), "2"]


def test_a_folder_that_cannot_be_made_does_not_stop_a_run(tmp_path):
  (tmp_path / "file").write_text("")
  printed = python(COMPILE, DLCOURSE_CACHE=str(tmp_path / "file" / "cache"))
  assert printed.split() == ["None", "2"]


def test_a_folder_without_permission_does_not_stop_a_run(tmp_path, monkeypatch):
  monkeypatch.setenv("DLCOURSE_CACHE", str(tmp_path))
  monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
  assert platform.enable_compilation_cache() is None


def test_a_cpu_is_named_with_its_cores():
  name = platform.device_name(jax.devices()[0])
  assert name.endswith(f"{os.cpu_count()} cores")
  assert "\n" not in name
