"""Claims of chapter 4: the game of adversarial networks, what steadies it, and how samples are judged."""

import math

import numpy as np

from dlcourse.handbook.claim import Claim, Finding
from dlcourse.handbook.measuring import gap, published, recorded, rows_by, study_source
from dlcourse.theory import divergences, sample_quality

_GRID = np.linspace(-12, 12, 4801)
_WIDTH = float(_GRID[1] - _GRID[0])


def _normals() -> tuple[np.ndarray, np.ndarray]:
  return divergences.normal(_GRID, 0.0, 1.0), divergences.normal(_GRID, 1.5, 1.3)


def _optimal() -> Finding:
  p, q = _normals()
  best = divergences.optimal_discriminator(p, q)
  values = [
    divergences.value_of_game(p, q, np.clip(best + by, 1e-9, 1 - 1e-9), _WIDTH) for by in (0.0, 0.05, -0.05)
  ]
  value = f"V of two normals: {values[0]:.4f} with p / (p + q), "
  value += f"{values[1]:.4f} and {values[2]:.4f} with 0.05 more or less"
  return Finding(value, values[0] > max(values[1:]), "theory.divergences")


def _jensen_shannon() -> Finding:
  p, q = _normals()
  game = divergences.value_of_game(p, q, divergences.optimal_discriminator(p, q), _WIDTH)
  difference = abs(game - (2 * divergences.jensen_shannon(p, q, _WIDTH) - math.log(4)))
  return Finding(
    f"V(D*) - (2 JS - log 4) = {difference:.1g} for two normals", difference < 1e-9, "theory.divergences"
  )


def _equilibrium() -> Finding:
  p, _ = _normals()
  best = divergences.optimal_discriminator(p, p)
  game = divergences.value_of_game(p, p, best, _WIDTH)
  value = f"for equal densities D* is 1/2 to {gap(best, 0.5):.1g}, V(D*) = {game:.4f} = -log 4"
  return Finding(value, gap(best, 0.5) < 1e-12 and abs(game + math.log(4)) < 1e-6, "theory.divergences")


def _vanishing() -> Finding:
  sure = 1e-4  # D(G(z)) of a discriminator that is nearly certain; slopes are by its logit
  value = f"where D(G(z)) = {sure:g}, log(1 - D) has the slope {-sure:g}, "
  value += f"and -log D, which trainings use, {sure - 1:.4f}"
  return Finding(value, sure < 1e-3, "d log(1 - σ(l)) / dl = -σ(l); Goodfellow et al., 2014, section 3")


def _modes(*runs: str) -> tuple[list[float], str]:
  rows = rows_by(recorded("gan.mode_collapse")[0])
  return [float(rows[run]["modes"]) for run in runs], study_source("gan.mode_collapse", rows[runs[0]])


def _collapse() -> Finding:
  (plain,), source = _modes("plain")
  return Finding(f"of 8 Gaussians on a ring {plain:g} are found, in the mean", plain < 4, source)


def _steadier(name: str, run: str) -> Finding:
  (plain, steady), source = _modes("plain", run)
  return Finding(f"modes of 8 on a ring: {steady:g} with {name}, {plain:g} without", steady > plain + 2, source)


def _penalty_history() -> Finding:
  (clipped, penalised), source = _modes("Wasserstein, clipping", "Wasserstein, penalty")
  value = f"it came after: weights were clipped at first; modes of 8 on a ring {clipped:g} with clipping, "
  return Finding(
    f"{value}{penalised:g} with the penalty", False, f"Arjovsky et al., 2017; Gulrajani et al., 2017; {source}"
  )


def _smoothing() -> Finding:
  p, q = _normals()
  best = 0.9 * divergences.optimal_discriminator(p, q)
  value = f"the best discriminator becomes 0.9 p / (p + q), at most {best.max():.2f}"
  return Finding(value, bool(best.max() <= 0.9), "theory.divergences; Goodfellow, 2016, section 4.2")


def _wasserstein() -> Finding:
  grid = np.linspace(-1, 10, 11001)
  width = float(grid[1] - grid[0])
  rows = {}
  for apart in (2.0, 4.0, 8.0):
    p, q = divergences.uniform(grid, 0.0), divergences.uniform(grid, apart)
    rows[apart] = divergences.jensen_shannon(p, q, width), divergences.wasserstein(p, q, width)
  value = "; ".join(f"{apart:g} apart: JS {js:.3f}, W {w:.2f}" for apart, (js, w) in rows.items())
  found = list(rows.values())
  holds = abs(found[0][0] - found[-1][0]) < 1e-3 and found[0][1] < found[1][1] < found[2][1]
  return Finding(f"two uniforms that do not meet, {value}", holds, "theory.divergences; Arjovsky et al., 2017")


