"""Chapter 4: generative adversarial networks."""

import dataclasses

from dlcourse.data.augment import Shift
from dlcourse.data.generated import RealOrGenerated, WithGenerated
from dlcourse.data.image_pairs import ImagePairs, Kind
from dlcourse.data.images import Images
from dlcourse.data.points import Gaussians
from dlcourse.evaluators import Report
from dlcourse.evaluators.anomaly import Anomalies
from dlcourse.evaluators.classification import ConfusionMatrix, Roc
from dlcourse.evaluators.image_quality import ImageQuality
from dlcourse.evaluators.intervals import Intervals
from dlcourse.evaluators.membership import Membership
from dlcourse.evaluators.points import ModeCoverage
from dlcourse.evaluators.restoration import Restoration
from dlcourse.evaluators.samples import SampleGrid
from dlcourse.evaluators.watermark import Watermarked
from dlcourse.experiment import Best, Experiment, Run, Study
from dlcourse.models import mlp_gan, stylegan
from dlcourse.models.dcgan import Discriminator, Generator
from dlcourse.models.lenet import LeNet5Modern
from dlcourse.models.super_resolution import SRResNet
from dlcourse.models.unet import PatchDiscriminator, UNet
from dlcourse.optim import Adam, AdamW, RmsProp
from dlcourse.report.divergences import compare_divergences
from dlcourse.study import mean_by_label, rank_correlation, together
from dlcourse.tasks.adversarial import Compete
from dlcourse.tasks.cycle import Cycle
from dlcourse.tasks.supervised import Classify

_SMALLEST_SEEN = (
  *("--data.folds=50", "--data.per_class=10", "--data.validation=0.3", "--data.batch_size=8"),
  *("--steps=2", "--best.metric=None"),
  *("--evaluators.0.samples=4", "--monitors.0.samples=4", "--monitors.1.samples=10"),
)
_SMALLEST = (*_SMALLEST_SEEN, "--evaluators.1.samples=10", "--evaluators.3.samples=10")
_NARROW = ("--task.generator.width=4", "--task.discriminator.width=4")


def _on_digits(task: Compete, steps: int, small: tuple[str, ...] = _NARROW, batch_size: int = 64) -> Experiment:
  return Experiment(
    data=Images("mnist_5k", batch_size=batch_size, size=32, scale="symmetric"),
    task=task,
    evaluators=(SampleGrid(), ImageQuality(), Membership(), Watermarked()),
    monitors=(SampleGrid(), ImageQuality(samples=400)),
    best=Best("fid/digits@400", mode="min"),
    steps=steps,
    eval_every=500,
    small=(*_SMALLEST, *small),
  )


def dcgan() -> Experiment:
  """DCGAN (Radford et al., 2015; H4.7.1) on handwritten digits at 32 pixels.

  Result: FID 48.3 against 1,000 test digits (the shipped extractor), precision 0.658, recall 0.924 (1 seed);
  samples in experiments/results/dcgan_samples.png; 6.2 min on one core of a busy 2-core AMD EPYC;
  `dlcourse study gan.variants`.
  """
  return _on_digits(
    Compete(
      generator=Generator(latent_dim=64, width=32),
      discriminator=Discriminator(width=32),
      generator_optimizer=Adam(learning_rate=2e-4, b1=0.5),
      discriminator_optimizer=Adam(learning_rate=2e-4, b1=0.5),
      ema_decay=0.995,  # 0.999 still holds the noise of the first steps after 2,500
    ),
    steps=4_000,
  )


