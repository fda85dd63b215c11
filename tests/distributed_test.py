"""Which launcher has started this process, by environments as they were seen or are documented; joining it."""

import inspect
import os
import subprocess
import sys
import textwrap

import jax
import pytest
from processes import free_port

from dlcourse import distributed
from dlcourse.distributed import Launch, detect
from dlcourse.errors import UserError

SLURM = {  # of `srun --ntasks=2` on Slurm 22.05
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_NODELIST": "localhost",
  "SLURM_STEP_NUM_NODES": "1",
  "SLURM_STEP_NUM_TASKS": "2",
  "SLURM_NTASKS": "2",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "1",
}
SALLOC = {"SLURM_JOB_ID": "2", "SLURM_NPROCS": "3", "SLURM_NTASKS": "3"}  # its shell
SBATCH = {**SALLOC, "SLURM_LOCALID": "0", "SLURM_PROCID": "0"}  # its script
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
EXPLICIT = {"JAX_COORDINATOR_ADDRESS": "node0:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
BY_SLURM = {"cluster_detection_method": "slurm", "num_processes": 2}
BY_MPI = Launch("MPI", {"cluster_detection_method": "mpi4py"}, "mpi4py")
GKE = Launch("a TPU pod of Kubernetes", {"cluster_detection_method": "gketpu"})
ONE_GPU, TWO_GPUS = {"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize(
  "environ",
  [
    {},
    SALLOC,
    SBATCH,
    SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
    KUBERNETES,
    {"OMPI_COMM_WORLD_SIZE": "1"},
    {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ML_PLATFORM": "JAX"},
    {"TPU_SKIP_MDS_QUERY": "1", "TPU_ML_PLATFORM": "JAX"},
    SLURM | {"JAX_NUM_PROCESSES": "1"},
    SLURM | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "node0:1"},
  ],
)
def test_a_process_that_is_alone_stays_alone(environ):
  assert detect(environ) is None


@pytest.mark.parametrize(
  ("environ", "launch"),
  [
    (SLURM, Launch("Slurm", BY_SLURM)),
    (SLURM | {"PMI_SIZE": "2"}, Launch("Slurm", BY_SLURM)),  # srun --mpi=pmi2
    (SLURM | KUBERNETES, Launch("Slurm", BY_SLURM)),
    (SLURM | TWO_GPUS, Launch("Slurm", BY_SLURM)),  # JAX takes the one of its number
    (SLURM | ONE_GPU, Launch("Slurm", BY_SLURM | {"local_device_ids": [0]})),
    (
      SLURM | TWO_GPUS | {"SLURM_GPUS_PER_TASK": "2"},
      Launch("Slurm", BY_SLURM | {"local_device_ids": [0, 1]}),
    ),
    (
      SLURM | TWO_GPUS | {"SLURM_STEP_NUM_NODES": "2"},
      Launch("Slurm", BY_SLURM | {"local_device_ids": [0, 1]}),
    ),
    (SLURM | ONE_GPU | {"JAX_LOCAL_DEVICE_IDS": "0"}, Launch("Slurm", BY_SLURM)),
    (
      SLURM | {"JAX_COORDINATOR_ADDRESS": "node0:1234"},
      Launch("Slurm", BY_SLURM | {"coordinator_address": "node0:1234"}),
    ),
    ({"TPU_WORKER_HOSTNAMES": "host0,host1", "TPU_WORKER_ID": "1"}, GKE),
    ({"TPU_WORKER_HOSTNAMES": "host0", "MEGASCALE_NUM_SLICES": "2"}, GKE),
    (KUBERNETES | {"TPU_WORKER_HOSTNAMES": "host0,host1", "JOB_COMPLETION_INDEX": "1"}, GKE),
    ({"TPU_ML_PLATFORM": "JAX"}, Launch("a TPU pod", {"cluster_detection_method": "gcetpu"})),
    (
      KUBERNETES | {"JOB_COMPLETION_INDEX": "0"},
      Launch("an indexed Job of Kubernetes", {}, "kubernetes"),
    ),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, BY_MPI),
    ({"PMI_SIZE": "4", "PMI_RANK": "0"}, BY_MPI),
    (SBATCH | {"OMPI_COMM_WORLD_SIZE": "2"}, BY_MPI),
    (SLURM | {"OMPI_COMM_WORLD_SIZE": "16"}, BY_MPI),  # by a daemon that srun has started, one a node
  ],
)
def test_each_launcher_is_known_by_what_it_leaves(environ, launch):
  assert detect(environ) == launch


