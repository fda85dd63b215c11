"""A conditional VAE of videos: the frames to come, given those that were seen (H5.4.2).

As in stochastic variational video prediction (Babaeizadeh et al., 2018, arXiv:1710.11252) latents say what will
happen, and pixels of a frame that was seen move (Finn et al., 2016, arXiv:1605.07157): here all of the last
one by the same way, so that it is for one thing on black. Convolutions over space and time are taken apart into
one over each frame and one along the frames (R(2+1)D: Tran et al., 2018, arXiv:1711.11248).

Frames are the channels of an image. Shapes: B batch, T frames, Z latent, S side of a frame, s side of a map,
F filters, H summary.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import check_at_least
from dlcourse.models.conditional_vae import SourceVAE, flat
from dlcourse.models.convolution import Conv
from dlcourse.models.dcgan import start_and_doublings
from dlcourse.models.dense import Dense

_LEAST = 1e-4  # brightness, so that logits are finite


class SpaceTime(nn.Module):
  """A convolution of each frame that halves its side, then one along three frames, each before a swish."""

  filters: int
  """F."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, T, s, s, C] -> [B, T, s / 2, s / 2, F]."""
    batch, frames, side, _, channels = x.shape
    x = Conv(self.filters, (4, 4), (2, 2), padding="SAME", name="space")(x.reshape(-1, side, side, channels))
    side = x.shape[1]
    x = nn.swish(x).reshape(batch, frames, side * side, self.filters)
    x = Conv(self.filters, (3, 1), padding="SAME", name="time")(x)
    return nn.swish(x).reshape(batch, frames, side, side, self.filters)


class VideoVAE(SourceVAE):
  """Future frames [B, S, S, T] as the last one that was seen, moved by ways that a latent decides.

  Outputs are logits of the pixels, of a Bernoulli likelihood. What is known of the past is one summary.
  """

  summary_dim: int = 128
  """H, numbers by which the past is known, and hidden ones by which the ways are decided."""

  def __post_init__(self) -> None:
    """Refuses a past of which nothing is known."""
    check_at_least(1, {"task.model.summary_dim": self.summary_dim})
    super().__post_init__()

  def setup(self) -> None:
    """Layers are shared by `encode`, `decode`, `expect`, `draw` and `__call__`."""
    super().setup()
    self.side, _, self.frames = self.image_shape
    filters = [self.width * 2**i for i in range(start_and_doublings(self.side)[1])]
    self.of_past = [SpaceTime(f) for f in filters]
    self.of_both = [SpaceTime(f) for f in filters]
    self.summary = Dense(self.summary_dim)
    self.hidden = Dense(self.summary_dim)
    self.ways = Dense(self.frames * 2 * (2 * self.side - 1))

  def look(self, source: jax.Array) -> list[jax.Array]:
    """source [B, S, S, past] -> its last frame [B, S, S], and the summary [B, H]."""
    return [source[..., -1], nn.swish(self.summary(_seen(self.of_past, source)))]

  def features(self, x: jax.Array, source: jax.Array) -> jax.Array:
    """x [B, S, S, T], source [B, S, S, past] -> the last maps of the whole video, flat, [B, F']."""
    return _seen(self.of_both, jnp.concatenate([source, x], axis=-1))

  def paint(self, z: jax.Array, looked: list[jax.Array]) -> jax.Array:
    """z [B, Z], the last frame and the summary -> logits of the pixels [B, S, S, T]."""
    last, summary = looked
    ways = self.ways(nn.swish(self.hidden(jnp.concatenate([z, summary], axis=-1))))
    shares = nn.softmax(ways.reshape(len(z), self.frames, 2, 2 * self.side - 1))
    means = moved(last, shares).clip(_LEAST, 1 - _LEAST)
    return jnp.log(means) - jnp.log1p(-means)


def moved(frame: jax.Array, shares: jax.Array) -> jax.Array:
  """Means of frames whose distance from a known one is uncertain; what leaves the frame is lost.

  Args:
    frame: [B, S, S].
    shares: probabilities of moving by 1 - S to S - 1 pixels, along rows' axis and columns' axis, which are
      independent, [B, T, 2, 2 S - 1].

  Returns:
    [B, S, S, T].
  """
  side = frame.shape[1]
  distance = jnp.arange(side)[:, None] - jnp.arange(side) + side - 1  # [to, from]
  down, right = (shares[:, :, axis][..., distance] for axis in range(2))  # [B, T, to, from]
  return jnp.einsum("btij,bjk,btlk->bilt", down, frame, right)


def _seen(layers: list[SpaceTime], frames: jax.Array) -> jax.Array:
  """[B, S, S, T] -> the last maps, flat, [B, F']."""
  x = jnp.moveaxis(frames, -1, 1)[..., None]  # [B, T, S, S, 1]
  for layer in layers:
    x = layer(x)  # [B, T, S/2, S/2, F]
  return flat(x)