def anomalies() -> Experiment:
  """AnoGAN: the digit that a DCGAN never saw, by how far its images are from any other (H4.9.5).

  Schlegl et al. (2017), arXiv:1703.05921. --data.left_out names another digit.

  Result: AUROC 0.775 (0.694 to 0.845) of zeros against other digits, where the distance to the nearest training
  image has 0.986 (1 seed); 9.9 min on one core of a shared 2-core AMD EPYC; `dlcourse train gan.anomalies`.
  """
  seen = dcgan()
  return dataclasses.replace(
    seen,
    data=dataclasses.replace(seen.data, left_out="0"),
    evaluators=(SampleGrid(), Anomalies()),
    monitors=(SampleGrid(), ImageQuality(samples=300)),  # so many are left to validate on
    best=Best("fid/digits@300", mode="min"),
    small=(*_SMALLEST_SEEN, *_NARROW, "--evaluators.1.images=10", "--evaluators.1.steps=2"),
  )


def cgan() -> Experiment:
  """Conditional GAN (Mirza & Osindero, 2014, arXiv:1411.1784; H4.7.2): the digit that is asked for.

  Result: 98.0 % of samples are taken for the digit that was asked for, FID 5.15 against 1,000 test digits (the
  shipped extractor), precision 0.857, recall 0.846; the discriminator tells training from test images with an
  advantage of 0.475 (1 seed); 6.9 min on one core of a busy 2-core AMD EPYC; `dlcourse train gan.cgan`.
  """
  return _on_digits(
    Compete(
      generator=Generator(latent_dim=64, width=32, conditional=True),
      discriminator=Discriminator(width=32, condition="input"),
      generator_optimizer=Adam(learning_rate=2e-4, b1=0.5),
      discriminator_optimizer=Adam(learning_rate=2e-4, b1=0.5),
      ema_decay=0.995,
    ),
    steps=4_000,
  )


def wgan() -> Experiment:
  """WGAN with clipped weights (Arjovsky et al., 2017, arXiv:1701.07875, algorithm 1; H4.7.3) on digits.

  Result: FID 87.8, precision 0.546, recall 0.853 (1 seed), 25.0 min on one core of a shared 2-core AMD EPYC;
  `dlcourse study gan.variants`.
  """
  return _on_digits(
    Compete(
      generator=Generator(latent_dim=64, width=32),
      discriminator=Discriminator(width=32),
      generator_optimizer=RmsProp(learning_rate=2e-4),
      discriminator_optimizer=RmsProp(learning_rate=2e-4),
      ema_decay=0.995,
      loss="wasserstein",
      clip=0.01,
      critic_steps=5,
    ),
    steps=2_500,
    small=(*_NARROW, "--data.batch_size=40"),
    batch_size=320,
  )


def wgan_gp() -> Experiment:
  """WGAN with a gradient penalty (Gulrajani et al., 2017, arXiv:1704.00028, algorithm 1; H4.6.5) on digits.

  Result: FID 44.4, precision 0.699, recall 0.905 (1 seed), 17.3 min on one core of a shared 2-core AMD EPYC;
  `dlcourse study gan.variants`.
  """
  return _on_digits(
    Compete(
      generator=Generator(latent_dim=64, width=32),
      discriminator=Discriminator(width=32, norm="layer"),
      generator_optimizer=Adam(learning_rate=2e-4, b1=0.0, b2=0.9),
      discriminator_optimizer=Adam(learning_rate=2e-4, b1=0.0, b2=0.9),
      ema_decay=0.995,
      loss="wasserstein",
      gradient_penalty=10.0,
      critic_steps=5,
    ),
    steps=1_500,
    small=(*_NARROW, "--data.batch_size=40"),
    batch_size=320,
  )


def sngan() -> Experiment:
  """SNGAN: spectral norm and the hinge loss (Miyato et al., 2018, arXiv:1802.05957; H4.6.4) on digits.

  Result: FID 56.6, precision 0.570, recall 0.891 (1 seed), 8.3 min on one core of a shared 2-core AMD EPYC;
  `dlcourse study gan.variants`.
  """
  return _on_digits(
    Compete(
      generator=Generator(latent_dim=64, width=32),
      discriminator=Discriminator(width=32, norm="spectral"),
      generator_optimizer=Adam(learning_rate=2e-4, b1=0.5),
      discriminator_optimizer=Adam(learning_rate=4e-4, b1=0.5),
      ema_decay=0.995,
      loss="hinge",
    ),
    steps=4_000,
  )


