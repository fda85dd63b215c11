"""Templates of the launchers: what they say, and what they do with a cluster that is faked."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import submitit_job
import yaml

from dlcourse.distributed import detect
from dlcourse.experiment import load

LAUNCH = pathlib.Path(submitit_job.__file__).parent
SCRIPTS = sorted(path for path in LAUNCH.rglob("*") if path.suffix in (".sh", ".sbatch"))


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """Puts a shell script in the place of a program, which finds its arguments in `"$@"`."""
  (tmp_path / "bin").mkdir()
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  monkeypatch.chdir(tmp_path)

  def put(name, script):
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)

  return put


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_well_formed(script):
  subprocess.run(["bash", "-n", script], check=True)


def test_sbatch_asks_for_a_process_a_gpu_and_for_a_signal_before_its_end():
  lines = (LAUNCH / "slurm" / "train.sbatch").read_text().splitlines()
  assert lines[0] == "#!/bin/bash"
  assert [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")] == [
    "--job-name=dlcourse",
    "--ntasks-per-node=8",
    "--gpus-per-node=8",
    "--time=24:00:00",
    "--signal=TERM@60",
    "--requeue",
    "--open-mode=append",
    "--output=%x-%j.log",
  ]


@pytest.mark.parametrize(
  ("code", "queued_again"), [(0, False), (2, False), (17, False), (42, True), (137, False)]
)
def test_sbatch_is_queued_again_after_a_preemption_only(code, queued_again, fake, tmp_path):
  fake("srun", f'printf "%s\\n" "$@" >srun; exit {code}')
  fake("scontrol", 'echo "$@" >scontrol')
  command = ["bash", LAUNCH / "slurm" / "train.sbatch", "--experiment=cnn.lenet5", "--data.source=a b"]
  assert subprocess.run(command, env=os.environ | {"SLURM_JOB_ID": "7"}, check=False).returncode == code
  assert (tmp_path / "srun").read_text().splitlines() == [
    *("--kill-on-bad-exit=1", "--open-mode=append", "--output=%x-%j-%t.log"),
    *(".venv/bin/python", "-u", "-m", "dlcourse", "train"),
    *("--experiment=cnn.lenet5", "--data.source=a b"),
  ]
  assert (tmp_path / "scontrol").exists() == queued_again
  assert not queued_again or (tmp_path / "scontrol").read_text() == "requeue 7\n"


def test_mpi_ties_no_process_to_a_core_and_keeps_what_each_says(fake, tmp_path):
  env = os.environ | {"PYTHON": "echo", "LOGS": str(tmp_path), "MPIRUN": f"{tmp_path}/bin/mpirun --hostfile=x"}
  command = [LAUNCH / "mpi.sh", "2", "--experiment=cnn.lenet5", "--data.source=a b"]
  fake(
    "mpirun",
    f'echo "${{@:1:5}}" >{tmp_path}/mpirun; for rank in 0 1; do OMPI_COMM_WORLD_RANK=$rank "${{@:6}}"; done',
  )
  subprocess.run(command, env=env, check=True)
  assert (tmp_path / "mpirun").read_text() == "--hostfile=x -n 2 --bind-to none\n"
  for rank in range(2):
    said = (tmp_path / f"process-{rank}.log").read_text()
    assert said == "-u -m dlcourse train --experiment=cnn.lenet5 --data.source=a b\n"


def jobset(kind):
  """(JobSet, its only Job, the pod of that, its only container)."""
  text = (LAUNCH / "kubernetes" / f"jobset_{kind}.yaml").read_text()
  whole = yaml.safe_load(text)
  (replicated,) = whole["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  return whole, job, pod, container


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_jobsets_start_again_unless_the_command_is_wrong(kind):
  whole, job, pod, container = jobset(kind)
  assert (whole["apiVersion"], whole["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  assert whole["spec"]["network"] == {"enableDNSHostnames": True}
  assert whole["spec"]["failurePolicy"] == {
    "maxRestarts": 100,
    "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
  }
  assert job["podFailurePolicy"]["rules"] == [
    {"action": "FailJob", "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2]}}
  ]
  assert (job["completionMode"], job["backoffLimit"], pod["restartPolicy"]) == ("Indexed", 0, "Never")
  assert pod["terminationGracePeriodSeconds"] == 60
  assert container["command"] == ["python", "-u", "-m", "dlcourse", "train"]  # the first of all processes
  flags = dict(flag.removeprefix("--").split("=") for flag in container["args"])
  load(flags["experiment"])
  (mounted,) = container["volumeMounts"]
  assert flags["workdir"].startswith(f"{mounted['mountPath']}/")
  assert [volume["name"] for volume in pod["volumes"]] == [mounted["name"]]


def test_pods_with_gpus_know_each_other_by_variables():
  whole, job, _, container = jobset("gpu")
  name, coordinator = whole["metadata"]["name"], whole["spec"]["coordinator"]
  assert coordinator == {"replicatedJob": "workers", "jobIndex": 0, "podIndex": 0}
  fields = {
    "metadata.annotations['jobset.sigs.k8s.io/coordinator']": f"{name}-workers-0-0.{name}",
    "metadata.annotations['batch.kubernetes.io/job-completion-index']": "1",
  }
  environ = {}
  for entry in container["env"]:  # as Kubernetes does: in their order, the first may be used in the next
    value = entry.get("value") or fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
    for known, its in environ.items():
      value = value.replace(f"$({known})", its)
    environ[entry["name"]] = value
  arguments = detect(environ | {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}).arguments
  assert arguments["coordinator_address"] == "dlcourse-workers-0-0.dlcourse:12345"
  assert (arguments["process_id"], arguments["num_processes"]) == (1, job["parallelism"])
  assert job["completions"] == job["parallelism"] == 2
  assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}


def test_pods_with_tpus_are_as_many_as_the_slice_has_hosts():
  whole, job, pod, container = jobset("tpu")
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
  chips = container["resources"]["limits"]["google.com/tpu"]
  assert job["completions"] == job["parallelism"] == int(topology[0]) * int(topology[1]) // chips == 4
  placed = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
  assert whole["metadata"]["annotations"] == placed
  hosts = ",".join(f"host{index}" for index in range(job["parallelism"]))  # GKE says so to each
  assert detect({"TPU_WORKER_HOSTNAMES": hosts}).arguments == {"cluster_detection_method": "gketpu"}


@pytest.mark.parametrize("nodes", [1, 2])
def test_skypilot_tells_every_machine_which_it_is(nodes, fake, tmp_path):
  task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
  assert task["resources"] == {
    "accelerators": "A100:8",
    "use_spot": True,
    "job_recovery": {"recover_on_exit_codes": [42], "max_restarts_on_errors": 3},
  }
  assert task["file_mounts"] == {"/runs": {"name": "${BUCKET}", "mode": "MOUNT_CACHED"}}
  assert (task["num_nodes"], task["workdir"], task["envs"]["BUCKET"]) == (1, ".", None)
  load(task["envs"]["EXPERIMENT"])
  (tmp_path / "launch").mkdir()
  fake("../launch/run.sh", 'echo "$@" >command; env -0 >environ')
  ips = "\n".join(["10.0.0.1", "10.0.0.2"][:nodes])
  given = {"SKYPILOT_NODE_IPS": ips, "SKYPILOT_NUM_NODES": str(nodes), "SKYPILOT_NODE_RANK": str(nodes - 1)}
  env = os.environ | given | {"EXPERIMENT": "cnn.lenet5"}
  subprocess.run(["bash", "-c", task["run"]], env=env, check=True)
  assert (tmp_path / "command").read_text() == "train --experiment=cnn.lenet5 --workdir=/runs/cnn.lenet5\n"
  launch = detect(
    dict(entry.split("=", 1) for entry in (tmp_path / "environ").read_text().split("\0") if entry)
  )
  if nodes == 1:
    assert launch is None
  else:
    assert launch.arguments["coordinator_address"] == "10.0.0.1:12345"
    assert (launch.arguments["num_processes"], launch.arguments["process_id"]) == (2, 1)


SUBMITIT = """
import json, types
class AutoExecutor:
  def __init__(self, folder, **options):
    self.said = {"folder": folder, **options}
  def update_parameters(self, **parameters):
    self.said |= parameters
  def submit(self, training):
    print(json.dumps(self.said | {"arguments": training.arguments}))
    return types.SimpleNamespace(job_id="7")