def _inception() -> Finding:
  sure, vague = np.tile(np.eye(10), (50, 1)), np.full((500, 10), 0.1)
  one = np.tile(np.eye(10)[:1], (500, 1))
  scores = [sample_quality.inception_score(p, 1)[0] for p in (sure, one, vague)]
  value = f"sure of ten classes {scores[0]:.2f}, sure of one alone {scores[1]:.2f}, unsure {scores[2]:.2f}"
  return Finding(value, scores[0] > 9.9 and max(scores[1:]) < 1.1, "theory.sample_quality")


def _frechet() -> Finding:
  found = sample_quality.frechet_distance(
    np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[1.0]])
  )
  value = f"of N(1, 2²) and N(3, 1²): {found:.6f}, by hand (1 - 3)² + (2 - 1)² = 5"
  return Finding(value, abs(found - 5) < 1e-6, "theory.sample_quality")


def _precision_recall() -> Finding:
  rng = np.random.default_rng(0)
  both = np.concatenate([rng.normal(0, 1, (200, 4)), rng.normal(20, 1, (200, 4))])
  found = sample_quality.precision_recall(both, rng.normal(0, 1, (400, 4)))
  value = f"samples of one of two clusters: precision {found.fidelity:.2f}, recall {found.diversity:.2f}"
  return Finding(value, found.fidelity > 0.8 and found.diversity < 0.55, "theory.sample_quality")


def _families(column: str, *runs: str) -> tuple[list[float], str]:
  rows = rows_by(recorded("generative.families")[0])
  return [float(rows[run][column]) for run in runs], study_source("generative.families", rows[runs[0]])


def _blurry() -> Finding:
  (vae, gan), source = _families("sharpness", "variational", "adversarial")
  return Finding(f"sharpness of samples over that of digits: VAE {vae:g}, GAN {gan:g}", vae < 0.8 < gan, source)


def _fast() -> Finding:
  (gan, autoregressive), source = _families("seconds_per_100", "adversarial", "pixel_cnn")
  return Finding(
    f"seconds for 100 digits: GAN {gan:g}, PixelCNN {autoregressive:g}", gan < autoregressive, source
  )


CLAIMS = (
  Claim("blurry", "4.2.2", "Samples of a VAE can be blurry.", _blurry, "confirmed"),
  Claim("fast", "4.2.2", "GANs generate at once, unlike autoregressive models.", _fast, "confirmed"),
  Claim(
    "critics",
    "4.3.2",
    "A discriminator outputs a probability, in [0, 1].",
    published(
      "the critic of a Wasserstein GAN has no sigmoid: any real number",
      False,
      "Arjovsky et al., 2017, section 3",
    ),
    "corrected",
    "That of the first GAN does; critics of Wasserstein, hinge and least-squares games do not.",
  ),
  Claim("optimal", "4.4.2", "The optimal discriminator is p_data / (p_data + p_g).", _optimal, "confirmed"),
  Claim(
    "jensen_shannon",
    "4.4.2",
    "With it the game is the Jensen-Shannon divergence.",
    _jensen_shannon,
    "confirmed",
  ),
  Claim("equilibrium", "4.4.3", "At the equilibrium p_g = p_data and D(x) = 1/2.", _equilibrium, "confirmed"),
  Claim("collapse", "4.5.1", "Mode collapse: a generator makes a few outputs only.", _collapse, "confirmed"),
  Claim(
    "saturating",
    "4.5.2",
    "The gradient of log(1 - D(G(z))) vanishes when D is accurate.",
    _vanishing,
    "confirmed",
  ),
  Claim(
    "feature_matching",
    "4.6.1",
    "Feature matching stabilises training.",
    lambda: _steadier("feature matching", "feature matching"),
    "confirmed",
  ),
  Claim(
    "smoothing",
    "4.6.2",
    "Label smoothing keeps the discriminator from being overconfident.",
    _smoothing,
    "confirmed",
  ),
  Claim(
    "batch_norm_gan",
    "4.6.3",
    "Batch normalization stabilises training.",
    lambda: _steadier("batch norm", "batch norm"),
    "corrected",
    "Not by itself: on the ring it finds no more modes. In DCGAN it is one of several constraints.",
  ),
  Claim(
    "spectral_normalization",
    "4.6.4",
    "Spectral normalization stabilises training.",
    lambda: _steadier("a hinge loss and spectral norms", "hinge, spectral norm"),
    "confirmed",
  ),
  Claim(
    "gradient_penalty",
    "4.6.5",
    "The gradient penalty was introduced with Wasserstein GANs.",
    _penalty_history,
    "corrected",
    "The first Wasserstein GAN clips its weights; the penalty replaced that.",
  ),
  Claim(
    "wasserstein",
    "4.7.3",
    "The Wasserstein distance gives more informative gradients.",
    _wasserstein,
    "confirmed",
  ),
  Claim("inception", "4.8.2.1", "The Inception Score measures quality and diversity.", _inception, "confirmed"),
  Claim("frechet", "4.8.2.2", "FID is a distance of feature distributions.", _frechet, "confirmed"),
  Claim(
    "precision_recall", "4.8.2.3", "Precision is fidelity, recall is coverage.", _precision_recall, "confirmed"
  ),
)
