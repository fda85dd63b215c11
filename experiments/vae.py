"""Chapter 5: autoencoders and variational autoencoders."""

import dataclasses

from dlcourse.data.augment import Shift
from dlcourse.data.corruption import Noise
from dlcourse.data.generated import WithGenerated
from dlcourse.data.image_pairs import ImagePairs
from dlcourse.data.images import Images
from dlcourse.data.lines import Lines
from dlcourse.data.moving import MovingDigits
from dlcourse.data.recipe import DataRecipe
from dlcourse.data.sprites import Sprites
from dlcourse.data.vectors import Vectors
from dlcourse.evaluators import Evaluator
from dlcourse.evaluators.classification import ConfusionMatrix
from dlcourse.evaluators.codebook import CodebookUsage
from dlcourse.evaluators.compression import Compression
from dlcourse.evaluators.image_quality import ImageQuality
from dlcourse.evaluators.latents import Interpolations, LatentMap, Traversals
from dlcourse.evaluators.likelihood import ActiveLatents, ImportanceLikelihood
from dlcourse.evaluators.molecules import Molecules
from dlcourse.evaluators.novelty import Novelty
from dlcourse.evaluators.plausible import Futures, Plausible
from dlcourse.evaluators.rate_distortion import RateDistortion, compared
from dlcourse.evaluators.representation import Disentanglement, InkArithmetic, LinearProbe
from dlcourse.evaluators.restoration import Restoration
from dlcourse.evaluators.samples import Reconstructions, SampleGrid, TextSamples
from dlcourse.evaluators.sentences import SentenceInterpolations, SentenceLikelihood
from dlcourse.evaluators.text_scores import ErrorRates, ExactMatch
from dlcourse.experiment import Best, Experiment, Run, Study
from dlcourse.models.conditional_vae import ConditionalVAE
from dlcourse.models.conv_vae import ConvVAE
from dlcourse.models.ladder_vae import LadderVAE
from dlcourse.models.lenet import LeNet5Modern
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.seq2seq import SequenceEncoder
from dlcourse.models.sequence import Frontend, LanguageModel
from dlcourse.models.text_vae import TextVAE
from dlcourse.models.transformer import Layer, Transformer
from dlcourse.models.vae import MLPVAE
from dlcourse.models.video_vae import VideoVAE
from dlcourse.models.vq_vae import VQVAE
from dlcourse.optim import Adam, AdamW
from dlcourse.study import mean_by_label
from dlcourse.tasks.code_prior import CodePrior
from dlcourse.tasks.supervised import Classify
from dlcourse.tasks.text_autoencoder import AutoencodeText
from dlcourse.tasks.variational import Autoencode

_SMALLEST = ("--data.folds=50", "--data.per_class=10", "--data.batch_size=8", "--steps=2")
_FEW_SAMPLES = ("--evaluators.0.samples=4",)


def _on_digits(
  task: Autoencode,
  small: tuple[str, ...],
  evaluators: tuple[Evaluator, ...],
  size: int = 28,
  steps: int = 6_000,
) -> Experiment:
  return Experiment(
    data=Images("mnist_5k", batch_size=128, size=size),
    task=task,
    evaluators=evaluators,
    best=Best("loss", patience=20),
    steps=steps,
    eval_every=200,
    small=(*_SMALLEST, *small),
  )


def _variational(task: Autoencode, narrow: str = "--task.model.hidden_dim=8") -> Experiment:
  return _on_digits(task, (*_FEW_SAMPLES, narrow), (SampleGrid(), Reconstructions()))


def _deterministic(task: Autoencode) -> Experiment:
  return _on_digits(task, ("--task.model.hidden_dim=8",), (Reconstructions(),))


def autoencoder() -> Experiment:
  """Digits through a code of 20 numbers and back, by squared error (Hinton & Salakhutdinov, 2006; H5.1).

  Result: squared error 12.7 a test digit, of 784 pixels (1 seed); 1.5 min on a busy 2-core AMD EPYC;
  `dlcourse train vae.autoencoder`.
  """
  return _deterministic(
    Autoencode(MLPVAE(latent_dim=20, posterior="none"), Adam(learning_rate=1e-3), likelihood="squared")
  )


