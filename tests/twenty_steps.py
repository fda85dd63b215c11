"""Twenty training steps of a tiny experiment on some devices: what the tests of parallelism compare.

Run as a program it is one process of several: COORDINATOR PROCESSES PROCESS_ID CORPUS FOLDER.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from dlcourse import metrics, parallel
from dlcourse.distributed import start_distributed
from dlcourse.experiment import load

IMAGES = ("--data.source=digits", "--data.batch_size=16")
DETERMINISTIC = {  # steps that draw no random numbers, which `pmap` would draw otherwise than `jit`
  "cnn.lenet5": IMAGES,
  "cnn.mlp": (*IMAGES, "--data.size=8", "--task.model.dropout=0.0", "--task.model.hidden_dims", "32", "16"),
  "recurrent.char_lstm": (
    "--data.batch_size=16",
    "--data.seq_len=8",
    "--task.model.body.hidden_dim=16",
    "--task.model.embed_dim=8",
  ),
}
RANDOM = {
  "cnn.mlp": (*IMAGES, "--data.size=8", "--task.model.hidden_dims", "32", "16"),
  "gan.dcgan": (*IMAGES, "--data.size=8", "--task.generator.width=8", "--task.discriminator.width=8"),
  "vae.mlp": (*IMAGES, "--data.size=8", "--task.model.hidden_dim=16"),
}
CASES = [
  *((name, mode) for name in DETERMINISTIC | RANDOM for mode in ("jit", "fsdp")),
  *((name, "pmap") for name in DETERMINISTIC),
]


def overrides_of(name: str, mode: str, corpus: pathlib.Path) -> list[str]:
  """What makes an experiment tiny, and deterministic where the mode asks for it."""
  overrides = RANDOM[name] if mode != "pmap" and name in RANDOM else DETERMINISTIC[name]
  source = [f"--data.source=file:{corpus}"] if name == "recurrent.char_lstm" else []
  return [*overrides, *source, "--steps=20"]


def twenty_steps(name, overrides, mode, devices=None, per_dispatch=1):
  """Final state (on the host) and summed metrics, in float64 where that is switched on."""
  experiment = load(name, overrides)
  data = experiment.data.build()
  task = experiment.task.build(data.spec, experiment.steps)
  program = parallel.compile_task(task, data.spec.batch, parallel.make_mesh(devices), mode)
  state = program.init(jax.random.key(0))
  if jax.config.jax_enable_x64:
    state = jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)
  parts = []
  for start in range(0, 20, per_dispatch):
    batches = [data.batch(0, start + i) for i in range(per_dispatch)]
    if per_dispatch == 1:
      state, measured = program.train_step(state, batches[0])
    else:
      state, measured = program.train_steps(state, batches)
    parts.append(measured)
  return multihost_utils.process_allgather(state, tiled=True), metrics.accumulate(parts)


def save(path: pathlib.Path, state, measured) -> None:
  """Writes every array under its path in the tree."""
  leaves = jax.tree_util.tree_leaves_with_path((state, measured))
  np.savez(path, **{jax.tree_util.keystr(where): leaf for where, leaf in leaves})


def main() -> None:
  """Runs every case in this process, together with the others; the first writes FOLDER/NAME-MODE.npz."""
  coordinator, processes, process_id, corpus, folder = sys.argv[1:]
  jax.config.update("jax_enable_x64", True)
  start_distributed(coordinator, int(processes), int(process_id))
  for name, mode in CASES:
    result = twenty_steps(name, overrides_of(name, mode, pathlib.Path(corpus)), mode)
    if jax.process_index() == 0:
      save(pathlib.Path(folder) / f"{name}-{mode}.npz", *result)


if __name__ == "__main__":
  main()
