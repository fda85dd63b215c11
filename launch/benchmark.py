"""Times training steps against PyTorch and Keras on one core, and the start of a run.

    python launch/benchmark.py    # all of it: about ten minutes
    python launch/benchmark.py --slices=lstm,gru --rounds=9 --out=benchmark.json
    python launch/benchmark.py --slices= --startup_rounds=5

Every contestant of a slice is a process of its own, pinned to the same core, kept alive and asked
for short measurements in turn: a machine that slows down then slows all of them, and a ratio taken
within a round stays right. Times are CPU seconds of the process by default, which is wall time on
an idle core and does not count what others do on a busy one (`--clock=wall` for the other).

Needs the extra `parity` and an installed `dlcourse`.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import peers

from dlcourse import platform

CONTESTANTS = ("ours", "torch", "torch+malloc", "keras", "keras+malloc")
OTHERS = {  # of a slice, where they are not these
  "gpt": (*CONTESTANTS, "torch_compiled", "torch_compiled+malloc"),
  "wgan_gp": ("ours", "torch", "torch+malloc"),
}
_SGEMM = 2048  # side of the matrices that measure the core's peak


# Slices that are experiments of this project, with what makes them as large as their peers.
EXPERIMENTS = {
  "lenet5": ("cnn.lenet5", ()),
  "char_lstm": ("recurrent.char_lstm", ()),
  "gpt": ("transformer.char_gpt", ("--task.model.body.positions=learned", "--task.model.body.window=None")),
  "dcgan": ("gan.dcgan", ("--task.generator.width=64", "--task.discriminator.width=64")),
  "wgan_gp": ("gan.wgan_gp", ("--task.generator.width=64", "--task.discriminator.width=64")),
  "vae": ("vae.mlp", ()),
}


def ours(name: str) -> peers.Step:
  """This project's training step of a slice, the making of its batch included; see `peers.step`."""
  if name in EXPERIMENTS:
    return _experiment(*EXPERIMENTS[name])
  return _classifier(name) if name in ("resnet18", "mobilenet_v2") else _layer(name)


def _experiment(name: str, overrides: tuple[str, ...]) -> peers.Step:
  import jax

  from dlcourse.experiment import load
  from dlcourse.parallel import compile_task, make_mesh

  experiment = load(name, overrides)
  data = experiment.data.build()
  task = experiment.task.build(data.spec, experiment.steps)
  program = compile_task(task, data.spec.batch, make_mesh(), "jit")
  state, count = program.init(jax.random.key(0)), 0

  def step() -> None:
    nonlocal state, count
    state, metrics = program.train_step(state, data.batch(0, count))
    jax.block_until_ready((state, metrics))
    count += 1

  return step


def _classifier(name: str) -> peers.Step:
  """A network at the size of its peers, trained as `Classify` trains it."""
  import jax

  from dlcourse.data.recipe import Spec
  from dlcourse.models.mobilenet_v2 import MOBILENET_V2
  from dlcourse.models.resnet import RESNET
  from dlcourse.optim import Sgd
  from dlcourse.parallel import compile_task, make_mesh
  from dlcourse.tasks.supervised import Classify

  images, labels = peers.batch(name)
  batch = {"image": images, "label": labels, "mask": np.ones(len(labels), np.float32)}
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
  model, classes = (RESNET[18].clone(stem="small"), 10) if name == "resnet18" else (MOBILENET_V2, 1000)
  task = Classify(model, Sgd(learning_rate=0.01, momentum=0.9)).build(Spec(shapes, ("",) * classes), 1_000_000)
  program = compile_task(task, shapes, make_mesh(), "jit")
  state = program.init(jax.random.key(0))

  def step() -> None:
    nonlocal state
    state, metrics = program.train_step(state, batch)
    jax.block_until_ready((state, metrics))

  return step


def _layer(name: str) -> peers.Step:
  """A recurrent layer as the models of this project use it, which no experiment trains alone."""
  import jax
  import optax

  from dlcourse.models.recurrent import RecurrentStack
  from dlcourse.models.sequence import SequenceTagger

  network = SequenceTagger(RecurrentStack(name, peers.HIDDEN), num_classes=64)
  optimizer = optax.adam(1e-3)
  inputs, targets = jax.device_put(peers.batch(name))
  params = jax.jit(network.init)(jax.random.key(0), inputs)
  state = params, optimizer.init(params)

  def update(state):
    params, moments = state
    grads = jax.grad(lambda p: ((network.apply(p, inputs)[0] - targets) ** 2).mean())(params)
    updates, moments = optimizer.update(grads, moments, params)
    return optax.apply_updates(params, updates), moments

  compiled = jax.jit(update, donate_argnums=0)

  def step() -> None:
    nonlocal state
    state = jax.block_until_ready(compiled(state))

  return step