def denoising() -> Experiment:
  """Clean digits from noisy ones (Vincent et al., 2010; H5.1).

  Result: squared error 13.5 a test digit, where the noise has 196 (1 seed); 2.6 min on a busy 2-core AMD EPYC;
  `dlcourse train vae.denoising`.
  """
  return _deterministic(
    Autoencode(
      MLPVAE(latent_dim=64, posterior="none"),
      Adam(learning_rate=1e-3),
      likelihood="squared",
      corrupt=(Noise(0.5),),
    )
  )


def sparse() -> Experiment:
  """A wide code of which each digit uses a few numbers: rectified, and its sum penalised (H5.1).

  Result: squared error 4.7 a test digit, with a penalty of 0.9 (1 seed); 2.4 min on a busy 2-core AMD EPYC;
  `dlcourse train vae.sparse`.
  """
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
  """The same with a posterior of full covariance (Kingma & Welling, 2019, section 2.5.1; H5.2).

  Result: ELBO -113.3 nats (1 seed): no better than the diagonal of `mlp`; 1.1 min on a busy 2-core AMD EPYC;
  `dlcourse train vae.full_posterior`.
  """
  return _variational(Autoencode(MLPVAE(posterior="full"), Adam(learning_rate=1e-3)))


def conv() -> Experiment:
  """A convolutional VAE on digits whose pixels are black or white, sampled at each step (H5.2).

  Result: ELBO -102.9 nats (1 seed); 29.5 min beside a test run that had both cores of a 2-core AMD EPYC;
  `dlcourse train vae.conv`.
  """
  return _variational(
    Autoencode(ConvVAE(), Adam(learning_rate=1e-3), binarise="sample"), "--task.model.width=2"
  )


