"""Claims of chapter 5: the bound of variational autoencoders, and what they are worth beside others."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from dlcourse.handbook.claim import Claim, Finding
from dlcourse.handbook.measuring import published, recorded, rows_by, study_source
from dlcourse.theory.gaussians import Gaussian, kl, standard_normal


def _bound() -> Finding:
  """x given z is N(z, 1): then x is N(0, 2), and z given x is N(x / 2, 1 / 2)."""
  x = 1.3

  def elbo(mean, variance):
    fit = -0.5 * (math.log(2 * math.pi) + (x - mean) ** 2 + variance)
    posterior = Gaussian(jnp.array([mean]), jnp.log(jnp.array([variance])))
    return fit - float(kl(posterior, standard_normal(posterior.mean)).sum())

  true = float(norm.logpdf(x, scale=math.sqrt(2)))
  tight, loose = elbo(x / 2, 0.5), elbo(0.0, 1.0)
  value = (
    f"log p(x) = {true:.4f}; bound {tight:.4f} with the true posterior, {loose:.4f} with the prior in its place"
  )
  return Finding(value, abs(tight - true) < 1e-5 and loose < true, "theory.gaussians, a linear Gaussian model")


def _reparameterised() -> Finding:
  """d E[z²] / dμ = 2 μ for z of N(μ, 1), by z = μ + ε and by the logarithm of the density."""
  mean = 1.5
  noise = jax.random.normal(jax.random.key(0), (100_000,))
  through = np.asarray(jax.vmap(jax.grad(lambda m, e: (m + e) ** 2), (None, 0))(mean, noise))
  score = np.asarray((mean + noise) ** 2 * noise)
  value = f"true gradient 3; mean of 100,000 samples {through.mean():.2f}, variance {through.var():.1f}; "
  value += f"without it (by the score) {score.mean():.2f}, variance {score.var():.0f}"
  return Finding(value, abs(through.mean() - 3) < 0.05 and through.var() < score.var(), "jax.grad")


def _compression() -> Finding:
  rows = recorded("vae.rate_distortion")[0]
  code = next(row for row in rows if row["code"] == "49 of 128")
  jpeg = min((row for row in rows if row["code"] == "JPEG"), key=lambda row: abs(row["psnr"] - code["psnr"]))
  value = f"digits: {code['bits/pixel']:.3f} bits a pixel at {code['psnr']:.1f} dB by a VQ-VAE, "
  value += f"{jpeg['bits/pixel']:.3f} at {jpeg['psnr']:.1f} dB by JPEG"
  return Finding(
    value, code["bits/pixel"] < jpeg["bits/pixel"], "study vae.rate_distortion, 1 seed, a 2-core AMD EPYC"
  )


def _augmentation() -> Finding:
  rows = rows_by(recorded("vae.few_labels")[0])
  alone, made, shifts = (rows[name]["accuracy"] for name in ("labels", "generated", "shifts"))
  value = f"accuracy from few labels {alone:g}; with images of a VAE as well {made:g}; "
  value += f"with shifts of a pixel {shifts:g}"
  return Finding(value, made > alone, study_source("vae.few_labels", rows["labels"]))


def _families(column: str) -> tuple[float, float, str]:
  """Of the VAE and of the GAN."""
  rows = rows_by(recorded("generative.families")[0])
  found = (float(rows[name][column]) for name in ("variational", "adversarial"))
  return *found, study_source("generative.families", rows["variational"])


def _quality() -> Finding:
  vae, gan, source = _families("fid/digits@1000")
  return Finding(f"FID of digits, lower is better: VAE {vae:g}, GAN {gan:g}", gan < vae, source)


def _diversity() -> Finding:
  vae, gan, source = _families("recall/digits@1000")
  return Finding(f"recall of digits: VAE {vae:g}, GAN {gan:g}", vae > gan, source)


def _encoding() -> Finding:
  vae, gan, source = _families("encoding_error")
  value = f"error of images that are encoded and made again: GAN, whose latents are sought, {gan:g}, "
  value += f"VAE {vae:g}"
  return Finding(value, gan > 10 * vae, source)


CLAIMS = (
  Claim(
    "vae_history",
    "5.1",
    "VAEs were introduced by Kingma and Welling in 2013.",
    published(
      "arXiv, December 2013; found at the same time by Rezende, Mohamed & Wierstra, January 2014",
      True,
      "arXiv:1312.6114, arXiv:1401.4082",
    ),
    "confirmed",
  ),
  Claim("bound", "5.2.2", "log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z)).", _bound, "confirmed"),
  Claim(
    "reparameterised",
    "5.2.3",
    "z = μ + σ ε lets gradients through the sampling.",
    _reparameterised,
    "confirmed",
  ),
  Claim("compression", "5.4.1", "VAEs compress images at good quality.", _compression, "confirmed"),
  Claim(
    "augmentation",
    "5.4.5",
    "Images of a VAE help where data are scarce.",
    _augmentation,
    "corrected",
    "Not here: a VAE of few images has nothing to add to them, and moving images by a pixel does help.",
  ),
  Claim(
    "quality", "5.4.5", "Samples of a GAN are of higher quality than those of a VAE.", _quality, "confirmed"
  ),
  Claim(
    "diversity",
    "5.4.5",
    "A VAE has the diversity that a GAN lacks.",
    _diversity,
    "corrected",
    "A GAN may collapse, and this one did not: its recall is the higher one.",
  ),
  Claim(
    "encoding",
    "5.4.5",
    "A GAN cannot encode an image.",
    _encoding,
    "corrected",
    "It has no encoder, but its latents can be sought by gradient descent, at some cost.",
  ),
)
