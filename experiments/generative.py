"""Chapters 4 and 5: families of generative models on the same digits, by the same measures (H4.2.2, H5.4)."""

import dataclasses

from dlcourse.experiments import gan

from dlcourse.data.images import Images
from dlcourse.evaluators import Evaluator
from dlcourse.evaluators.comparison import EncodingError, SamplingTime, Sharpness
from dlcourse.evaluators.image_quality import ImageQuality
from dlcourse.evaluators.latents import Interpolations
from dlcourse.evaluators.samples import SampleGrid
from dlcourse.experiment import Best, Experiment, Run, Study
from dlcourse.models.conv_vae import ConvVAE
from dlcourse.models.flow import Flow
from dlcourse.models.pixel_cnn import PixelCNN
from dlcourse.optim import Adam
from dlcourse.study import mean_by_label
from dlcourse.task import TaskRecipe
from dlcourse.tasks.density import Density
from dlcourse.tasks.variational import Autoencode

_OF_SAMPLES = (SampleGrid(), ImageQuality(), Sharpness(), SamplingTime())
_OF_LATENTS = (EncodingError(), Interpolations())
_SMALL_SAMPLES = (
  *("--data.folds=50", "--data.per_class=10", "--data.batch_size=8", "--steps=2"),
  *("--evaluators.0.samples=4", "--evaluators.1.samples=10", "--evaluators.2.samples=4"),
  "--evaluators.3.samples=4",
)
_SMALL_LATENTS = (
  *("--evaluators.4.images=4", "--evaluators.4.steps=2", "--evaluators.5.pairs=2", "--evaluators.5.steps=3"),
)


def _likelihood(
  task: TaskRecipe, steps: int, small: tuple[str, ...], evaluators: tuple[Evaluator, ...] = _OF_SAMPLES
) -> Experiment:
  return Experiment(
    data=Images("mnist_5k", batch_size=64, size=32),
    task=task,
    evaluators=evaluators,
    best=Best("loss", patience=10),
    steps=steps,
    eval_every=250,
    small=(*_SMALL_SAMPLES, *small),
  )


def adversarial() -> Experiment:
  """`gan.dcgan` for as long as the others."""
  dcgan = gan.dcgan()
  return dataclasses.replace(
    dcgan,
    monitors=(ImageQuality(samples=400),),
    evaluators=(*_OF_SAMPLES, *_OF_LATENTS),
    steps=2_000,
    small=(
      *(*_SMALL_SAMPLES, *_SMALL_LATENTS, "--data.validation=0.3", "--monitors.0.samples=10"),
      *("--best.metric=None", "--task.generator.width=4", "--task.discriminator.width=4"),
    ),
  )


def variational() -> Experiment:
  """A VAE whose decoder is DCGAN's generator without batch norm, and whose encoder mirrors it."""
  return _likelihood(
    Autoencode(ConvVAE(latent_dim=64), Adam(learning_rate=1e-3), likelihood="logistic"),
    steps=3_000,
    small=(*_SMALL_LATENTS, "--task.model.width=2"),
    evaluators=(*_OF_SAMPLES, *_OF_LATENTS),
  )


def flow() -> Experiment:
  """A flow of affine couplings (Dinh et al., 2017, arXiv:1605.08803; H4.2.2): the likelihood is exact."""
  return _likelihood(
    Density(Flow(), Adam(learning_rate=1e-3)),
    steps=600,
    small=(*_SMALL_LATENTS, "--task.model.width=2", "--task.model.depth=1"),
    evaluators=(*_OF_SAMPLES, *_OF_LATENTS),
  )


def pixel_cnn() -> Experiment:
  """PixelCNN (van den Oord et al., 2016, arXiv:1606.05328; H4.2.2): exact too, and drawn pixel by pixel."""
  return _likelihood(
    Density(PixelCNN(width=16), Adam(learning_rate=2e-3)),
    steps=500,
    small=("--task.model.width=2", "--task.model.depth=1"),
  )


def families() -> Study:
  """What the handbook's last table says of VAE and GAN, measured, with a flow and an autoregressive model.

  Result: FID of the GAN 92 ± 12 and of the VAE 395 ± 20 (95 % intervals, five seeds), of PixelCNN 705 and of
  the flow 913 (one seed); samples of the GAN are 1.13 times as sharp as digits, of the VAE 0.40 times; bits a
  pixel PixelCNN 1.051, VAE 1.234 at most, flow 2.31; others in experiments/results/generative.families.md; 68
  min on one core of a busy 2-core AMD EPYC; `dlcourse study generative.families`.
  """
  seeds = {"adversarial": 5, "variational": 5, "flow": 1, "pixel_cnn": 1}
  scores = (f"{score}/digits@1000" for score in ("fid", "precision", "recall"))
  measures = ("sharpness", "encoding_error", "interpolation_jump_linear", "bits_per_dim", "seconds_per_100")
  return Study(
    runs=tuple(
      Run(name, f"generative.{name}", seed=seed) for name, count in seeds.items() for seed in range(count)
    ),
    summarise=mean_by_label(*scores, *measures),
  )
