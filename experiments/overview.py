"""One run of every way of learning, for the table of the README."""

from dlcourse.experiment import Run, Study
from dlcourse.study import mean_by_label

SLICES = ("cnn.lenet5", "cnn.mlp", "vae.mlp", "gan.dcgan", "recurrent.char_lstm")


def slices() -> Study:
  """Every slice of the engine as its experiment says, 3 seeds each.

  Result: the table in experiments/results/overview.slices.md; 42 min in all, busy 2-core AMD EPYC.
  """
  return Study(
    runs=tuple(Run(name, name, seed=seed) for name in SLICES for seed in range(3)),
    summarise=mean_by_label("accuracy", "loss", "perplexity", "elbo", "d_real", "d_fake"),
  )
