"""Autoencoders and variational autoencoders (Kingma & Welling, 2014; H5.2), and what every one of them offers.

A model of the chapter is a Linen module with these methods; `x` is [B, *image_shape] in [0, 1], and outputs are
what a `dlcourse.losses.Likelihood` reads. `label` is what encoder and decoder are told of each image: by the
model's `told` its "label" [B], its "source" [B, h, w, c], or, where that is None or missing, nothing:

- `__call__(x, key, label, train) -> Inference`;
- `encode(x, label) -> [B, Z]`: codes of the means, of all groups after one another;
- `decode(codes [B, Z], label) -> outputs`;
- `draw(key, temperature [B], label) -> outputs` of latents from the prior, where it has latents; the
  temperature is a factor of their deviation;
- `expect(source) -> [B, Z]`, where it is told a source: codes of the prior's means.

Further losses [B] are sown into the collection "penalties", under the names that they are reported by; other
collections that `train=True` changes are kept. Shapes: B batch, D pixels, H hidden, Z latent.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.errors import check_at_least
from dlcourse.models.dcgan import class_vectors
from dlcourse.models.layers import Activation, activate
from dlcourse.theory.gaussians import Gaussian, sample, standard_normal

PENALTIES = "penalties"
Posterior = Literal["diagonal", "full", "none", "rectified"]


class Latent(NamedTuple):
  """One group of latents of a batch.

  Attributes:
    z: [B, ...], drawn from the posterior.
    posterior: q(z | x), given the groups before.
    prior: p(z), given the groups before, and the source where there is one; else N(0, I) of the first.
  """

  z: jax.Array
  posterior: Gaussian
  prior: Gaussian


class Inference(NamedTuple):
  """What a model makes of a batch.

  Attributes:
    outputs: [B, *image_shape] of the decoder: logits, or means.
    latents: every group; none in a deterministic autoencoder.
    code: [B, Z], what `decode` makes the outputs from.
  """

  outputs: jax.Array
  latents: tuple[Latent, ...]
  code: jax.Array


class PixelScale(nn.Module):
  """The logarithm of the one scale of all pixels, where the likelihood has one."""

  first: float = 0.1
  """The scale before training, where white is 1."""

  @nn.compact
  def __call__(self) -> jax.Array:
    """[]."""
    return self.param("log_scale", nn.initializers.constant(np.log(self.first)), ())


class FlatAutoencoder(nn.Module):
  """What autoencoders with one flat group of latents share: the posterior, the draw and the prior N(0, I).

  A subclass builds its layers in `setup`, and gives `features(x, label) -> [B, H]` and `decode`.
  """

  latent_dim: int = 20
  """Z, dimensions of the latent."""
  posterior: Posterior = "diagonal"
  """Covariance of the Gaussian; none: a code without a distribution; rectified: the same, never negative."""
  conditional: bool = False
  """Tell encoder and decoder the class, one-hot (Sohn et al., 2015; Kingma et al., 2014, model M2)."""
  num_classes: int | None = None
  """K; None: as many as the data has."""
  image_shape: tuple[int, ...] | None = None
  """(height, width, channels), or (dimensions,) of points; None: that of the data."""

  def __post_init__(self) -> None:
    """Refuses a latent without a dimension, and a covariance of only one."""
    check_at_least(2 if self.posterior == "full" else 1, {"task.model.latent_dim": self.latent_dim})
    super().__post_init__()

  @property
  def told(self) -> str | None:
    """What entry of a batch encoder and decoder are told."""
    return "label" if self.conditional else None

  def setup(self) -> None:
    """The heads of the posterior; a full covariance starts out diagonal."""
    self.posterior_mean = nn.Dense(self.latent_dim)
    if self.posterior in ("diagonal", "full"):
      self.posterior_log_var = nn.Dense(self.latent_dim)
    if self.posterior == "full":
      below = self.latent_dim * (self.latent_dim - 1) // 2
      self.posterior_lower = nn.Dense(below, kernel_init=nn.initializers.zeros)

  def features(self, x: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """x [B, *image_shape] -> what the posterior is read from, [B, H]."""
    raise NotImplementedError

  def decode(self, z: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """z [B, Z] -> logits or means of the pixels [B, *image_shape]."""
    raise NotImplementedError

  def encode(self, x: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """x [B, *image_shape] -> the posterior's mean, or the code, [B, Z]."""
    return self._code(self.features(x, label))

  def draw(self, key: jax.Array, temperature: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """Logits or means [B, *image_shape] of latents from N(0, t² I), t being the temperature [B]."""
    z = jax.random.normal(key, (len(temperature), self.latent_dim))
    return self.decode(temperature[:, None] * z, label)

  def __call__(
    self, x: jax.Array, key: jax.Array, label: jax.Array | None = None, train: bool = False
  ) -> Inference:
    """x [B, *image_shape] -> outputs of z = mean + L ε (H5.2.3), whether it trains or not."""
    h = self.features(x, label)
    if self.posterior in ("none", "rectified"):
      code = self._code(h)
      return Inference(self.decode(code, label), (), code)
    lower = self._lower(h) if self.posterior == "full" else None
    posterior = Gaussian(self._code(h), self.posterior_log_var(h), lower)
    z = sample(posterior, key)
    return Inference(self.decode(z, label), (Latent(z, posterior, standard_normal(z)),), z)

  def beside_class(self, x: jax.Array, label: jax.Array | None) -> jax.Array:
    """x [B, F] -> [B, F + K] with the class, one-hot, where the model is conditional; else x."""
    if not self.conditional:
      return x
    return jnp.concatenate([x, class_vectors(label, self.num_classes)], axis=-1)

  def _code(self, h: jax.Array) -> jax.Array:
    mean = self.posterior_mean(h)
    return nn.relu(mean) if self.posterior == "rectified" else mean

  def _lower(self, h: jax.Array) -> jax.Array:
    """[B, Z, Z], row by row below the diagonal."""
    rows, columns = np.tril_indices(self.latent_dim, -1)
    empty = jnp.zeros((len(h), self.latent_dim, self.latent_dim), h.dtype)
    return empty.at[:, rows, columns].set(self.posterior_lower(h))


class MLPVAE(FlatAutoencoder):
  """One hidden layer each way (appendix C.1 and C.2)."""

  hidden_dim: int = 400
  """H, width of the hidden layers."""
  activation: Activation = "relu"
  """After the hidden layers (tanh in the paper)."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    check_at_least(1, {"task.model.hidden_dim": self.hidden_dim})
    super().__post_init__()

  def setup(self) -> None:
    """Layers are shared by `encode`, `decode` and `__call__`."""
    super().setup()
    self.encoder_hidden = nn.Dense(self.hidden_dim)
    self.decoder_hidden = nn.Dense(self.hidden_dim)
    self.pixels = nn.Dense(int(np.prod(self.image_shape)))

  def features(self, x: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """x [B, *image_shape] -> the hidden layer [B, H]."""
    seen = self.beside_class(x.reshape(x.shape[0], -1), label)
    return activate(self.activation, self.encoder_hidden(seen))

  def decode(self, z: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """z [B, Z] -> logits or means of the pixels [B, *image_shape]."""
    h = activate(self.activation, self.decoder_hidden(self.beside_class(z, label)))  # [B, H]
    return self.pixels(h).reshape(z.shape[0], *self.image_shape)
