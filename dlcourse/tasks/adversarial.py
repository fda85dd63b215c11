"""Two networks that learn against each other (Goodfellow et al., 2014; H4.4)."""

import dataclasses

import flax.linen as nn

from dlcourse.data.augment import Augmentation
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError, check_at_least, check_below_one, check_between
from dlcourse.losses import GAMES, GameName
from dlcourse.optim import Optimizer
from dlcourse.parallel import batch_size
from dlcourse.task import Latents, Task, TaskRecipe, complete
from dlcourse.tasks.game import Rules


@dataclasses.dataclass(frozen=True)
class Compete(TaskRecipe):
  """A generative adversarial network; every loss and stabiliser is a field (H4.6), and they combine.

  Networks: `generator(latents [B, Z], label [B], train)` gives images in [-1, 1], or points, and has a field
  `latent_dim`; `discriminator(images, label, train, mask [B])` gives [B] numbers, large for real, and sows its
  last features. Both may draw from the stream "noise", and keep collections that training updates. Where the
  data has a `source` [B, h, w, c] for each image the generator gets that in place of latents, and translates.
  """

  generator: nn.Module
  """Latents to images."""
  discriminator: nn.Module
  """Images to one number, which is large for real ones."""
  generator_optimizer: Optimizer
  """How the generator is trained."""
  discriminator_optimizer: Optimizer
  """How the discriminator is trained: a higher rate than the generator's is TTUR (Heusel et al., 2017)."""
  ema_decay: float = 0.999
  """Decay of the moving average of the generator's weights, which is what samples are drawn from."""
  real_label: float = 1.0
  """Label of real images for the discriminator; 0.9 smooths it (H4.6.2)."""
  loss: GameName = "non_saturating"
  """What the players minimise: non_saturating, minimax, least_squares, hinge, wasserstein."""
  critic_steps: int = 1
  """Updates of the discriminator for one of the generator; a batch is shared by them."""
  clip: float | None = None
  """Largest absolute weight of the discriminator (WGAN: Arjovsky et al., 2017)."""
  gradient_penalty: float = 0.0
  """Weight of (||slope|| - 1)² between real images and fakes, 10 in WGAN-GP (H4.6.5)."""
  r1: float = 0.0
  """Weight γ of ||slope||² / 2 at real images (Mescheder et al., 2018, arXiv:1801.04406)."""
  penalty_every: int = 1
  """Penalise at every so manieth step only, so many times as hard (Karras et al., 2020, appendix B)."""
  feature_matching: float = 0.0
  """Weight of the squared distance between mean features of real images and fakes, in place of the generator's
  own loss (Salimans et al., 2016, section 3.1; H4.6.1); 0: its own loss."""
  reconstruction: float = 0.0
  """Weight of mean |fake - image| in the loss of a generator that translates (Isola et al., 2017)."""
  adversary: float = 1.0
  """Weight of the generator's own loss beside the reconstruction; 0 learns from the reconstruction alone."""
  see_source: bool = False
  """Show the discriminator the source beside the image, so that it also judges whether they belong together."""
  augment: tuple[Augmentation, ...] = ()
  """Random changes of all that the discriminator sees, real or fake (Zhao et al., 2020, arXiv:2006.10738)."""

  def __post_init__(self) -> None:
    """Refuses numbers out of range, and stabilisers that do not go together."""
    check_between(0, 1, {"task.real_label": self.real_label})
    check_below_one({"task.ema_decay": self.ema_decay})
    check_at_least(1, {"task.critic_steps": self.critic_steps, "task.penalty_every": self.penalty_every})
    weights = ("gradient_penalty", "r1", "feature_matching", "reconstruction", "adversary")
    check_at_least(0, {f"task.{name}": getattr(self, name) for name in weights})
    if self.clip is not None and self.clip <= 0:
      raise UserError(f"--task.clip={self.clip} leaves no weight; the paper's is 0.01")
    if self.real_label != 1 and not GAMES[self.loss].labelled:
      raise UserError(
        f"--task.real_label={self.real_label} smooths a label, and --task.loss={self.loss} has none"
      )
    norm = getattr(self.discriminator, "norm", None)
    for name in ("gradient_penalty", "r1"):
      if getattr(self, name) and norm == "batch":
        raise UserError(
          f"--task.{name} is about the slope at one image, and batch norm mixes the images of a batch; set "
          "--task.discriminator.norm=layer, none or spectral"
        )
    condition = getattr(self.discriminator, "condition", None)
    if condition and getattr(self.generator, "conditional", False) != (condition != "none"):
      raise UserError(
        "the class is told to both players or to none: --task.generator.conditional and "
        "--task.discriminator.condition go together"
      )
    if self.loss == "wasserstein" and not (self.clip or self.gradient_penalty or self.r1 or norm == "spectral"):
      raise UserError(
        "--task.loss=wasserstein needs a critic whose slope is bounded: set --task.gradient_penalty=10, "
        "--task.clip=0.01 or --task.discriminator.norm=spectral"
      )

  def build(self, spec: Spec, steps: int) -> Task:
    """The game on data of this kind; see `Rules`."""
    if spec.image_shape and not spec.reaches_from(-1.0):
      raise UserError("the generator makes pixels in [-1, 1]; set --data.scale=symmetric")
    if spec.batch and (size := batch_size(spec.batch)) % self.critic_steps:
      near = max(round(size / self.critic_steps), 1) * self.critic_steps
      raise UserError(
        f"a batch of {size} cannot be shared by --task.critic_steps={self.critic_steps}; "
        f"--data.batch_size={near} can"
      )
    if "source" not in spec.batch and (self.reconstruction or self.see_source or not self.adversary):
      raise UserError(
        "--task.reconstruction, adversary and see_source are for data that has a source for each image"
      )
    if (self.reconstruction or self.see_source) and not spec.paired:
      raise UserError(
        "--task.reconstruction and see_source compare an image with its own source, and --data.unpaired parts "
        "them; gan.unpaired learns from such data"
      )
    rules = Rules(
      complete(self.generator, spec),
      complete(self.discriminator, spec),
      self.generator_optimizer.build(steps),
      self.discriminator_optimizer.build(steps),
      self,
      spec,
    )
    translates, conditional = "source" in spec.batch, getattr(rules.g, "conditional", False)
    searchable = bool(spec.image_shape) and not (translates or conditional)
    return Task(
      rules.init,
      rules.train_step,
      rules.eval_step,
      rules.predict,
      None if translates else rules.generate,
      conditional=conditional,
      latents=Latents(rules.g.latent_dim, rules.images, rules.features) if searchable else None,
    )
