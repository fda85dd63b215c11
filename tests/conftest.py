"""The tests run on eight virtual CPU devices, so that parallel code is tested on any machine."""

import os

from dlcourse import platform

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
platform.enable_compilation_cache()  # imports JAX, after the environment is set