"""


def submit(tmp_path, module, *flags):
  (tmp_path / "submitit.py").write_text(module)
  command = [sys.executable, submitit_job.__file__, *flags]
  env = os.environ | {"PYTHONPATH": str(tmp_path)}
  return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_submitit_is_asked_for_a_process_a_gpu(tmp_path):
  done = submit(tmp_path, SUBMITIT, "--nodes=2", "--gpus=4", "train", "--experiment=cnn.lenet5", "--steps=9")
  asked, said = done.stdout.splitlines()
  assert json.loads(asked) == {
    "folder": "logs",
    "slurm_max_num_timeout": 1000,
    "name": "dlcourse",
    "nodes": 2,
    "gpus_per_node": 4,
    "tasks_per_node": 4,
    "timeout_min": 1440,
    "slurm_partition": None,
    "slurm_srun_args": ["--kill-on-bad-exit=1"],
    "arguments": ["train", "--experiment=cnn.lenet5", "--steps=9"],
  }
  assert said == "job 7; what it says: logs/7_*"


def test_without_submitit_it_says_what_to_install(tmp_path):
  done = submit(tmp_path, "raise ImportError", "train", "--experiment=cnn.lenet5")
  assert done.returncode == 2
  assert done.stderr.endswith("error: this needs a package: pip install submitit\n")


STAND_IN = """
import pathlib, signal, sys, time
def save(number, frame):
  pathlib.Path("saved").touch()
  sys.exit(42)