def style_gan() -> Experiment:
  """A small StyleGAN2 (Karras et al., 2020, arXiv:1912.04958; H4.7.4) with R1 and shifted images, on digits.

  Result: FID 178, precision 0.677, recall 0.379 (1 seed), and still falling when it ends; 32.3 min on one core
  of a shared 2-core AMD EPYC; `dlcourse study gan.variants`.
  """
  generator, discriminator = stylegan.STYLEGAN["small"]
  return _on_digits(
    Compete(
      generator=generator.clone(),
      discriminator=discriminator.clone(),
      generator_optimizer=Adam(learning_rate=2e-3, b1=0.0, b2=0.99),
      discriminator_optimizer=Adam(learning_rate=2e-3, b1=0.0, b2=0.99),
      ema_decay=0.995,
      r1=1.0,
      penalty_every=8,
      augment=(Shift(2),),
    ),
    steps=4_000,
    small=("--task.generator.max_width=4", "--task.discriminator.max_width=4", "--task.generator.style_dim=4"),
  )


def _translation(
  task: Compete, kind: Kind, steps: int, small: tuple[str, ...], source: str = "mnist_5k"
) -> Experiment:
  return Experiment(
    data=ImagePairs(source, kind, batch_size=64),
    task=task,
    evaluators=(Restoration(),),
    best=Best("error", mode="min"),
    steps=steps,
    eval_every=250,
    small=("--data.folds=50", "--data.batch_size=8", "--steps=2", *small),
  )


def _pix2pix(kind: Kind, steps: int, source: str = "mnist_5k", small: tuple[str, ...] = ()) -> Experiment:
  return _translation(
    Compete(
      generator=UNet(width=16),
      discriminator=PatchDiscriminator(width=16, depth=2),
      generator_optimizer=Adam(learning_rate=1e-3, b1=0.5),
      discriminator_optimizer=Adam(learning_rate=2e-4, b1=0.5),
      ema_decay=0.99,
      reconstruction=100.0,
      see_source=True,
    ),
    kind,
    steps=steps,
    small=("--task.generator.width=2", "--task.discriminator.width=2", *small),
    source=source,
  )


_GREY = ("--data.source=mnist_5k", "--data.kind=edges")  # no colour photographs come by pip


def colour() -> Experiment:
  """Photographs in colour from their brightness (pix2pix: Isola et al., 2017, arXiv:1611.07004; H4.9.2).

  Result: on CIFAR-10 colours that look right but are often not the true ones: PSNR 23.5 dB, SSIM 0.920, where
  the grey image itself has 25.3 and 0.955 (1 seed); 9.7 min on one core of a shared 2-core AMD EPYC;
  `dlcourse train gan.colour --data.source=npz:FILE`.
  """
  return _pix2pix("grey", 3_000, "tfds:cifar10", _GREY)


def photographs() -> Experiment:
  """Photographs from their outlines (pix2pix: Isola et al., 2017, arXiv:1611.07004; H4.9.2).

  Result: PSNR 12.8 dB and SSIM 0.140 on CIFAR-10, 5.7 and 0.016 by the outlines themselves (1 seed); 19.8 min
  on a busy 2-core AMD EPYC; `dlcourse train gan.photographs --data.source=npz:FILE`.
  """
  return _pix2pix("edges", 3_000, "tfds:cifar10", _GREY)


def _cycle_gan(kind: Kind, source: str, identity: float, small: tuple[str, ...] = ()) -> Experiment:
  return Experiment(
    data=ImagePairs(source, kind, batch_size=32, unpaired=True),
    task=Cycle(
      generator=UNet(width=16, depth=3, dropout=0.0),
      discriminator=PatchDiscriminator(width=16, depth=2),
      generator_optimizer=Adam(learning_rate=1e-3, b1=0.5, schedule="linear"),
      discriminator_optimizer=Adam(learning_rate=2e-4, b1=0.5, schedule="linear"),
      ema_decay=0.99,
      identity=identity,
    ),
    evaluators=(Restoration(),),
    best=Best(None),  # a choice by the error on validation would have seen pairs
    steps=2_000,
    eval_every=250,
    small=(
      *("--data.folds=50", "--data.batch_size=8", "--steps=2"),
      *("--task.generator.width=2", "--task.discriminator.width=2", *small),
    ),
  )