def main() -> None:
  """Runs the benchmark, prints it as Markdown and writes `--out`."""
  arguments = _arguments()
  if arguments.worker:
    serve(*arguments.worker.split("/"), arguments.core)
    return
  results: dict[str, Any] = {"versions": _versions(), "clock": arguments.clock}
  if arguments.slices:
    peak = _peak(arguments)
    results["sgemm_gflops"] = peak
    print(f"sgemm on the one core: {_spread(peak)} GFLOP/s. Clock: {arguments.clock}.\n")
    print(_HEADER, flush=True)
    results["slices"] = {}
  for name in arguments.slices:
    rounds = compete(name, arguments)
    results["slices"][name] = rounds
    print(_rows(name, rounds, statistics.median(peak)), flush=True)
  if arguments.startup_rounds:
    results["startup"] = startup(arguments)
    print(_startup_table(results["startup"]))
  if arguments.out:
    with open(arguments.out, "w", encoding="utf-8") as file:
      json.dump(results, file, indent=2)


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--slices", default=",".join(peers.SLICES), help="comma-separated, or empty")
  parser.add_argument("--rounds", type=int, default=7, help="measurements of each contestant")
  parser.add_argument("--seconds", type=float, default=1.0, help="length of a measurement")
  parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
  parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
  parser.add_argument("--startup_rounds", type=int, default=3, help="0 leaves the start-up out")
  parser.add_argument(
    "--startup_command",
    default="-m dlcourse train --experiment=cnn.lenet5 --steps=1",
    help="arguments of Python whose first training step is timed",
  )
  parser.add_argument(
    "--startup_line",
    default=r"^step 1\b",
    help="pattern of the first line printed after that step",
  )
  parser.add_argument("--out", help="JSON file for every single measurement")
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  arguments.slices = [name for name in arguments.slices.split(",") if name]
  if unknown := set(arguments.slices) - set(peers.SLICES):
    parser.error(f"no slice {', '.join(sorted(unknown))}; there are: {', '.join(peers.SLICES)}")
  return arguments


# The process of one contestant.


def serve(contestant: str, name: str, core: int) -> None:
  """Builds a step, then measures it once for each line "seconds" on standard input.

  Answers in lines of JSON: {} when ready, then {steps, wall, cpu, mib}: steps done, seconds, and
  the largest resident memory of the process so far in MiB.
  """
  os.sched_setaffinity(0, {core})  # before the frameworks count the cores
  framework, _, malloc = contestant.partition("+")
  if malloc or framework == "ours":
    platform.tune_malloc()
  step = _step(framework, name)
  for _ in range(3):
    step()
  print("{}", flush=True)
  for line in sys.stdin:
    print(json.dumps(_measure(step, float(line))), flush=True)


def _step(framework: str, name: str) -> peers.Step:
  if framework == "ours":
    return ours(name)
  if framework == "sgemm":
    return _sgemm_step()
  if framework.startswith("torch"):
    import torch

    torch.set_num_threads(1)
  return peers.step(framework, name)


def _sgemm_step() -> peers.Step:
  import jax

  matrix = jax.random.normal(jax.random.key(0), (_SGEMM, _SGEMM))
  product = jax.jit(lambda a: a @ a)
  return lambda: product(matrix).block_until_ready()


def _measure(step: peers.Step, seconds: float) -> dict[str, float]:
  steps, wall, cpu = 0, time.perf_counter(), time.process_time()
  while steps < 3 or time.perf_counter() - wall < seconds:
    step()
    steps += 1
  return {
    "steps": steps,
    "wall": time.perf_counter() - wall,
    "cpu": time.process_time() - cpu,
    "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  }


class _Worker:
  """A running `serve`; leaving the context ends it."""

  def __init__(self, contestant: str, name: str, core: int):
    command = [sys.executable, __file__, f"--worker={contestant}/{name}", f"--core={core}"]
    self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

  def __enter__(self) -> "_Worker":
    self._answer()
    return self

  def __exit__(self, *unused: object) -> None:
    self._process.stdin.close()
    self._process.wait()

  def measure(self, seconds: float) -> dict[str, float]:
    self._process.stdin.write(f"{seconds}\n")
    self._process.stdin.flush()
    return self._answer()

  def _answer(self) -> dict[str, float]:
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"{' '.join(self._process.args[2:])} ended: see its message above")
    return json.loads(line)


