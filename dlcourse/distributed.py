"""The processes of a run: one entry under every launcher.

What is said explicitly counts first: the flags, then JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID. Then what a launcher has left in the environment: Slurm's srun, a TPU pod, an indexed Job of
Kubernetes, mpirun. Else this is the only process, and nothing is started.
"""

import importlib.util
import os
import re
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from absl import logging

from dlcourse.errors import UserError, described

# In seconds. JAX would wait three times as long for a process that is silent, and ten times for one to leave.
INITIALIZATION = 300  # until all have come: some may first have to fetch an image
HEARTBEAT = 30  # until a process that says nothing counts as dead, and ends the others
SHUTDOWN = 30  # between the first that leaves and the last

_ADDRESS, _COUNT, _RANK = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_FLAGS = {_ADDRESS: "--coordinator=HOST:PORT", _COUNT: "--processes", _RANK: "--process_id"}
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE")  # of Open MPI, MVAPICH, MPICH


class Launch(NamedTuple):
  """What has started the processes of a run.

  Attributes:
    launcher: its name, for people.
    arguments: of `jax.distributed.initialize`, which asks the launcher for what they leave out.
    package: by which it asks, where that is not a part of JAX.
  """

  launcher: str
  arguments: Mapping[str, Any]
  package: str | None = None


def start_distributed(
  coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
  """Joins the other processes of a run; does nothing in a run of one process. Comes before any computation.

  Args:
    coordinator: "HOST:PORT" of process 0.
    processes: how many processes the run has.
    process_id: which one this is, 0-based. What is None is taken from the environment.

  Raises:
    UserError: what flags and environment say makes no run, or the launcher cannot be asked.
  """
  given = zip(_FLAGS, (coordinator, processes, process_id), strict=True)
  launch = detect(os.environ | {name: str(value) for name, value in given if value is not None})
  if launch is None:
    return
  alone = "a process that is alone says so by --processes=1"
  if launch.package and importlib.util.find_spec(launch.package) is None:
    found = f"{launch.launcher} has started this process, which finds the others by a package"
    raise UserError(f"{found}: pip install {launch.package}; {alone}")
  jax.config.update("jax_cpu_collectives_implementation", "gloo")  # no effect on other platforms
  try:
    jax.distributed.initialize(
      **launch.arguments,
      initialization_timeout=INITIALIZATION,
      heartbeat_timeout_seconds=HEARTBEAT,
      shutdown_timeout_seconds=SHUTDOWN,
    )
  except (ImportError, LookupError, ValueError, OSError) as error:  # no RuntimeError: others may only be late
    said = described(error)
    raise UserError(f"{launch.launcher} does not say who the others are ({said}); {alone}") from error
  where = (jax.process_index(), jax.process_count(), socket.gethostname())
  logging.warning("started by %s: process %d of %d, on %s", launch.launcher, *where)


def detect(environ: Mapping[str, str]) -> Launch | None:
  """What has started this process as one of several, as the environment says; None: it is the only one.

  Args:
    environ: environment variables; flags have been written over those of `_FLAGS`.

  Raises:
    UserError: what is said explicitly is incomplete or contradicts itself.
  """
  if _COUNT in environ or _RANK in environ:
    return _explicit(environ)
  launch = _slurm(environ) or _tpu(environ) or _kubernetes(environ) or _mpi(environ)
  if _ADDRESS not in environ:
    return launch
  if launch is None:
    raise _missing(_COUNT, _RANK)
  return launch._replace(arguments={**launch.arguments, "coordinator_address": _address(environ)})


def _explicit(environ: Mapping[str, str]) -> Launch | None:
  count, rank = _number(environ, _COUNT), _number(environ, _RANK)
  if count == 1 and not rank:
    return None
  missing = [name for name in _FLAGS if name not in environ]
  if missing:
    raise _missing(*missing)
  if not 0 <= rank < count:
    raise UserError(f"--process_id={rank} is not one of 0 … {count - 1} (--processes={count})")
  arguments = {"coordinator_address": _address(environ), "num_processes": count, "process_id": rank}
  return Launch("flags or JAX_* variables", {**arguments, "cluster_detection_method": "deactivate"})


def _slurm(environ: Mapping[str, str]) -> Launch | None:
  """A step of several tasks; the shell of `salloc` or `sbatch` has none, whatever its job may be given."""
  tasks = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
  if tasks == 1 or _mpi_size(environ) not in (1, tasks):  # mpirun starts its own daemons by srun
    return None
  arguments = {"cluster_detection_method": "slurm", "num_processes": tasks}
  # JAX takes one GPU for each task of a node, by its number among those of the node. That is wrong where
  # a task is alone on its node, or sees none but its own.
  gpus = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
  own = tasks == _number(environ, "SLURM_STEP_NUM_NODES") or "SLURM_GPUS_PER_TASK" in environ or len(gpus) == 1
  if own and gpus != [""] and "JAX_LOCAL_DEVICE_IDS" not in environ:
    arguments["local_device_ids"] = list(range(len(gpus)))
  return Launch("Slurm", arguments)


def _tpu(environ: Mapping[str, str]) -> Launch | None:
  """Kubernetes lists the hosts of a pod; on a machine of its own JAX, once imported, has seen the TPU."""
  hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
  if hosts:
    several = "," in hosts or _number(environ, "MEGASCALE_NUM_SLICES", 1) > 1
    return Launch("a TPU pod of Kubernetes", {"cluster_detection_method": "gketpu"}) if several else None
  if environ.get("TPU_ML_PLATFORM") == "JAX" and "TPU_SKIP_MDS_QUERY" not in environ:
    return Launch("a TPU pod", {"cluster_detection_method": "gcetpu"})
  return None


def _kubernetes(environ: Mapping[str, str]) -> Launch | None:
  """A pod that has a number; of how many, JAX asks the cluster. It has no name for this way of asking."""
  indexed = "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ
  return Launch("an indexed Job of Kubernetes", {}, "kubernetes") if indexed else None


def _mpi(environ: Mapping[str, str]) -> Launch | None:
  several = _mpi_size(environ) > 1
  return Launch("MPI", {"cluster_detection_method": "mpi4py"}, "mpi4py") if several else None


def _mpi_size(environ: Mapping[str, str]) -> int:
  return next((_number(environ, name) for name in _MPI_SIZES if name in environ), 1)


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int | None:
  value = environ.get(name)
  if value is None:
    return default
  if not re.fullmatch(r"\d+", value):
    raise UserError(f"{name}={value} is not a whole number")
  return int(value)


def _address(environ: Mapping[str, str]) -> str:
  address = environ[_ADDRESS]
  if not re.fullmatch(r".+:\d+", address):
    raise UserError(f"--coordinator={address} is not HOST:PORT, like node0:1234")
  return address


def _missing(*names: str) -> UserError:
  wanted = " and ".join(f"{_FLAGS[name]} ({name})" for name in names)
  return UserError(f"a run of several processes needs {wanted} too")