def unpaired() -> Experiment:
  """Digits from outlines of others, by a CycleGAN (Zhu et al., 2017, arXiv:1703.10593; H4.9.2).

  Result: PSNR 18.9 dB and SSIM 0.851 (9.8 and 0.235 by the outline itself; 1 seed), 2.8 min on one core of a
  busy 2-core AMD EPYC; `dlcourse train gan.unpaired`.
  """
  return _cycle_gan("edges", "mnist_5k", identity=0.0)


def unpaired_colour() -> Experiment:
  """Photographs in colour from the brightness of others, by a CycleGAN (Zhu et al., 2017; H4.9.2).

  Without the identity loss brightness is turned over: there and back again, black and white are as good as
  white and black.

  Result: colours, but below the grey image itself: PSNR 21.3 dB and SSIM 0.877, where it has 25.3 and 0.955 (1
  seed); 12.8 min on a busy 2-core AMD EPYC; `dlcourse train gan.unpaired_colour --data.source=npz:FILE`.
  """
  return _cycle_gan("grey", "tfds:cifar10", identity=5.0, small=_GREY)


def segment() -> Experiment:
  """The pixels of a digit on a cluttered ground, by a U-Net with an adversary (Isola et al., 2017; H4.9.3).

  Result: intersection over union 0.677 (0.449 by a threshold on the picture itself; 1 seed), 3.2 min on one
  core of a busy 2-core AMD EPYC; `dlcourse train gan.segment`.
  """
  return _pix2pix("cluttered", 1_500)


def super_resolution() -> Experiment:
  """Digits of 8 pixels in 32, by a residual network with an adversary (SRGAN: Ledig et al., 2017; H4.9.1).

  --data.source=npz:FILE enlarges pictures in colour.

  Result: PSNR 22.1 dB and SSIM 0.893 (15.7 and 0.457 by bicubic interpolation; 1 seed), 4.7 min on one core of
  a busy 2-core AMD EPYC; `dlcourse train gan.super_resolution`.
  """
  return _translation(
    Compete(
      generator=SRResNet(width=32, blocks=4),
      discriminator=PatchDiscriminator(width=16, depth=2, norm="spectral"),
      generator_optimizer=Adam(learning_rate=1e-3, b1=0.5),
      discriminator_optimizer=Adam(learning_rate=2e-4, b1=0.5),
      ema_decay=0.99,
      reconstruction=100.0,
      see_source=True,
    ),
    "downscaled",
    steps=1_500,
    small=("--task.generator.width=2", "--task.generator.blocks=1", "--task.discriminator.width=2"),
  )


_TINY_CLASSIFIER = (
  *("--data.folds=50", "--data.per_class=10", "--data.validation=0.3", "--data.batch_size=8", "--steps=2"),
  *("--task.optimizer.warmup_steps=0", "--evaluators.0.pictures=2"),
)
_FEW_OF_IT = ("--data.starved_images=2", "--data.added_images=3")
# The score by which gan.cgan keeps a checkpoint is of a network that has seen all the images of every class.
_LAST = "--best.metric=None"
_TINY_GENERATOR = (
  f"{_LAST} --steps=2 --data.batch_size=8 --monitors.0.samples=10 --monitors.1.samples=10 "
  "--task.generator.width=4 --task.discriminator.width=4"
)