signal.signal(signal.SIGTERM, save)
deaf = signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
pathlib.Path("started").write_text(f"deaf: {deaf}")
time.sleep(60 if sys.argv[1] == "stay" else 0)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def training(fake, tmp_path):
  """A training by a stand-in for dlcourse, which leaves with the code that it is given, or stays."""
  (tmp_path / "dlcourse.py").write_text(STAND_IN)
  return lambda act: submitit_job.Training([act])


def test_a_training_under_submitit_ends_as_dlcourse_does(training):
  training("0")()
  with pytest.raises(subprocess.CalledProcessError, match="exit status 17"):
    training("17")()


class Requeued(BaseException):
  """What submitit's own handler raises at its end (SystemExit, of which pytest would take note)."""


@pytest.fixture
def submitit_handler(tmp_path, monkeypatch):
  """Acts on SIGUSR2 as submitit does, once it is told of a training; what is then queued."""
  (tmp_path / "submitit").mkdir()
  (tmp_path / "submitit" / "__init__.py").touch()
  (tmp_path / "submitit" / "helpers.py").write_text("def DelayedSubmission(function): return function")
  monkeypatch.syspath_prepend(str(tmp_path))
  queued = []

  def install(training):
    def handler(number, frame):
      queued.append(training.checkpoint())
      raise Requeued

    before.append(signal.signal(signal.SIGUSR2, handler))
    return queued

  before = []
  yield install
  signal.signal(signal.SIGUSR2, before[0])
  for name in ("submitit", "submitit.helpers"):
    sys.modules.pop(name, None)


def test_submitit_has_a_training_save_and_queues_it_again(training, submitit_handler, tmp_path):
  one = training("stay")
  queued = submitit_handler(one)
  asks = subprocess.Popen(
    ["bash", "-c", f"until [ -s {tmp_path}/started ]; do sleep 0.05; done; kill -USR2 {os.getpid()}"]
  )
  with pytest.raises(Requeued):
    one()
  asks.wait()
  assert (tmp_path / "saved").exists()
  assert (tmp_path / "started").read_text() == "deaf: True"
  (again,) = queued
  assert (again.arguments, again.process) == (["stay"], None)


def test_a_training_that_slurm_itself_preempts_is_queued_again(training, submitit_handler):
  one = training("42")
  queued = submitit_handler(one)
  started = time.monotonic()
  with pytest.raises(Requeued):
    one()
  assert time.monotonic() - started < 50
  assert queued[0].arguments == ["42"]