def test_what_is_said_explicitly_counts_first_and_asks_nobody():
  launch = detect(SLURM | KUBERNETES | EXPLICIT)
  assert launch.arguments == {
    "coordinator_address": "node0:1234",
    "num_processes": 2,
    "process_id": 1,
    "cluster_detection_method": "deactivate",
  }


@pytest.mark.parametrize(
  ("environ", "said"),
  [
    ({"JAX_COORDINATOR_ADDRESS": "node0:1234"}, r"--processes \(JAX_NUM_PROCESSES\) and --process_id"),
    ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, r"needs --coordinator=HOST:PORT \(JAX_COORD"),
    ({**EXPLICIT, "JAX_PROCESS_ID": "2"}, "--process_id=2 is not one of 0 … 1"),
    ({"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "1"}, "--coordinator"),
    ({**EXPLICIT, "JAX_COORDINATOR_ADDRESS": "node0"}, "--coordinator=node0 is not HOST:PORT"),
    ({**EXPLICIT, "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two is not a whole number"),
  ],
)
def test_what_makes_no_run_is_refused(environ, said):
  with pytest.raises(UserError, match=said):
    detect(environ)


def test_ways_of_asking_are_known_to_the_installed_jax():
  from jax._src.clusters import ClusterEnv

  known = {kind.name for kind in ClusterEnv._cluster_types}
  assert {"slurm", "mpi4py", "gketpu", "gcetpu"} <= known


@pytest.fixture
def started(monkeypatch):
  """What JAX is started with, in the environment that the test sets."""
  calls = []

  def initialize(*args, **kwargs):
    calls.append(inspect.signature(real).bind(*args, **kwargs).arguments)

  real = jax.distributed.initialize
  for name in list(os.environ):
    if name.startswith(
      ("SLURM_", "JAX_COORD", "JAX_NUM", "JAX_PROCESS", "TPU_", "OMPI_", "PMI_", "KUBERNETES_")
    ):
      monkeypatch.delenv(name)
  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  return calls


def test_time_outs_are_always_set(started, monkeypatch):
  distributed.start_distributed("node0:1", 2, 1)
  for name, value in SLURM.items():
    monkeypatch.setenv(name, value)
  distributed.start_distributed()
  for call in started:
    assert (call["initialization_timeout"], call["heartbeat_timeout_seconds"]) == (300, 30)
    assert call["shutdown_timeout_seconds"] == distributed.SHUTDOWN
  assert [call.get("process_id") for call in started] == [1, None]


def test_flags_count_before_the_environment(started, monkeypatch):
  for name, value in EXPLICIT.items():
    monkeypatch.setenv(name, value)
  distributed.start_distributed(process_id=0)
  assert (started[0]["coordinator_address"], started[0]["process_id"]) == ("node0:1234", 0)
  distributed.start_distributed(processes=1, process_id=0)
  assert len(started) == 1


@pytest.mark.parametrize(
  ("environ", "package"),
  [({"OMPI_COMM_WORLD_SIZE": "2"}, "mpi4py"), (KUBERNETES | {"JOB_COMPLETION_INDEX": "0"}, "kubernetes")],
)
def test_a_launcher_that_needs_a_package_names_it(environ, package, started, monkeypatch):
  monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None)
  for name, value in environ.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError, match=f"pip install {package}; .* --processes=1$"):
    distributed.start_distributed()
  assert not started


