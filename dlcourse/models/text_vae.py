"""A variational autoencoder of sentences (Bowman et al., 2016, arXiv:1511.06349; H5.4.3).

Shapes: B sentences, T tokens of one, E embedding, Z latent, V vocabulary.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import check_at_least, check_below_one
from dlcourse.models.dense import Dense, Embed
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.seq2seq import SequenceEncoder
from dlcourse.models.vae import Inference, Latent
from dlcourse.theory.gaussians import Gaussian, sample, standard_normal


class TextVAE(nn.Module):
  """A sentence to a Gaussian of one vector z, and z to a language model of sentences (section 3).

  The language model is told z twice: its first state is a projection of z, and z stands beside each token that
  it is given.
  """

  encoder: nn.Module = SequenceEncoder()
  """What reads a sentence, in both directions."""
  body: RecurrentStack = RecurrentStack(hidden_dim=256)
  """Of the decoder: what reads the tokens before each."""
  latent_dim: int = 32
  """Z, dimensions of the latent; 0: no encoder, the decoder is a language model by itself."""
  embed_dim: int = 128
  """E, width of the embedding of the decoder's tokens."""
  dropout: float = 0.0
  """Probability that an input of the output layer is dropped in training."""
  vocab_size: int | None = None
  """V; None: as many tokens as the data has."""

  def __post_init__(self) -> None:
    """Refuses embeddings of nothing, and to drop every connection."""
    check_at_least(0, {"task.model.latent_dim": self.latent_dim})
    check_at_least(1, {"task.model.embed_dim": self.embed_dim})
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  def setup(self) -> None:
    """Layers are shared by all methods."""
    self.embed = Embed(self.vocab_size, self.embed_dim)
    self.drop = nn.Dropout(self.dropout)
    self.output = Dense(self.vocab_size)
    if self.latent_dim:
      self.posterior_mean, self.posterior_log_var = nn.Dense(self.latent_dim), nn.Dense(self.latent_dim)
      self.first = nn.Dense(sum(x.shape[1] for x in jax.tree.leaves(self.body.initial_carry(1))))

  def __call__(
    self, targets: jax.Array, lengths: jax.Array, tokens: jax.Array, key: jax.Array, train: bool = False
  ) -> Inference:
    """One draw of z, and the decoder given the right token before each.

    Args:
      targets: [B, T] int, y1 y2 … <eos>.
      lengths: [B] int, with <eos>.
      tokens: [B, T] int, what the decoder is given: <bos> y1 y2 …, of which some may be hidden.
      key: of the draw.
      train: whether to drop out.

    Returns:
      Outputs are logits [B, T, V] of the targets, the code is z.
    """
    posterior = self.posterior(targets, lengths, train)
    z = sample(posterior, key)
    _, logits = self.decode(z, self.start(z), tokens, train)
    return Inference(logits, (Latent(z, posterior, standard_normal(z)),), z)

  def posterior(self, targets: jax.Array, lengths: jax.Array, train: bool = False) -> Gaussian:
    """targets [B, T] int, lengths [B] -> q(z | x), means and logarithms of variances [B, Z]."""
    if not self.latent_dim:
      return standard_normal(jnp.zeros((len(targets), 0)))
    read = self.encoder(targets, lengths, train).summary
    return Gaussian(self.posterior_mean(read), self.posterior_log_var(read))

  def start(self, z: jax.Array) -> Any:
    """z [B, Z] -> the decoder's state before the first token, each part of it in (-1, 1)."""
    carry = self.body.initial_carry(len(z))
    if not self.latent_dim:
      return carry
    parts, tree = jax.tree.flatten(carry)
    return tree.unflatten(jnp.split(jnp.tanh(self.first(z)), len(parts), axis=-1))

  def decode(self, z: jax.Array, carry: Any, tokens: jax.Array, train: bool = False) -> tuple[Any, jax.Array]:
    """z [B, Z], carry, tokens [B, T] int -> carry, logits [B, T, V] of what follows each token."""
    beside = jnp.broadcast_to(z[:, None], (*tokens.shape, z.shape[-1]))
    encoded = self.body(jnp.concatenate([self.embed(tokens), beside], axis=-1), None, carry, train)
    return encoded.carry, self.output(self.drop(encoded.outputs, deterministic=not train))