def rare_class() -> Experiment:
  """A classifier that has ten images of one digit, and 350 by a conditional GAN that had no more (H4.9.4).

  --data.generator=None, copies, or the workdir of a GAN; --data.augment.0.pixels=2 moves the images.

  Result: F1 of that digit 0.84 ± 0.07 (3 seeds), see `rare_classes`.
  """
  return Experiment(
    data=WithGenerated(
      "mnist_5k",
      batch_size=64,
      size=32,
      scale="standard",
      augment=(Shift(0),),
      starved="8",
      generator_flags=f"{_LAST} --steps=2000",
    ),
    task=Classify(
      LeNet5Modern(), AdamW(learning_rate=2e-3, schedule="cosine", warmup_steps=50, weight_decay=0.05)
    ),
    evaluators=(ConfusionMatrix(focus="8"),),
    best=Best(None),  # one image of the digit is left to validate on
    steps=1_000,
    eval_every=250,
    small=(*_TINY_CLASSIFIER, *_FEW_OF_IT, "--data.generator=copies"),
  )


def detector() -> Experiment:
  """Real digits or those of a conditional GAN, told apart by a small network (H4.10.3).

  --data.test_generator=gan.dcgan tests it on images of a generator that it has not seen.

  Result: AUROC 0.898 on images of that GAN, 0.762 on those of the DCGAN (1 seed); 0.5 min each on one core of a
  busy 2-core AMD EPYC, the GANs not counted; `dlcourse train gan.detector [--data.test_generator=gan.dcgan]`.
  """
  return Experiment(
    data=RealOrGenerated("mnist_5k", batch_size=64, size=32, scale="standard", augment=(Shift(2),)),
    task=Classify(
      LeNet5Modern(), AdamW(learning_rate=1e-3, schedule="cosine", warmup_steps=50, weight_decay=0.05)
    ),
    evaluators=(ConfusionMatrix(), Roc(), Intervals()),
    steps=3_000,
    eval_every=250,
    small=(*_TINY_CLASSIFIER, f"--data.generator_flags={_TINY_GENERATOR}"),
  )


def rare_classes() -> Study:
  """What images of a conditional GAN are worth to a starved class, against simpler remedies (H4.9.4).

  Result: F1 of the digit with ten training images, 3 seeds: 0.67 ± 0.11; copied 0.75 ± 0.06; with shifts
  0.81 ± 0.23; with 350 generated images 0.84 ± 0.07; with all images 0.96 ± 0.02; 16 min on one core of a
  shared 2-core AMD EPYC, most of it for three GANs; `dlcourse study gan.rare_classes`.
  """
  none, full, moved = "--data.generator=None", "--data.starved=None", "--data.augment.0.pixels=2"
  arms = {
    "starved": (none,),
    "copies": ("--data.generator=copies",),
    "generated": (),
    "shifts": (none, moved),
    "all images": (none, full),
  }
  return Study(
    runs=tuple(Run(label, "gan.rare_class", flags, seed) for label, flags in arms.items() for seed in range(3)),
    summarise=mean_by_label("f1/8", "macro_f1", "accuracy"),
    small=(*_TINY_CLASSIFIER, *_FEW_OF_IT, f"--data.generator_flags={_TINY_GENERATOR}"),
  )


def _variants(extractor: str, count: int, overrides: tuple[str, ...] = ()) -> Study:
  names = ("dcgan", "cgan", "wgan", "wgan_gp", "sngan", "style_gan")
  scores = (f"{score}/{extractor}@{count}" for score in ("fid", "precision", "recall", "asked"))
  return Study(
    runs=tuple(Run(name, f"gan.{name}", overrides) for name in names),
    summarise=together(mean_by_label(*scores), rank_correlation(f"fid/{extractor}@400", "d_loss", "g_loss")),
  )


def variants() -> Study:
  """The variants of H4.7 on digits, by the same measures (H4.8), and whether losses say how good.

  Result: FID cgan 5.2, wgan_gp 44.4, dcgan 48.3, sngan 56.6, wgan 87.8, style_gan 178 (1 seed each); as
  they train FID falls where the losses of the two players come nearer (Spearman's ρ with g_loss 0.3 to 1, with
  d_loss -0.5 to -1); 100 min on one core of a shared 2-core AMD EPYC; `dlcourse study gan.variants`.
  """
  return _variants("digits", 1_000)


