"""Microseconds and memory of streaming: one step after another through an LSTM and a GRU (H3.12.5).

python launch/streaming.py --steps=1000000
"""

import argparse
import os
import resource
import time

from dlcourse import platform

platform.tune_malloc()  # before JAX starts its threads

import jax  # noqa: E402
import numpy as np  # noqa: E402

from dlcourse.data.recipe import Spec  # noqa: E402
from dlcourse.models.recurrent import RecurrentStack  # noqa: E402
from dlcourse.models.sequence import SequenceTagger  # noqa: E402
from dlcourse.optim import Sgd  # noqa: E402
from dlcourse.parallel import compile_task, make_mesh  # noqa: E402
from dlcourse.tasks.sequences import Tag  # noqa: E402

CHANNELS, CLASSES = 6, 5


def main() -> None:
  """One line for each cell and size of chunk."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=1_000_000, help="steps of a stream")
  parser.add_argument("--hidden_dim", type=int, default=128, help="width of the layer")
  args = parser.parse_args()
  for cell in ("lstm", "gru"):
    for chunk in (1, 64):
      stream(cell, args.hidden_dim, chunk, args.steps)


def stream(cell: str, hidden_dim: int, chunk: int, steps: int) -> None:
  """Streams and prints; memory is compared between a tenth of the way and the end."""
  shape = {"inputs": (1, chunk, CHANNELS), "tags": (1, chunk), "mask": (1, chunk), "lengths": (1,)}
  batch = {name: jax.ShapeDtypeStruct(x, np.float32) for name, x in shape.items()}
  batch |= {name: jax.ShapeDtypeStruct(shape[name], np.int32) for name in ("tags", "lengths")}
  spec = Spec(batch, tuple(map(str, range(CLASSES))))
  task = Tag(SequenceTagger(RecurrentStack(cell, hidden_dim=hidden_dim)), Sgd()).build(spec, 1)
  program = compile_task(task, batch, make_mesh(1), "jit")
  state, carry = program.init(jax.random.key(0)), None
  samples = np.random.default_rng(0).normal(size=shape["inputs"]).astype(np.float32)
  for _ in range(3):
    carry, _ = program.stream(state, carry, samples)
  calls, started, early = steps // chunk, time.perf_counter(), 0
  for call in range(calls):
    carry, out = program.stream(state, carry, samples)
    np.asarray(out)  # an answer is read before the next sample comes
    if call == calls // 10:
      early = _resident()
  seconds = time.perf_counter() - started
  growth = (_resident() - early) / 2**20
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
  print(
    f"{cell} {hidden_dim}, chunks of {chunk}: {1e6 * seconds / (calls * chunk):.1f} µs a step, "
    f"{calls * chunk:,} steps; memory grew by {growth:.1f} MiB after the first tenth, peak {peak:.0f} MiB"
  )


def _resident() -> int:
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
  main()
