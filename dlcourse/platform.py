"""What differs between machines, decided in one place and not in models.

Nothing here imports JAX at module level: `tune_malloc` has to run before JAX allocates.
"""

import contextlib
import contextvars
import ctypes
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import logging

if TYPE_CHECKING:
  import jax

# Parameters of glibc's mallopt(3) and the values that keep freed pages in the process. XLA takes
# fresh temporary buffers each step; by default glibc gives their pages back to the kernel each time
# and the next step pays for them in page faults.
_MALLOC_OPTIONS = {
  -4: 0,  # M_MMAP_MAX: no buffer gets a mapping of its own
  -1: 2**31 - 1,  # M_TRIM_THRESHOLD: never shrink the heap
  -2: 256 * 2**20,  # M_TOP_PAD: grow it by 256 MiB at a time
  -8: 1,  # M_ARENA_MAX: one heap for all threads
}

# What `jax.Device.device_kind` reads (of a part of a card, MIG, it reads otherwise), and the vendor's peaks in
# TFLOP/s without sparsity: of bfloat16, and of float32 as JAX multiplies it by default, which is TF32 on a GPU
# that has it and one pass of bfloat16 on a TPU. A GPU without units for bfloat16 computes that in float32.
_PEAKS = (
  (r"Tesla V100-SXM2-\d+GB", 15.7, 15.7),  # NVIDIA V100 datasheet, 2020
  (r"Tesla V100-PCIE-\d+GB", 14.0, 14.0),  # the same
  (r"Tesla T4", 8.1, 8.1),  # NVIDIA T4 datasheet, 2019
  (r"(NVIDIA )?A100-(SXM4|PCIE|PCIe)-\d+GB|NVIDIA A100 80GB PCIe", 312.0, 156.0),  # NVIDIA A100 datasheet, 2021
  (r"NVIDIA L4", 121.0, 60.0),  # half of NVIDIA L4 datasheet, 2023, which counts sparsity
  (r"NVIDIA GeForce RTX 4090", 165.2, 82.6),  # NVIDIA Ada architecture whitepaper, appendix A
  (r"NVIDIA H100 80GB HBM3", 989.4, 494.7),  # NVIDIA H100 architecture whitepaper, SXM5
  (r"NVIDIA H100 PCIe", 756.0, 378.0),  # the same, PCIe
  (r"NVIDIA H100 NVL", 835.5, 417.5),  # half of NVIDIA H100 datasheet, 2024, which counts sparsity
  (r"NVIDIA H200", 989.5, 494.5),  # half of NVIDIA H200 datasheet, 2024, which counts sparsity
  (r"TPU v3", 61.5, 61.5),  # cloud.google.com/tpu/docs/v3: 123 a chip, of which JAX sees the two cores
  (r"TPU v4", 275.0, 275.0),  # cloud.google.com/tpu/docs/v4
  (r"TPU v5( lite|e)", 197.0, 197.0),  # cloud.google.com/tpu/docs/v5e
  (r"TPU v5p?", 459.0, 459.0),  # cloud.google.com/tpu/docs/v5p
  (r"TPU v6( lite|e)", 918.0, 918.0),  # cloud.google.com/tpu/docs/v6e
)

_plain: contextvars.ContextVar[bool] = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_formulas() -> Iterator[None]:
  """What is traced within is as the models mean it, and not as one platform computes it fastest."""
  token = _plain.set(True)
  try:
    yield
  finally:
    _plain.reset(token)


def peak_flops(kind: str, dtype: str) -> float | None:
  """Most floating-point operations a second that a device makes of matrix products, by its vendor.

  Args:
    kind: `jax.Device.device_kind`.
    dtype: name of the type of what is multiplied.

  Returns:
    None where it is not known, as of CPUs, and of types but "bfloat16" and "float32".
  """
  for pattern, *peaks in _PEAKS:
    if re.fullmatch(pattern, kind) and dtype in ("bfloat16", "float32"):
      return peaks[dtype == "float32"] * 1e12
  return None


def own_gradients() -> bool:
  """Whether `dlcourse.models` writes gradients of its own: of convolutions, max pooling, batch norm,
  dense layers over time and attention.

  True on the CPU backend, where XLA runs those that JAX derives many times slower.
  `DLCOURSE_PLAIN_GRADIENTS=1` turns it off: `jax.custom_vjp` forbids forward-mode
  differentiation, so `jax.jvp` and `jax.hessian` of a network need those that JAX derives.

  The answer is taken while a function is traced; what is already compiled keeps its choice.
  """
  import jax

  wanted = not _plain.get() and os.environ.get("DLCOURSE_PLAIN_GRADIENTS") != "1"
  return wanted and jax.default_backend() == "cpu"


def fused_attention(dtype: "jax.typing.DTypeLike") -> bool:
  """Whether attention takes cuDNN's kernel, which writes no scores to memory: on a GPU, in half precision.

  On a CPU the plain formula is 10-17 % faster than `jax.nn.dot_product_attention`.
  """
  import jax

  return not _plain.get() and jax.default_backend() == "gpu" and jax.numpy.dtype(dtype).itemsize == 2


def tune_malloc() -> bool:
  """Tells glibc's allocator to keep freed memory for the next step.

  Call it before JAX is imported. `DLCOURSE_MALLOC=0` turns it off. The process then holds its peak
  memory until it ends.

  Returns:
    Whether every option was set: False if turned off, and on any C library but glibc.
  """
  if os.environ.get("DLCOURSE_MALLOC") == "0" or sys.platform != "linux":
    return False
  libc = ctypes.CDLL(None)
  if not hasattr(libc, "gnu_get_libc_version"):  # musl and others have no mallopt
    return False
  done = [libc.mallopt(option, value) for option, value in _MALLOC_OPTIONS.items()]
  return all(done)


def enable_compilation_cache() -> pathlib.Path | None:
  """Keeps compiled programs on disk, so that a second run of an experiment starts faster.

  The folder is `$DLCOURSE_CACHE`, else `$XDG_CACHE_HOME/dlcourse/xla`, with `~/.cache` where
  XDG_CACHE_HOME is not set.
  Call it before the first compilation: JAX opens its cache once.

  Returns:
    The folder, or None (and a warning) if nothing can be written there: a run goes on without.
  """
  import jax

  folder = cache_folder("DLCOURSE_CACHE", "xla")
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
      raise PermissionError(f"no permission to write into {folder}")
  except OSError as error:
    logging.warning("compiled programs are not kept: %s", error)
    return None
  jax.config.update("jax_compilation_cache_dir", str(folder))
  # JAX by default leaves out what compiles in under a second; a course's networks mostly do.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  return folder


def cache_folder(variable: str, name: str) -> pathlib.Path:
  """Where something is kept between runs: the environment variable's folder, else dlcourse/NAME under
  $XDG_CACHE_HOME or ~/.cache.
  """
  if folder := os.environ.get(variable):
    return pathlib.Path(folder).expanduser().absolute()
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(base).expanduser() / "dlcourse" / name


def device_name(device: "jax.Device") -> str:
  """What a reader of a result calls the device: of a CPU, its model and how many cores the run may use."""
  if device.platform != "cpu":
    return device.device_kind
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:  # not Linux
    lines = []
  models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return f"{models[0] if models else 'cpu'}, {os.cpu_count()} cores"
