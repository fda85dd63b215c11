"""Chapter 5: autoencoders and variational autoencoders."""

from dlcourse.data.corruption import Noise
from dlcourse.data.images import Images
from dlcourse.data.sprites import Sprites
from dlcourse.data.vectors import Vectors
from dlcourse.evaluators import Evaluator
from dlcourse.evaluators.codebook import CodebookUsage
from dlcourse.evaluators.compression import Compression
from dlcourse.evaluators.image_quality import ImageQuality
from dlcourse.evaluators.latents import Interpolations, LatentMap, Traversals
from dlcourse.evaluators.likelihood import ActiveLatents, ImportanceLikelihood
from dlcourse.evaluators.novelty import Novelty
from dlcourse.evaluators.representation import Disentanglement, InkArithmetic, LinearProbe
from dlcourse.evaluators.samples import Reconstructions, SampleGrid
from dlcourse.experiment import Best, Experiment, Run, Study
from dlcourse.models.conv_vae import ConvVAE
from dlcourse.models.ladder_vae import LadderVAE
from dlcourse.models.sequence import LanguageModel
from dlcourse.models.transformer import Layer, Transformer
from dlcourse.models.vae import MLPVAE
from dlcourse.models.vq_vae import VQVAE
from dlcourse.optim import Adam
from dlcourse.study import mean_by_label
from dlcourse.tasks.code_prior import CodePrior
from dlcourse.tasks.variational import Autoencode

_SMALLEST = ("--data.folds=50", "--data.per_class=10", "--data.batch_size=8", "--steps=2")
_FEW_SAMPLES = ("--evaluators.0.samples=4",)


def _on_digits(
  task: Autoencode, small: tuple[str, ...], evaluators: tuple[Evaluator, ...], size: int = 28
) -> Experiment:
  return Experiment(
    data=Images("mnist_5k", batch_size=128, size=size),
    task=task,
    evaluators=evaluators,
    best=Best("loss", patience=20),
    steps=6_000,
    eval_every=200,
    small=(*_SMALLEST, *small),
  )


def _variational(task: Autoencode, narrow: str = "--task.model.hidden_dim=8") -> Experiment:
  return _on_digits(task, (*_FEW_SAMPLES, narrow), (SampleGrid(), Reconstructions()))


def _deterministic(task: Autoencode) -> Experiment:
  return _on_digits(task, ("--task.model.hidden_dim=8",), (Reconstructions(),))


def autoencoder() -> Experiment:
  """Digits through a code of 20 numbers and back, by squared error (Hinton & Salakhutdinov, 2006; H5.1)."""
  return _deterministic(
    Autoencode(MLPVAE(latent_dim=20, posterior="none"), Adam(learning_rate=1e-3), likelihood="squared")
  )


def denoising() -> Experiment:
  """Clean digits from noisy ones (Vincent et al., 2010; H5.1)."""
  return _deterministic(
    Autoencode(
      MLPVAE(latent_dim=64, posterior="none"),
      Adam(learning_rate=1e-3),
      likelihood="squared",
      corrupt=(Noise(0.5),),
    )
  )


def sparse() -> Experiment:
  """A wide code of which each digit uses a few numbers: rectified, and its sum penalised (H5.1)."""
  return _deterministic(
    Autoencode(
      MLPVAE(latent_dim=256, posterior="rectified"),
      Adam(learning_rate=1e-3),
      likelihood="squared",
      sparsity=0.1,
    )
  )


def mlp() -> Experiment:
  """VAE 784-400-20 (Kingma & Welling, 2014; H5.2) on handwritten digits with grey pixels.

  Result: test ELBO -113.1 nats ± 0.9 (3 seeds, 95 % interval), 0.8 min each, busy 2-core AMD EPYC;
  `dlcourse study overview.slices`.
  """
  return _variational(Autoencode(MLPVAE(), Adam(learning_rate=1e-3)))


def full_posterior() -> Experiment:
  """The same with a posterior of full covariance (Kingma & Welling, 2019, section 2.5.1; H5.2)."""
  return _variational(Autoencode(MLPVAE(posterior="full"), Adam(learning_rate=1e-3)))


def conv() -> Experiment:
  """A convolutional VAE on digits whose pixels are black or white, sampled at each step (H5.2)."""
  return _variational(
    Autoencode(ConvVAE(), Adam(learning_rate=1e-3), binarise="sample"), "--task.model.width=2"
  )


