"""Learning how likely the codes of a VQ-VAE are, so that it can be sampled (van den Oord et al., 2017; H5.3.3).

While a VQ-VAE learns, all its codes are equally likely. Afterwards a language model learns what they are like:
a grid that it draws becomes an image, and -log₂ p(codes) are the bits that a coder needs for one (H5.4.1).

Shapes: B batch, N samples, T places of a grid, K codes.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from dlcourse import metrics
from dlcourse.data.recipe import Batch, Spec
from dlcourse.errors import UserError
from dlcourse.losses import LIKELIHOODS, LikelihoodName
from dlcourse.models.code_prior import CodeLanguageModel
from dlcourse.models.sequence import LanguageModel
from dlcourse.models.vq_vae import VQVAE
from dlcourse.optim import Optimizer
from dlcourse.task import Codes, Network, Task, TaskRecipe, TrainState, complete
from dlcourse.tasks.decoding import follow, sampled
from dlcourse.tasks.pixels import binarised
from dlcourse.tasks.supervised import cross_entropy, supervised
from dlcourse.tasks.transfer import PartlyFrozen


@dataclasses.dataclass(frozen=True)
class CodePrior(TaskRecipe):
  """A language model of the codes of a VQ-VAE, which `--init_from` fills with a trained one and which stays so.

  `predict` gives reconstructions through the codes, `generate` images of drawn codes, at a "temperature" [N].
  """

  model: VQVAE
  """The VQ-VAE, as it was trained."""
  prior: LanguageModel
  """The language model."""
  optimizer: Optimizer
  """How it is trained."""
  conditional: bool = False
  """Tell it the class of the image."""
  likelihood: LikelihoodName = "bernoulli"
  """Of the pixels, as the VQ-VAE was trained."""
  binarise: Literal["none", "threshold"] = "none"
  """Make pixels 0 or 1 by 0.5, as the VQ-VAE was trained."""

  def build(self, spec: Spec, steps: int) -> Task:
    """Cross-entropy per code, in nats, and the bits of all codes per pixel.

    Raises:
      UserError: the data has no images, or their pixels are not in [0, 1], or no classes to tell.
    """
    if not spec.image_shape:
      raise UserError("a prior of the codes of images needs images, and this data has none")
    spec.check_unit("a VQ-VAE's")
    if self.conditional and not spec.num_classes:
      raise UserError("--task.conditional needs data with classes, and this data has none")
    backbone = complete(self.model, spec)
    classes = spec.num_classes if self.conditional else None
    prior = self.prior.clone(vocab_size=backbone.num_codes + 1, num_classes=classes)
    model = CodeLanguageModel(backbone, prior)
    partly = PartlyFrozen(model, _paths_of_backbone(model, spec, self.conditional))

    def prepare(key: jax.Array | None, batch: Batch) -> Batch:
      batch = spec.prepare(key, batch)
      return {**batch, "image": binarised(batch["image"], self.binarise, key)}

    def call(module, carry, batch, train):
      return carry, module(batch["image"], batch["label"] if self.conditional else None, train)

    def objective(outputs, batch):
      logits, codes = outputs
      mask = jnp.broadcast_to(batch["mask"][:, None], codes.shape)
      total, weight, measured = cross_entropy(logits, codes, mask)
      pixels = batch["mask"].sum() * np.prod(spec.image_shape[:2])
      return total, weight, measured | {"bits_per_pixel": metrics.Mean(total / np.log(2), pixels)}

    def drawn(state: TrainState, codes: jax.Array) -> jax.Array:
      outputs = model.apply(network.variables(state), codes.reshape(len(codes), -1), method="images")
      return LIKELIHOODS[self.likelihood].pixels(outputs)

    def read(state: TrainState, batch: Batch) -> jax.Array:
      x = prepare(None, batch)["image"]
      return model.apply(network.variables(state), x, method=lambda module, x: module.backbone.codes(x))

    def predict(state, key, batch):
      del key
      return {"image": drawn(state, read(state, batch))}

    def generate(state, key, request):
      label = request["label"] if self.conditional else None
      codes = draw(model, network.variables(state), key, request["temperature"], label)
      return {"image": drawn(state, codes)}

    task = supervised(partly, call, objective, lambda outputs: outputs, self.optimizer.build(steps), prepare)
    network = Network(
      model,
      lambda state: partly.whole(task.network.variables(state)),
      lambda state, variables: task.network.with_variables(state, partly.split(variables)),
    )
    return task._replace(
      predict=predict,
      generate=generate,
      network=network,
      stream=None,
      conditional=self.conditional,
      codes=Codes(backbone.num_codes, read, drawn),
    )


def draw(
  model: CodeLanguageModel,
  variables: dict,
  key: jax.Array,
  temperature: jax.Array,
  label: jax.Array | None = None,
) -> jax.Array:
  """Ancestral sampling of grids, one code after another.

  Args:
    model: of which the prior can be continued.
    variables: of the model.
    key: of all draws.
    temperature: [N]; 1 is the model's distribution, 0 the likeliest code.
    label: [N], of a conditional prior.

  Returns:
    [N, T] int32.
  """
  places = model.backbone.side**2

  def step(state, token):
    carry, label = state
    carry, logits = model.apply(variables, carry, token[:, None], label, method="after")
    return (carry, label), logits[:, 0]

  first = jnp.full(len(temperature), model.backbone.num_codes, jnp.int32)
  state = model.output.initial_carry(len(temperature), places), label
  return follow(step, state, first, places, sampled(temperature), key, eos=None).tokens


def _paths_of_backbone(model: CodeLanguageModel, spec: Spec, conditional: bool) -> set[tuple[str, ...]]:
  """Of the parameters that are not trained."""

  def params(batch):
    batch = spec.prepare(None, batch)
    label = batch["label"] if conditional else None
    return model.init(jax.random.key(0), batch["image"], label)["params"]

  paths = flatten_dict(jax.eval_shape(params, dict(spec.batch)))
  return {path for path in paths if path[0] == "backbone"}
