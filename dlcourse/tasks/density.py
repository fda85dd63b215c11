"""Learning a likelihood that can be computed: flows and autoregressive models of images (H4.2.2).

A model for this task is a Linen module with `__call__(x, train) -> nats [B]`, of images [B, H, W, C] in [0, 1]
whose pixels have 256 levels, and `draw(key, temperature [N]) -> images`. A flow has `encode(x) -> z` and
`decode(z)` too.
"""

import dataclasses

import flax.linen as nn
import numpy as np

from dlcourse import metrics
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.optim import Optimizer
from dlcourse.task import Latents, Task, TaskRecipe, complete
from dlcourse.tasks.supervised import supervised


@dataclasses.dataclass(frozen=True)
class Density(TaskRecipe):
  """Maximum likelihood; `predict` gives the nats of each image, `generate` images."""

  model: nn.Module
  """The network, see `dlcourse.tasks.density`."""
  optimizer: Optimizer
  """How it is trained."""

  def build(self, spec: Spec, steps: int) -> Task:
    """-log p of all pixels of an image in nats, and in bits of each of them.

    Raises:
      UserError: the data has no images, or their pixels are not in [0, 1].
    """
    if not spec.image_shape:
      raise UserError("a density of images needs images, and this data has none")
    spec.check_unit("a density's")
    model = complete(self.model, spec)
    bits = 1 / (np.log(2) * np.prod(spec.image_shape))

    def call(module, carry, batch, train):
      return carry, module(batch["image"], train)

    def objective(nats, batch):
      loss = metrics.mean(nats, batch["mask"])
      return loss.total, loss.weight, {"loss": loss, "bits_per_dim": metrics.mean(bits * nats, batch["mask"])}

    def apply(state, *args, method):
      return model.apply(task.network.variables(state), *args, method=method)

    def generate(state, key, request):
      return {"image": apply(state, key, request["temperature"], method="draw")}

    task = supervised(
      model, call, objective, lambda nats: {"nats": nats}, self.optimizer.build(steps), spec.prepare
    )
    latents = Latents(
      int(np.prod(spec.image_shape)),
      lambda state, z: apply(state, z, method="decode"),
      encode=lambda state, batch: apply(state, spec.prepare(None, batch)["image"], method="encode"),
    )
    return task._replace(generate=generate, latents=latents if hasattr(model, "decode") else None)