def variants_fashion() -> Study:
  """The variants of H4.7 on Fashion-MNIST, as `variants`.

  Result: FID cgan 4.7, dcgan 12.4, wgan_gp 20.4, style_gan 26.6, sngan 32.1, wgan 35.2; 84.2 % of what cgan
  makes is taken for what was asked for (1 seed each); 82 min on one core of a shared 2-core AMD EPYC;
  `dlcourse study gan.variants_fashion --data.source=idx:FOLDER` with its four files.
  """
  measured_by = ("--evaluators.1.extractor=fashion", "--monitors.1.extractor=fashion")
  return _variants(
    "fashion",
    2_000,
    ("--data.source=tfds:fashion_mnist", *measured_by, "--best.metric=fid/fashion@400"),
  )


def ring() -> Experiment:
  """Eight Gaussians on a ring, by perceptrons whose discriminator is trained close to its optimum (H4.5.1).

  Result: it collapses: 1.2 modes of 8 (5 seeds), 0.4 min on one core of a busy 2-core AMD EPYC; `mode_collapse`
  has the remedies; `dlcourse study gan.mode_collapse`.
  """
  return Experiment(
    data=Gaussians("ring", batch_size=256),
    task=Compete(
      generator=mlp_gan.Generator(latent_dim=16),
      discriminator=mlp_gan.Discriminator(hidden_dims=(128, 128)),
      generator_optimizer=Adam(learning_rate=1e-3, b1=0.5),
      discriminator_optimizer=Adam(learning_rate=1e-3, b1=0.5),
      critic_steps=8,
    ),
    evaluators=(ModeCoverage(),),
    best=Best(None),
    steps=10_000,
    eval_every=2_000,
    log_every=500,
    small=("--data.batch_size=8", "--steps=2", "--evaluators.0.samples=8"),
  )


REMEDIES = {
  "plain": (),
  "saturating": ("--task.loss=minimax",),
  "one critic step": ("--task.critic_steps=1",),
  "gradient penalty": ("--task.gradient_penalty=1",),
  "R1": ("--task.r1=1",),
  "Wasserstein, penalty": ("--task.loss=wasserstein", "--task.gradient_penalty=1"),
  "Wasserstein, clipping": ("--task.loss=wasserstein", "--task.clip=0.1"),
  "hinge, spectral norm": ("--task.loss=hinge", "--task.discriminator.norm=spectral"),
  "least squares": ("--task.loss=least_squares",),
  "feature matching": ("--task.feature_matching=1",),
  "label smoothing": ("--task.real_label=0.9",),
  "batch norm": ("--task.discriminator.norm=batch",),
}


def mode_collapse() -> Study:
  """Collapse provoked by a discriminator that is too good, and each remedy of H4.6; five seeds (H4.5.1).

  Result: modes covered and share of samples near one: plain 1.2 of 8; one critic step 8.0 and 95.3 %, gradient
  penalty 8.0 and 91.7 %, Wasserstein with penalty 8.0 and 91.5 %, R1 8.0 and 88.4 %; others in the README;
  49 min on one core of a busy 2-core AMD EPYC; `dlcourse study gan.mode_collapse`.
  """
  return Study(
    runs=tuple(
      Run(label, "gan.ring", overrides, seed) for label, overrides in REMEDIES.items() for seed in range(5)
    ),
    summarise=mean_by_label("modes", "high_quality"),
    small=("--data.batch_size=8", "--steps=2", "--evaluators.0.samples=8"),
  )


def divergences() -> Study:
  """The best discriminator, and what the game then measures: JSD saturates where W₁ does not (H4.4.2).

  Result: of two unit intervals a distance of 1 or more apart the JSD is log 2 and W₁ the distance; seconds;
  `dlcourse study gan.divergences`.
  """

  def summarise(results: list) -> Report:
    del results  # nothing is trained that is kept
    return compare_divergences()

  return Study(runs=(), summarise=summarise)
