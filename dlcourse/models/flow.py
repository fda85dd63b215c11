"""A normalizing flow of affine couplings (RealNVP: Dinh et al., 2017, arXiv:1605.08803; H4.2.2).

An invertible network from images to latents of N(0, I), so that the likelihood is exact:
log p(x) = log N(f(x)) + log |det df/dx|. Channels are mixed by learnt matrices, as in Glow (Kingma & Dhariwal,
2018, arXiv:1807.03039, section 3.2); no latents are factored out on the way. Shapes: B batch, S side of the
image, C its channels; h x w x c the maps of a step.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlcourse.errors import UserError, check_at_least
from dlcourse.models.convolution import Conv
from dlcourse.theory.gaussians import log_prob, standard_normal

LEVELS = 256
REACH = 2.0  # of the logarithm of a coupling's scale
MARGIN = 0.05  # of the logit, so that black and white stay finite (section 4.1)


class Step(nn.Module):
  """Scale and shift each channel, mix the channels, then shift and scale half of them as the others say."""

  width: int
  """Filters of the two hidden layers that see the other half."""
  channels: int
  """c, at least 2."""

  def setup(self) -> None:
    """The layers; at the start they do nothing but mix the channels."""
    self.log_scale = self.param("log_scale", nn.initializers.zeros, (self.channels,))
    self.shift = self.param("shift", nn.initializers.zeros, (self.channels,))
    self.mix = self.param("mix", nn.initializers.orthogonal(), (self.channels, self.channels))
    self.hidden = [Conv(self.width, (3, 3)), Conv(self.width, (1, 1))]
    changed = self.channels - self.channels // 2
    self.affine = Conv(2 * changed, (3, 3), kernel_init=nn.initializers.zeros)

  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x [B, h, w, c] -> the same shape, and log |det| [B]."""
    places = x.shape[1] * x.shape[2]
    x = (x * jnp.exp(self.log_scale) + self.shift) @ self.mix
    seen, changed = jnp.split(x, [self.channels // 2], axis=-1)
    log_scale, shift = self._affine(seen)
    changed = (changed + shift) * jnp.exp(log_scale)
    of_all = places * (self.log_scale.sum() + jnp.linalg.slogdet(self.mix)[1])
    return jnp.concatenate([seen, changed], axis=-1), of_all + log_scale.sum(axis=(1, 2, 3))

  def inverse(self, y: jax.Array) -> jax.Array:
    """What `__call__` makes y [B, h, w, c] of."""
    seen, changed = jnp.split(y, [self.channels // 2], axis=-1)
    log_scale, shift = self._affine(seen)
    x = jnp.concatenate([seen, changed * jnp.exp(-log_scale) - shift], axis=-1)
    return (x @ jnp.linalg.inv(self.mix) - self.shift) * jnp.exp(-self.log_scale)

  def _affine(self, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(log scale, bounded, and shift) of the changed half: else inverses of unlikely latents overflow."""
    for layer in self.hidden:
      seen = nn.relu(layer(seen))
    scale, shift = jnp.split(self.affine(seen), 2, axis=-1)
    return REACH * jnp.tanh(scale / REACH), shift


class Flow(nn.Module):
  """Pixels of 256 levels, made continuous by noise, to latents and back at a half and a quarter of the side."""

  width: int = 64
  """Filters of the hidden layers."""
  depth: int = 6
  """Steps at each of the two resolutions."""
  image_shape: tuple[int, int, int] | None = None
  """(S, S, C); None: that of the data."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit, and a side that cannot be halved twice."""
    check_at_least(1, {"task.model.width": self.width, "task.model.depth": self.depth})
    if self.image_shape and any(side % 4 for side in self.image_shape[:2]):
      raise UserError(f"a flow halves the side twice, and images have {self.image_shape}; set --data.size=28")
    super().__post_init__()

  def setup(self) -> None:
    """`depth` steps after each halving, which makes four channels of one."""
    channels = self.image_shape[-1]
    self.scales = [[Step(self.width, channels * 4 ** (i + 1)) for _ in range(self.depth)] for i in range(2)]

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x [B, S, S, C] in [0, 1] -> nats [B], a bound of -log p of its levels by one draw of the noise.

    Noise of [0, 1) is added to the levels (section 4.1; Theis et al., 2016, arXiv:1511.01844, section 3.1), in
    training from the stream "dropout", else the same each time.
    """
    key = self.make_rng("dropout") if train else jax.random.key(0)
    u = (jnp.rint(x * (LEVELS - 1)) + jax.random.uniform(key, x.shape)) / LEVELS
    z, log_det = self._latents(u)
    size = np.prod(self.image_shape)
    return size * np.log(LEVELS) - log_det - log_prob(standard_normal(z), z)

  def encode(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, C] in [0, 1] -> latents [B, S * S * C] of the middles of its levels."""
    return self._latents((jnp.rint(x * (LEVELS - 1)) + 0.5) / LEVELS)[0]

  def decode(self, z: jax.Array) -> jax.Array:
    """Latents [B, S * S * C] -> images [B, S, S, C] in [0, 1]."""
    height, width, channels = self.image_shape
    x = z.reshape(len(z), height // 4, width // 4, channels * 16)
    for steps in reversed(self.scales):
      for step in reversed(steps):
        x = step.inverse(x)
      x = _larger(x)
    u = (jax.nn.sigmoid(x) - MARGIN) / (1 - 2 * MARGIN)
    return jnp.clip(jnp.floor(u * LEVELS), 0, LEVELS - 1) / (LEVELS - 1)

  def draw(self, key: jax.Array, temperature: jax.Array) -> jax.Array:
    """Images [N, S, S, C] in [0, 1] of latents from N(0, t² I), t being the temperature [N]."""
    z = jax.random.normal(key, (len(temperature), int(np.prod(self.image_shape))))
    return self.decode(temperature[:, None] * z)

  def _latents(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """u [B, S, S, C] in [0, 1] -> z [B, S * S * C], log |dz/du| [B]."""
    share = MARGIN + (1 - 2 * MARGIN) * u
    x = jnp.log(share) - jnp.log1p(-share)
    slope = np.log(1 - 2 * MARGIN) - jnp.log(share) - jnp.log1p(-share)
    log_det = slope.sum(axis=(1, 2, 3))
    for steps in self.scales:
      x = _smaller(x)
      for step in steps:
        x, more = step(x)
        log_det += more
    return x.reshape(len(x), -1), log_det


def _smaller(x: jax.Array) -> jax.Array:
  """[B, 2h, 2w, c] -> [B, h, w, 4c]: each square of four pixels becomes one (section 3.6)."""
  batch, height, width, channels = x.shape
  squares = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  return squares.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)


def _larger(x: jax.Array) -> jax.Array:
  """The inverse of `_smaller`."""
  batch, height, width, channels = x.shape
  squares = x.reshape(batch, height, width, 2, 2, channels // 4)
  return squares.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)
