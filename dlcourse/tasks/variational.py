"""Learning a latent-variable model by its evidence lower bound (Kingma & Welling, 2014; H5.2)."""

import dataclasses

import flax.linen as nn

from dlcourse.data.augment import Augmentation
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError, check_at_least, check_between
from dlcourse.losses import LIKELIHOODS, LikelihoodName
from dlcourse.optim import Optimizer
from dlcourse.task import Codes, Latents, Network, Task, TaskRecipe, complete
from dlcourse.tasks.bound import Bound
from dlcourse.tasks.pixels import Binarise


@dataclasses.dataclass(frozen=True)
class Autoencode(TaskRecipe):
  """An autoencoder, variational where its model has latents; losses and regularisers are fields.

  `dlcourse.models.vae` says what a model offers. `predict` gives reconstructions from the posterior means,
  `generate` images from the prior. Of a model that is told a source (Sohn et al., 2015; H5.4.4) `predict` gives
  what the source alone lets it expect, and a draw.
  """

  model: nn.Module
  """The network: encoder and decoder."""
  optimizer: Optimizer
  """How it is trained."""
  likelihood: LikelihoodName = "bernoulli"
  """Of the pixels: bernoulli; gaussian, with one scale that is learnt; logistic, of 256 levels, likewise
  (Salimans et al., 2017); squared: the squared error of a deterministic autoencoder."""
  binarise: Binarise = "none"
  """Make pixels 0 or 1: threshold: by 0.5; sample: at random at each step, grey being the probability of white
  (Salakhutdinov & Murray, 2008), and for evaluation once."""
  beta: float = 1.0
  """Weight of the KL term; 1 is the ELBO, more is the β-VAE of Higgins et al. (2017; H5.3.3)."""
  warm_up: float = 0.0
  """Share of the steps over which that weight rises from 0 (Bowman et al., 2016; Sønderby et al., 2016)."""
  free_bits: float = 0.0
  """Nats of each dimension, or map, that are not penalised (Kingma et al., 2016, arXiv:1606.04934, eq. 15)."""
  importance_samples: int = 1
  """Draws K of the importance-weighted bound (Burda et al., 2016, arXiv:1509.00519); 1 is the ELBO."""
  corrupt: tuple[Augmentation, ...] = ()
  """Damage of what the encoder is shown, and not of what it is to reconstruct (Vincent et al., 2010)."""
  sparsity: float = 0.0
  """Weight of the sum of the code's absolute values, of a deterministic autoencoder."""

  def __post_init__(self) -> None:
    """Refuses numbers out of range, and what does not go together."""
    names = ("beta", "free_bits", "sparsity")
    check_at_least(0, {f"task.{name}": getattr(self, name) for name in names})
    check_between(0, 1, {"task.warm_up": self.warm_up})
    check_at_least(1, {"task.importance_samples": self.importance_samples})
    if self.importance_samples > 1 and (self.beta != 1 or self.warm_up or self.free_bits):
      raise UserError(
        f"--task.importance_samples={self.importance_samples} bounds log p(x) without a KL term; leave out "
        "beta, warm_up and free_bits"
      )
    if self.binarise != "none" and self.likelihood != "bernoulli":
      raise UserError(f"--task.binarise={self.binarise} makes pixels 0 or 1, for --task.likelihood=bernoulli")

  def build(self, spec: Spec, steps: int) -> Task:
    """The ELBO in nats; see `Bound`."""
    model = complete(self.model, spec)
    if spec.image_shape:
      spec.check_unit("an autoencoder's")
    elif "point" not in spec.batch:
      raise UserError("an autoencoder needs images, or points such as those of Vectors, and this data has none")
    elif self.likelihood not in ("gaussian", "squared"):
      raise UserError(f"--task.likelihood={self.likelihood} is of pixels; points can have gaussian or squared")
    else:
      model = model.clone(image_shape=tuple(spec.batch["point"].shape[1:]))
    bound = Bound(model, self.optimizer.build(steps), self, spec, steps)
    if bound.told == "source" and "source" not in spec.batch:
      raise UserError("this model is told a source for each image; use data that has it, like ImagePairs")
    shapes = bound.shapes()
    self._check(bool(shapes.latents))
    latents = Latents(
      shapes.code.shape[1],
      bound.images,
      encode=bound.encode,
      log_weight=bound.log_weight if shapes.latents else None,
      rates=bound.rates if shapes.latents else None,
      coding=bound.coding(shapes.latents),
    )
    symbols = hasattr(model, "codes")
    return Task(
      bound.init,
      bound.train_step,
      bound.eval_step,
      bound.predict,
      bound.generate if shapes.latents else None,
      # What a prior of the symbols begins with.
      Network(model, bound.variables, bound.with_variables) if symbols else None,
      conditional=bound.told == "label",
      latents=latents,
      codes=Codes(model.num_codes, bound.codes, bound.images_of_codes) if symbols else None,
    )

  def _check(self, variational: bool) -> None:
    """Refuses what goes with latents where the model has none, and the other way around."""
    if variational and not LIKELIHOODS[self.likelihood].proper:
      raise UserError(
        f"--task.likelihood={self.likelihood} is no likelihood, which a model with latents needs; gaussian is"
      )
    if variational and self.sparsity:
      raise UserError("--task.sparsity is of a deterministic code; set --task.model.posterior=rectified")
    weighs = self.beta != 1 or self.warm_up or self.free_bits or self.importance_samples > 1
    if not variational and weighs:
      raise UserError("beta, warm_up, free_bits and importance_samples go with a model that has latents")