def likelihood() -> Experiment:
  """The likelihood of black and white images by a convolutional VAE, and what its latents know (H5.2.2, H5.4).

  --data.source=idx:FOLDER for Fashion-MNIST.
  """
  return _on_digits(
    Autoencode(ConvVAE(), Adam(learning_rate=1e-3), binarise="threshold"),
    (
      *(*_FEW_SAMPLES, "--task.model.width=2", "--evaluators.2.images=4", "--evaluators.2.draws=2"),
      *("--evaluators.5.pairs=2", "--evaluators.6.images=2", "--evaluators.7.images=4"),
    ),
    (
      *(SampleGrid(), Reconstructions(), ImportanceLikelihood(), ActiveLatents(), LinearProbe()),
      *(Interpolations(), InkArithmetic(), Compression()),
    ),
  )


def beta() -> Experiment:
  """β-VAE (Higgins et al., 2017; H5.3.3): a KL term of weight 4, which rises from 0."""
  return _variational(Autoencode(MLPVAE(), Adam(learning_rate=1e-3), beta=4.0, warm_up=0.2))


def conditional() -> Experiment:
  """Conditional VAE (Sohn et al., 2015; H5.3.1): the digit that is asked for.

  Result: 68.2 % of samples are taken for it, FID 213.5 (`gan.cgan` 98.0 % and 5.2), ELBO -109.6 nats (1 seed),
  1.2 min on a busy 2-core AMD EPYC; `dlcourse train vae.conditional`.
  """
  return _on_digits(
    Autoencode(MLPVAE(conditional=True), Adam(learning_rate=1e-3)),
    (*_FEW_SAMPLES, "--evaluators.2.samples=10", "--task.model.hidden_dim=8"),
    (SampleGrid(), Reconstructions(), ImageQuality()),
  )


def plane() -> Experiment:
  """Two latents, so that the whole latent space is one picture (Kingma & Welling, 2014, figure 4; H5.3.1).

  Result: ELBO -166.6 nats (1 seed), 1.2 min on a busy 2-core AMD EPYC; `dlcourse train vae.plane`.
  """
  return _on_digits(
    Autoencode(MLPVAE(latent_dim=2), Adam(learning_rate=1e-3)),
    (*_FEW_SAMPLES, "--evaluators.2.side=3", "--task.model.hidden_dim=8"),
    (SampleGrid(), Reconstructions(), LatentMap()),
  )


def factors() -> Experiment:
  """β-VAE on shapes whose five factors are known (Higgins et al., 2017; H5.3.3); --task.beta=1 is the VAE."""
  return Experiment(
    data=Sprites(batch_size=128),
    task=Autoencode(ConvVAE(latent_dim=10), Adam(learning_rate=1e-3), beta=4.0, warm_up=0.2),
    evaluators=(Traversals(), ActiveLatents(), Disentanglement()),
    best=Best("loss", patience=20),
    steps=4_000,
    eval_every=200,
    small=("--data.batch_size=8", "--steps=2", "--task.model.width=2", "--evaluators.0.latents=2"),
  )


def novel_digit() -> Experiment:
  """The digit that a VAE never saw (H5.4.5); --data.left_out names another."""
  return Experiment(
    data=Images("mnist_5k", batch_size=128, size=28, left_out="0"),
    task=Autoencode(MLPVAE(), Adam(learning_rate=1e-3)),
    evaluators=(Novelty(),),
    best=Best("loss", patience=20),
    steps=6_000,
    eval_every=200,
    small=(*_SMALLEST, "--evaluators.0.draws=2", "--task.model.hidden_dim=8"),
  )


def novel_digits() -> Study:
  """Each digit in turn as the one that was never seen, by a VAE and by principal components (H5.4.5)."""
  measures = ("reconstruction_auc", "elbo_auc", "latent_auc", "pca_auc")
  return Study(
    runs=tuple(Run("left out", "vae.novel_digit", (f"--data.left_out={digit}",)) for digit in range(10)),
    summarise=mean_by_label(*measures),
  )


def heartbeats() -> Experiment:
  """Heartbeats that are not normal, by a VAE that was trained on normal ones alone (H5.4.5).

  Result: AUROC of the reconstruction error 0.980 (0.975 to 0.984), of the ELBO 0.980, of principal components
  0.977 (0.972 to 0.982), on 4,500 test beats (1 seed); 11 s on a busy 2-core AMD EPYC;
  `dlcourse train vae.heartbeats`.
  """
  return _of_points(Vectors("ecg5000", only="normal", batch_size=64), latent_dim=8, steps=3_000)