# Steps per second.

_HEADER = (
  "| slice | contestant | steps/s | ratio to torch | share of sgemm | MiB | CPU share |\n"
  "| --- | --- | --- | --- | --- | --- | --- |"
)


def compete(name: str, arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
  """Measures all contestants of a slice in turn, `--rounds` times.

  Returns:
    Per contestant the measurements of `serve` with `rate`, steps per second, added.
  """
  with contextlib.ExitStack() as stack:
    workers = {
      contestant: stack.enter_context(_Worker(contestant, name, arguments.core))
      for contestant in OTHERS.get(name, CONTESTANTS)
    }
    return _rounds(workers, arguments)


def _rounds(workers: dict[str, _Worker], arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
  measurements = {contestant: [] for contestant in workers}
  for number in range(arguments.rounds):
    order = list(workers) if number % 2 else list(reversed(workers))
    for contestant in order:
      taken = workers[contestant].measure(arguments.seconds)
      measurements[contestant].append(taken | {"rate": taken["steps"] / taken[arguments.clock]})
  return measurements


def _peak(arguments: argparse.Namespace) -> list[float]:
  """GFLOP/s of a single-precision matrix product, one value per round."""
  with _Worker("sgemm", "", arguments.core) as worker:
    taken = _rounds({"sgemm": worker}, arguments)["sgemm"]
  return [each["rate"] * 2 * _SGEMM**3 / 1e9 for each in taken]


def _rows(name: str, rounds: dict[str, list[dict[str, float]]], peak: float) -> str:
  """The Markdown rows of a slice; `peak` in GFLOP/s."""
  reference = [taken["rate"] for taken in rounds["torch"]]
  rows = []
  for contestant, taken in rounds.items():
    rates = [each["rate"] for each in taken]
    ratios = [a / b for a, b in zip(rates, reference, strict=True)]
    share = statistics.median(rates) * peers.flops(name) / 1e9 / peak
    memory = max(each["mib"] for each in taken)
    busy = min(each["cpu"] / each["wall"] for each in taken)
    rows.append(
      f"| {name} | {contestant} | {_spread(rates)} | {_spread(ratios)} | {share:.0%} |"
      f" {memory:.0f} | {busy:.0%} |"
    )
  return "\n".join(rows)


def _spread(values: list[float]) -> str:
  digits = 2 if statistics.median(values) < 10 else 1
  low, middle, high = min(values), statistics.median(values), max(values)
  return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


# Start-up.


def startup(arguments: argparse.Namespace) -> dict[str, list[float]]:
  """Seconds from the start of a process to the end of its first training step.

  Not pinned: compilation uses every core. Each run gets a new working folder, so nothing is resumed;
  the cache of compiled programs is empty for "cold" and left by the run before for "warm".

  Returns:
    Seconds per round under "cold" and "warm".

  Raises:
    RuntimeError: the command failed, or never printed `--startup_line`.
  """
  seconds = {"cold": [], "warm": []}
  for _ in range(arguments.startup_rounds):
    with tempfile.TemporaryDirectory() as cache:
      for taken in seconds.values():
        taken.append(_first_step(arguments, cache))
  return seconds


def _first_step(arguments: argparse.Namespace, cache: str) -> float:
  environment = os.environ | {"DLCOURSE_CACHE": cache, "PYTHONUNBUFFERED": "1"}
  output, seen = [], None
  start = time.perf_counter()
  with (
    tempfile.TemporaryDirectory() as folder,
    subprocess.Popen(
      [sys.executable, *arguments.startup_command.split()],
      cwd=folder,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    ) as process,
  ):
    for line in process.stdout:
      output.append(line)
      if seen is None and re.search(arguments.startup_line, line):
        seen = time.perf_counter() - start
    process.wait()  # before its folder goes
  if process.returncode or seen is None:
    raise RuntimeError(f"no line {arguments.startup_line!r} in:\n{''.join(output[-20:])}")
  return seen


def _startup_table(seconds: dict[str, list[float]]) -> str:
  rows = "\n".join(f"| {state} | {_spread(taken)} |" for state, taken in seconds.items())
  return f"\n| start-up, compile cache | seconds to the end of the first step |\n| --- | --- |\n{rows}"


def _versions() -> dict[str, str]:
  packages = ("jax", "jaxlib", "flax", "optax", "torch", "keras", "numpy")
  return {package: importlib.metadata.version(package) for package in packages}


if __name__ == "__main__":
  main()
