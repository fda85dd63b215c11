"""Chapter 4: generative adversarial networks."""

from dlcourse.data.images import Images
from dlcourse.evaluators.samples import SampleGrid
from dlcourse.experiment import Best, Experiment
from dlcourse.models.dcgan import Discriminator, Generator
from dlcourse.optim import Adam
from dlcourse.tasks.adversarial import Compete


def dcgan() -> Experiment:
  """DCGAN (Radford et al., 2015; H4.7.1) on handwritten digits at 32 pixels.

  Result: D(x) 0.73 on test digits, D(G(z)) 0.21 (3 seeds); samples in experiments/results/dcgan_samples.png;
  6.1 min each, busy 2-core AMD EPYC; `dlcourse study overview.slices`.
  """
  return Experiment(
    data=Images("mnist_5k", batch_size=64, size=32, scale="symmetric"),
    task=Compete(
      generator=Generator(latent_dim=64, width=32),
      discriminator=Discriminator(width=32),
      generator_optimizer=Adam(learning_rate=2e-4, b1=0.5),
      discriminator_optimizer=Adam(learning_rate=2e-4, b1=0.5),
      ema_decay=0.995,  # 0.999 still holds the noise of the first steps after 2,500
    ),
    evaluators=(SampleGrid(),),
    best=Best(None),
    steps=4_000,
    eval_every=500,
    small=(
      *("--data.folds=50", "--data.per_class=10", "--data.batch_size=8"),
      "--task.generator.width=4",
      "--task.discriminator.width=4",
      "--evaluators.0.samples=4",
      "--steps=2",
    ),
  )
