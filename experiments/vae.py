"""Chapter 5: autoencoders and variational autoencoders."""

from dlcourse.data.images import Images
from dlcourse.evaluators.samples import Reconstructions, SampleGrid
from dlcourse.experiment import Best, Experiment
from dlcourse.models.vae import MLPVAE
from dlcourse.optim import Adam
from dlcourse.tasks.variational import Autoencode


def mlp() -> Experiment:
  """VAE 784-400-20 (Kingma & Welling, 2014; H5.2) on handwritten digits with grey pixels.

  Result: test ELBO -113.1 nats ± 0.9 (3 seeds, 95 % interval), 0.8 min each, busy 2-core AMD EPYC;
  `dlcourse study overview.slices`.
  """
  return Experiment(
    data=Images("mnist_5k", batch_size=128, size=28),
    task=Autoencode(MLPVAE(), Adam(learning_rate=1e-3)),
    evaluators=(SampleGrid(), Reconstructions()),
    best=Best("loss", patience=20),
    steps=6_000,
    eval_every=200,
    small=(
      *("--data.folds=50", "--data.per_class=10", "--data.batch_size=8"),
      *("--evaluators.0.samples=4", "--steps=2"),
    ),
  )