def fresh(code, **environ):
  """What another process says, which no launcher has started but this environment."""
  ours = ("SLURM_", "TPU_", "OMPI_", "PMI_", "KUBERNETES_", "JAX_COORD", "JAX_NUM", "JAX_PROCESS")
  clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
  command = [sys.executable, "-c", textwrap.dedent(code)]
  return subprocess.Popen(command, env=clean | environ, stdout=subprocess.PIPE, text=True)


def said_by(running):
  said = [process.communicate(timeout=100)[0] for process in running]
  assert [process.returncode for process in running] == [0] * len(running)
  return [text.splitlines()[-1] for text in said]


MPI4PY = """
import os
class World:
  def Get_rank(self): return int(os.environ["OMPI_COMM_WORLD_RANK"])
  def Get_size(self): return int(os.environ["OMPI_COMM_WORLD_SIZE"])
  def Split_type(self, kind): return self
  def bcast(self, value, root): return "localhost:" + os.environ["JAX_COORDINATOR_PORT"]
COMM_WORLD, COMM_TYPE_SHARED = World(), 0
"""
TPU = {  # of one slice with two hosts; the last stands in for the chips
  "TPU_WORKER_HOSTNAMES": "localhost,localhost",
  "TPU_WORKER_ID": "RANK",
  "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
  "MEGASCALE_NUM_SLICES": "1",
  "MEGASCALE_SLICE_ID": "0",
  "JAX_FORCE_TPU_INIT": "1",
}


@pytest.mark.parametrize(
  "environ",
  [
    EXPLICIT | {"JAX_COORDINATOR_ADDRESS": "localhost:PORT", "JAX_PROCESS_ID": "RANK"},
    SLURM | {"SLURM_PROCID": "RANK", "SLURM_LOCALID": "RANK"},
    TPU,
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "RANK"},
  ],
  ids=["variables", "slurm", "tpu", "mpi"],
)
def test_two_processes_join(environ, tmp_path):
  (tmp_path / "mpi4py").mkdir()
  (tmp_path / "mpi4py" / "__init__.py").touch()
  (tmp_path / "mpi4py" / "MPI.py").write_text(MPI4PY)
  port = str(free_port())
  environ = environ | {"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_PORT": port, "PYTHONPATH": str(tmp_path)}
  code = """
    import jax
    from dlcourse.distributed import start_distributed
    start_distributed()
    print(jax.process_index(), jax.process_count())
  """
  environs = [
    {name: value.replace("RANK", rank).replace("PORT", port) for name, value in environ.items()}
    for rank in "01"
  ]
  assert said_by([fresh(code, **each) for each in environs]) == ["0 2", "1 2"]


def test_a_tpu_that_jax_has_seen_leaves_what_is_looked_for():
  code = """
    import jax, os
    from dlcourse.distributed import detect
    del os.environ["TPU_SKIP_MDS_QUERY"]  # as there are no chips
    print(detect(os.environ).launcher)
  """
  assert said_by([fresh(code, JAX_FORCE_TPU_INIT="1")]) == ["a TPU pod"]


def test_what_jax_does_not_find_is_one_line():
  code = """
    from dlcourse.distributed import UserError, start_distributed
    try:
      start_distributed()
    except UserError as error:
      print(error)
  """
  said = said_by([fresh(code, SLURM_STEP_NUM_TASKS="2")])  # in a container that hides the rest
  missing = "Slurm does not say who the others are (KeyError: 'SLURM_JOB_ID')"
  assert said == [f"{missing}; a process that is alone says so by --processes=1"]


def test_a_process_that_is_alone_starts_nothing():
  code = """
    import sys
    import jax
    before = set(sys.modules)
    from dlcourse.distributed import start_distributed
    start_distributed()
    from jax._src import distributed, xla_bridge
    new = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
    print(distributed.global_state.client, xla_bridge.backends_are_initialized(), sorted(new))
  """
  assert said_by([fresh(code, **SBATCH, **KUBERNETES)]) == ["None False ['absl', 'dlcourse']"]
