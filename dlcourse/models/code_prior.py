"""A language model of the codes of a VQ-VAE, read row by row (van den Oord et al., 2017, section 3.3; H5.3.3).

Shapes: B batch, S side of the image, C its channels, s side of the grid, T = s s places, K codes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.models.sequence import LanguageModel
from dlcourse.models.vq_vae import VQVAE


class CodeLanguageModel(nn.Module):
  """How likely each code is after those before it; symbol K is where a grid begins, and no answer."""

  backbone: VQVAE
  """What reads codes from images, and draws images of them."""
  output: LanguageModel
  """The prior, of K + 1 symbols; where it knows classes, that of the image is told at every place."""

  def __call__(
    self, x: jax.Array, label: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """x [B, S, S, C], label [B] -> logits [B, T, K], and the codes [B, T] that they are of."""
    grid = self.backbone.codes(x)  # [B, s, s]
    if self.is_initializing():  # of which the way to the codes has no part
      self.backbone.decode_codes(grid)
    codes = grid.reshape(len(x), -1)
    return self.predicted(codes, label, train), codes

  def predicted(self, codes: jax.Array, label: jax.Array | None = None, train: bool = False) -> jax.Array:
    """codes [B, T], label [B] -> logits [B, T, K] of each code, by those before it."""
    first = jnp.full((len(codes), 1), self.backbone.num_codes, jnp.int32)
    return self.after((), jnp.concatenate([first, codes[:, :-1]], axis=1), label, train)[1]

  def after(
    self, carry: Any, tokens: jax.Array, label: jax.Array | None = None, train: bool = False
  ) -> tuple[Any, jax.Array]:
    """carry, tokens [B, T], label [B] -> carry, logits [B, T, K] of what follows each."""
    told = None if label is None else jnp.broadcast_to(label[:, None], tokens.shape)
    carry, logits = self.output(carry, tokens, None, told, train)
    return carry, logits[..., : self.backbone.num_codes]

  def images(self, codes: jax.Array) -> jax.Array:
    """codes [B, T] -> logits or means of the pixels [B, S, S, C]."""
    side = self.backbone.side
    return self.backbone.decode_codes(codes.reshape(-1, side, side))