def likelihood() -> Experiment:
  """The likelihood of black and white images by a convolutional VAE, and what its latents know (H5.2.2, H5.4).

  --data.source=idx:FOLDER for Fashion-MNIST.

  Result: -log p(x) 85.0 nats on 1,000 test digits, 76.2 on as many training digits, by 1,000 draws each
  (`nll/iw1000@1000`), ELBO -96.3; 20 of 20 latents in use; a linear probe of their codes 88.9 %, of as many
  principal components 87.8 %; codec 0.1783 bits a pixel, ELBO 0.1770, PNG of all in one mosaic 0.340 (1 seed);
  4.6 min of training on a busy 2-core AMD EPYC; `dlcourse train vae.likelihood`. Fashion-MNIST, 1,000 of its
  test images: 112.3 nats, training images 107.7; probe 76.8 %, components 79.5 %; codec 0.2232, ELBO
  0.2235, PNG 0.371 (1 seed, 16.5 min; --data.source=idx:FOLDER --steps=12000 --eval_every=500).
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
  """β-VAE (Higgins et al., 2017; H5.3.3): a KL term of weight 4, which rises from 0.

  Result: rate 10.7 nats where `mlp` has 26.3, distortion 112.9 for 86.9 (1 seed); 1.0 min on a busy 2-core AMD
  EPYC; `dlcourse train vae.beta`.
  """
  return _variational(Autoencode(MLPVAE(), Adam(learning_rate=1e-3), beta=4.0, warm_up=0.2))


def conditional() -> Experiment:
  """Conditional VAE (Sohn et al., 2015; H5.3.1): the digit that is asked for.

  The fewer latents, the more is left to the label: with 20 of them 68.2 % of samples are taken for it.

  Result: 88.3 % of samples are taken for it, FID 199 (`gan.cgan` 98.0 % and 5.2), ELBO -122.1 nats (1 seed),
  2.1 min on a busy 2-core AMD EPYC; `dlcourse train vae.conditional`.
  """
  return _on_digits(
    Autoencode(MLPVAE(latent_dim=5, conditional=True), Adam(learning_rate=1e-3)),
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
  """β-VAE on shapes whose five factors are known (Higgins et al., 2017; H5.3.3); --task.beta=1 is the VAE.

  Result: mutual information gap 0.046 of at most 1, which is little; 9 of 10 latents in use, ELBO -48.5 nats (1
  seed); 11.4 min on a busy 2-core AMD EPYC; `dlcourse train vae.factors`.
  """
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
  every = _on_digits(
    Autoencode(MLPVAE(), Adam(learning_rate=1e-3)),
    ("--evaluators.0.draws=2", "--task.model.hidden_dim=8"),
    (Novelty(),),
  )
  return dataclasses.replace(every, data=dataclasses.replace(every.data, left_out="0"))


def novel_digits() -> Study:
  """Each digit in turn as the one that was never seen, by a VAE and by principal components (H5.4.5).

  Result: mean AUROC of the reconstruction error 0.787 (of single digits 0.394, the ones, to 0.939), of the ELBO
  0.703, of the distance of the code 0.661, of principal components 0.697 (1 seed); 8 min on one core of a busy
  2-core AMD EPYC; `dlcourse study vae.novel_digits`.
  """
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
  """IWAE: the bound of 5 draws (Burda et al., 2016, arXiv:1509.00519; H5.2.2) on black and white digits.

  Result: bound of 5 draws -104.9 nats, of one draw -110.4 (1 seed); 4.1 min on a busy 2-core AMD EPYC;
  `dlcourse train vae.iwae`.
  """
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
  """Three levels of latents on black and white digits (Sønderby et al., 2016; Vahdat & Kautz, 2020; H5.3.3).

  Result: -log p(x) 69.8 nats on 1,000 test digits (the flat `likelihood` 85.0), 65.0 on training digits, by
  1,000 draws, ELBO -79.0 (1 seed); 20.9 min on a busy 2-core AMD EPYC; `dlcourse train vae.hierarchical`.
  """
  return _on_digits(
    Autoencode(LadderVAE(), Adam(learning_rate=1e-3), binarise="threshold", warm_up=0.2),
    (
      *(*_FEW_SAMPLES, "--evaluators.2.images=4", "--evaluators.2.draws=2"),
      *("--task.model.width=2", "--task.model.latent_dims", "2", "1", "1"),
    ),
    (SampleGrid(), Reconstructions(), ImportanceLikelihood()),
  )


def vq() -> Experiment:
  """VQ-VAE: digits as 49 symbols out of 128 (van den Oord et al., 2017, arXiv:1711.00937; H5.3.3).

  Result: all 128 codes in use, perplexity 75.9 (1 seed); 9.0 min on a busy 2-core AMD EPYC;
  `dlcourse train vae.vq`.
  """
  return _on_digits(
    Autoencode(VQVAE(width=32), Adam(learning_rate=1e-3)),
    ("--task.model.width=2",),
    (Reconstructions(), CodebookUsage()),
    steps=3_000,
  )


def vq_prior() -> Experiment:
  """A Transformer that learns which symbols follow which, told the digit, so that `vq` can be sampled.

  Result: 2.52 nats a symbol, where codes of even odds have 4.85, which is 0.227 bits a pixel (1 seed); 8.5 min
  on a busy 2-core AMD EPYC; `dlcourse train vae.vq_prior`.
  """
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


def _of_sentences(
  latent_dim: int,
  evaluators: tuple[Evaluator, ...],
  small: tuple[str, ...],
  word_dropout: float = 0.0,
  warm_up: float = 0.0,
  free_bits: float = 0.0,
) -> Experiment:
  return Experiment(
    data=Lines("film_sentences", batch_size=64, longest=17),
    task=AutoencodeText(
      TextVAE(
        SequenceEncoder(RecurrentStack("gru", hidden_dim=128, bidirectional=True), Frontend(embed_dim=128)),
        RecurrentStack("gru", hidden_dim=256),
        latent_dim,
        dropout=0.3,
      ),
      AdamW(learning_rate=2e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0, weight_decay=0.01),
      word_dropout,
      warm_up=warm_up,
      free_bits=free_bits,
    ),
    evaluators=evaluators,
    best=Best("loss"),
    steps=3_000,
    eval_every=300,
    small=(
      *("--data.buckets=1", "--data.vocab_size=500", "--steps=2", "--task.optimizer.warmup_steps=0"),
      *("--task.model.embed_dim=8", "--task.model.body.hidden_dim=8", "--task.model.encoder.body.hidden_dim=8"),
      *("--task.model.encoder.front.embed_dim=8", *small),
    ),
  )


def sentences() -> Experiment:
  """Sentences of film reviews through one vector (Bowman et al., 2016, arXiv:1511.06349; H5.4.3).

  Result: test ELBO -42.16 nats a sentence, 9.20 of them KL, all 32 latents active; by 50 draws -40.32 nats and
  perplexity 42.1, where `sentences_lm` has -38.52 and 35.7: the latents cost likelihood (1 seed), 32.6 min on a
  2-core AMD EPYC with load 10 (8.1 min of a core); `dlcourse train vae.sentences`.
  """
  return _of_sentences(
    32,
    (
      *(TextSamples(samples=16, length=24, temperature=0.0), SentenceLikelihood(), ActiveLatents()),
      *(SentenceInterpolations(), ErrorRates(), ExactMatch()),
    ),
    ("--task.model.latent_dim=2", "--evaluators.1.draws=2"),
    word_dropout=0.3,
    warm_up=0.3,
    free_bits=0.25,
  )


def sentences_lm() -> Experiment:
  """The decoder of `sentences` by itself, a language model: what latents have to be compared with (H5.2.2).

  Result: test -38.52 nats a sentence, perplexity 35.7 (1 seed), 27.9 min on a 2-core AMD EPYC with load 10;
  `dlcourse train vae.sentences_lm`.
  """
  return _of_sentences(0, (TextSamples(samples=16, length=24),), ())


def molecules() -> Experiment:
  """Molecules like drugs, written atom by atom (Gómez-Bombarelli et al., 2018, arXiv:1610.02415; H5.4.4)."""
  told = _of_sentences(
    32,
    (TextSamples(samples=16, length=60, temperature=1.0), Molecules(), ActiveLatents()),
    ("--task.model.latent_dim=2", "--evaluators.1.samples=4", "--evaluators.1.length=20"),
    warm_up=0.3,
    free_bits=0.25,
  )
  return dataclasses.replace(
    told, data=Lines("molecules", batch_size=64, tokens="smiles", longest=60, buckets=4)
  )


def vq_codec() -> Experiment:
  """Digits as symbols in a file: a VQ-VAE, a prior that needs no label, and their rate beside JPEG's (H5.4.1).

  `dlcourse compress IN OUT --workdir=W` writes such a file.

  Result: 0.236 bits a pixel (a file of 1,000 test digits) at 25.3 dB and SSIM 0.968; for that PSNR WebP needs
  0.504 and JPEG 1.000 (1 seed); 17 min for the VQ-VAE and 26 for its prior on a 2-core AMD EPYC that was busy
  with five other trainings; `dlcourse train vae.vq_codec`.
  """
  prior = vq_prior()
  return dataclasses.replace(
    prior,
    task=dataclasses.replace(prior.task, conditional=False),
    evaluators=(SampleGrid(), Reconstructions(), RateDistortion()),
    small=(*prior.small, "--evaluators.2.images=4"),
  )


def rate_distortion() -> Study:
  """Bits against distortion of digits, by the codes and their grid, beside JPEG, WebP and PNG (H5.4.1).

  Result: 0.095 bits a pixel for 22.0 dB, 0.237 for 25.2 dB, 0.347 for 29.9 dB; WebP of 0.351 bits has 22.4 dB
  (1 seed each); 90 min in all on one busy core of a 2-core AMD EPYC; `dlcourse study vae.rate_distortion`.
  """
  finer = ("--task.model.halvings=1", "--task.prior.body.max_length=196")
  points = {"49 of 8": (8,), "49 of 128": (128,), "196 of 32": (32, *finer)}
  return Study(
    runs=tuple(
      Run(label, "vae.vq_codec", (f"--task.model.num_codes={count}", *others))
      for label, (count, *others) in points.items()
    ),
    summarise=compared,
  )


def _told(
  data: DataRecipe, task: Autoencode, evaluators: tuple[Evaluator, ...], small: tuple[str, ...]
) -> Experiment:
  return Experiment(
    data=data,
    task=task,
    evaluators=evaluators,
    best=Best("loss", patience=20),
    steps=1_500,
    eval_every=250,
    small=(
      *("--data.folds=50", "--data.batch_size=8", "--steps=2", "--task.model.width=2"),
      *("--task.model.latent_dim=2", *small),
    ),
  )


def undersampled() -> Experiment:
  """Digits of which an eighth of the Fourier coefficients is measured, by a conditional VAE (H5.4.4).

  What it draws are images that the measurement leaves possible, as far as the model has learnt (Sohn et al.,
  2015): nothing forces them to have the coefficients that were measured. --data.kept=0.25 measures more.

  Result: PSNR 15.0 dB and SSIM 0.487 by the prior's mean, 12.9 and 0.187 where what was not measured is 0; the
  best of 10 draws 15.4 dB, and where they differ from each other they err (r = 0.74); 1 seed, 8.8 min on a busy
  2-core AMD EPYC; `dlcourse train vae.undersampled`.
  """
  return _told(
    ImagePairs("mnist_5k", "undersampled", batch_size=64, scale="unit", kept=0.125),
    Autoencode(ConditionalVAE(), Adam(learning_rate=2e-3, schedule="cosine"), likelihood="gaussian"),
    (Restoration(), Plausible()),
    ("--evaluators.1.draws=2",),
  )


def futures() -> Experiment:
  """Six frames that may follow four of a bouncing digit, by convolutions in space and in time (H5.4.2).

  Result: PSNR of a drawn future 17.0 dB, of the best of 10 18.6, of their mean 17.9, of the last frame again
  and again 15.0; where they differ they err (r = 0.61); 1 seed, 2.3 min on one core of a 2-core AMD EPYC;
  `dlcourse train vae.futures`.
  """
  return _told(
    MovingDigits(),
    Autoencode(VideoVAE(width=8), Adam(learning_rate=1e-3)),
    (Futures(),),
    ("--data.videos=8", "--task.model.summary_dim=4", "--evaluators.0.draws=2"),
  )


def augmented() -> Experiment:
  """A classifier of ten images a digit, and a hundred of each by a conditional VAE that had no more (H5.4.5).

  --data.generator=None without them; --data.augment.0.pixels=2 moves the images; see `few_labels`.
  """
  return Experiment(
    data=WithGenerated(
      "mnist_5k",
      batch_size=32,
      size=32,
      scale="standard",
      augment=(Shift(0),),
      per_class=11,  # one of which validates
      generator="vae.conditional",
      generator_flags="--steps=2000",
      added=tuple("0123456789"),
      added_images=100,
    ),
    task=Classify(
      LeNet5Modern(), AdamW(learning_rate=2e-3, schedule="cosine", warmup_steps=50, weight_decay=0.05)
    ),
    evaluators=(ConfusionMatrix(),),
    best=Best(None),  # ten images are left to validate on
    steps=500,
    eval_every=250,
    small=(
      *("--data.folds=50", "--data.validation=0.3", "--data.batch_size=8", "--steps=2"),
      *("--task.optimizer.warmup_steps=0", "--evaluators.0.pictures=2", "--data.generator=copies"),
      "--data.added_images=3",
    ),
  )


def semi_supervised() -> Experiment:
  """What ten labels of each digit say of the latents of a VAE that saw all images without one (H5.4.4)."""
  return _on_digits(
    Autoencode(MLPVAE(), Adam(learning_rate=1e-3)),
    ("--evaluators.0.per_class=2", "--task.model.hidden_dim=8"),
    (LinearProbe(per_class=10),),
    steps=3_000,
  )


def few_labels() -> Study:
  """Ten labelled images a digit: what a VAE adds to them, as images or as latents (H5.4.5).

  Result: accuracy 0.823 ± 0.058 (95 % interval, three seeds), with 100 generated images of each digit 0.693 ±
  0.087: they harm; with shifts 0.895 ± 0.021, with both 0.789 ± 0.046; a linear probe of the latents of a VAE
  of all images 0.717 ± 0.020, of principal components 0.717 ± 0.056; 5 min on one core of a busy 2-core
  AMD EPYC;
  `dlcourse study vae.few_labels`.
  """
  none, moved = "--data.generator=None", "--data.augment.0.pixels=2"
  arms = {
    "labels": ("vae.augmented", none),
    "generated": ("vae.augmented",),
    "shifts": ("vae.augmented", none, moved),
    "shifts and generated": ("vae.augmented", moved),
    "latents": ("vae.semi_supervised",),
  }
  return Study(
    runs=tuple(
      Run(label, name, (*flags, f"--data.split_seed={seed}"), seed)
      for label, (name, *flags) in arms.items()
      for seed in range(3)
    ),
    summarise=mean_by_label("accuracy", "probe_accuracy", "pca_accuracy"),
  )