def cells() -> Experiment:
  """Malignant cells by a VAE of benign ones: 30 measures of a sample under the microscope (H5.4.4, H5.4.5).

  Result: AUROC of the distance of the code 0.930 (0.875 to 0.977), of the ELBO 0.904, of the reconstruction
  error 0.892, of principal components 0.924, on 115 samples (1 seed); 10 s on a busy 2-core AMD EPYC;
  `dlcourse train vae.cells`.
  """
  return _of_points(Vectors("breast_cancer", only="benign", batch_size=64), latent_dim=4, steps=3_000)


def _of_points(data: Vectors, latent_dim: int, steps: int) -> Experiment:
  return Experiment(
    data=data,
    task=Autoencode(
      MLPVAE(hidden_dim=64, latent_dim=latent_dim), Adam(learning_rate=1e-3), likelihood="gaussian"
    ),
    evaluators=(Novelty(), ActiveLatents()),
    best=Best("loss", patience=10),
    steps=steps,
    eval_every=100,
    small=("--data.batch_size=8", "--steps=2", "--evaluators.0.draws=2", "--task.model.hidden_dim=8"),
  )


def iwae() -> Experiment:
  """IWAE: the bound of 5 draws (Burda et al., 2016, arXiv:1509.00519; H5.2.2) on black and white digits."""
  return _variational(Autoencode(MLPVAE(), Adam(learning_rate=1e-3), binarise="sample", importance_samples=5))


def logistic() -> Experiment:
  """Pixels as their 256 levels, in bits (Salimans et al., 2017); in colour with --data.source=npz:FILE."""
  return _on_digits(
    Autoencode(ConvVAE(latent_dim=64), Adam(learning_rate=1e-3), likelihood="logistic"),
    (*_FEW_SAMPLES, "--task.model.width=2", "--evaluators.2.images=4"),
    (SampleGrid(), Reconstructions(), Compression()),
    size=32,
  )


def hierarchical() -> Experiment:
  """Three levels of latents on black and white digits (Sønderby et al., 2016; Vahdat & Kautz, 2020; H5.3.3)."""
  return Experiment(
    data=Images("mnist_5k", batch_size=128, size=28),
    task=Autoencode(LadderVAE(), Adam(learning_rate=1e-3), binarise="threshold", warm_up=0.2),
    evaluators=(SampleGrid(), Reconstructions(), ImportanceLikelihood()),
    best=Best("loss", patience=20),
    steps=6_000,
    eval_every=200,
    small=(
      *_SMALLEST,
      *("--evaluators.0.samples=4", "--evaluators.2.images=4", "--evaluators.2.draws=2"),
      *("--task.model.width=2", "--task.model.latent_dims", "2", "1", "1"),
    ),
  )


def vq() -> Experiment:
  """VQ-VAE: digits as 49 symbols out of 128 (van den Oord et al., 2017, arXiv:1711.00937; H5.3.3)."""
  return Experiment(
    data=Images("mnist_5k", batch_size=128, size=28),
    task=Autoencode(VQVAE(width=32), Adam(learning_rate=1e-3)),
    evaluators=(Reconstructions(), CodebookUsage()),
    best=Best("loss", patience=20),
    steps=3_000,
    eval_every=200,
    small=(*_SMALLEST, "--task.model.width=2"),
  )


def vq_prior() -> Experiment:
  """A Transformer that learns which symbols follow which, told the digit, so that `vq` can be sampled."""
  body = Transformer(Layer(64, 4, dropout=0.1), 2, causal=True, positions="learned", max_length=49)
  return Experiment(
    data=Images("mnist_5k", batch_size=64, size=28),
    task=CodePrior(
      VQVAE(width=32),
      LanguageModel(body, 64),
      Adam(learning_rate=2e-3, schedule="cosine"),
      conditional=True,
    ),
    init_from="vae.vq",
    evaluators=(SampleGrid(), CodebookUsage()),
    best=Best("loss", patience=20),
    steps=3_000,
    eval_every=200,
    small=(
      *_SMALLEST,
      *("--init_from=None", "--evaluators.0.samples=4", "--task.model.width=2", "--task.prior.embed_dim=8"),
      *("--task.prior.body.layer.hidden_dim=8", "--task.prior.body.layer.num_heads=2"),
    ),
  )
