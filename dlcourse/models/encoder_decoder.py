"""The Transformer of 2017 and T5: an encoder reads a text, a decoder writes another (H3.12.4).

It is asked as `dlcourse.models.seq2seq.EncoderDecoder` is: for a whole given answer (`decode`), and for one
token after another (`step`), with a cache of keys and values.

Shapes: B batch, S places of the source, T tokens of the answer, M model width, V vocabulary.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least, check_below_one
from dlcourse.models.attention import Memory, Seen, further, visible
from dlcourse.models.dense import Dense, Embed
from dlcourse.models.positions import Positions
from dlcourse.models.seq2seq import Source
from dlcourse.models.sequence import counted
from dlcourse.models.transformer import Layer, Placed, Stack, check_attention, empty_memory


class TransformerEncoderDecoder(nn.Module):
  """Two stacks, and one embedding for both texts and the output (Vaswani et al., 2017; Raffel et al., 2020)."""

  layer: Layer = Layer()
  """How a layer is built."""
  num_layers: int = 2
  """Layers of the encoder."""
  num_decoder_layers: int | None = None
  """Layers of the decoder; None: as many."""
  positions: Positions = "sinusoidal"
  """How places are told apart: none, sinusoidal, learned, rotary or relative (T5)."""
  max_length: int = 512
  """Places at most, of learned positions."""
  scale: Literal["embedding", "logits", "none"] = "embedding"
  """Embeddings times sqrt(hidden_dim) (2017, section 3.4), or logits divided by it (T5)."""
  tied: bool = True
  """The output layer uses the embedding's weights."""
  dropout: float = 0.0
  """Probability that an entry of what goes into a stack, or of an encoder's output, is dropped in training."""
  vocab_size: int | None = None
  """Number of tokens; None: as many as the data has."""

  def __post_init__(self) -> None:
    """Refuses no layer at all, and a linear attention, which keeps no keys for the decoder."""
    layers = {"num_layers": self.num_layers, "max_length": self.max_length}
    check_at_least(1, {f"task.model.{name}": size for name, size in layers.items()})
    if self.num_decoder_layers is not None:
      check_at_least(1, {"task.model.num_decoder_layers": self.num_decoder_layers})
    check_below_one({"task.model.dropout": self.dropout})
    check_attention(self.layer, self.positions, causal=True)
    if self.layer.attention != "softmax":
      raise UserError(f"attention={self.layer.attention} keeps no keys: a decoder needs softmax")
    super().__post_init__()

  @property
  def decoder_layers(self) -> int:
    """Layers of the decoder."""
    return self.num_decoder_layers or self.num_layers

  def setup(self) -> None:
    """The embedding, and positions and layers of both sides."""
    whole = self.scale == "logits" or (self.scale == "none" and not self.tied)  # as both versions of T5 begin
    initial = nn.initializers.normal(1.0 if whole else self.layer.hidden_dim**-0.5)
    self.embed = Embed(self.vocab_size, self.layer.hidden_dim, embedding_init=initial)
    self.encoder_placed = Placed(self.layer, self.positions, True, self.max_length)
    self.encoder = Stack(self.layer, self.num_layers)
    self.decoder_placed = Placed(self.layer, self.positions, False, self.max_length)
    self.decoder = Stack(self.layer, self.decoder_layers, causal=True, across=True)
    self.drop = nn.Dropout(self.dropout)
    if not self.tied:
      self.output = Dense(self.vocab_size, use_bias=False)

  def __call__(
    self, tokens: jax.Array, inputs: jax.Array, lengths: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """tokens [B, T], inputs [B, S] int, lengths [B] -> see `decode`."""
    return self.decode(self.encode(inputs, lengths, train), None, tokens, train)

  def encode(self, inputs: jax.Array, lengths: jax.Array | None = None, train: bool = False) -> Source:
    """inputs [B, S] int, lengths [B] -> the source, with what every layer of the decoder sees of it.

    Raises:
      UserError: there are more places than learned positions.
    """
    self._check_length(inputs.shape[1])
    mask, keys = visible(inputs.shape[1], lengths)
    places = jnp.arange(inputs.shape[1])
    x, seen = self.encoder_placed(self._embedded(inputs), Seen(mask, keys), places[None], places)
    values, _ = self.encoder(self.drop(x, deterministic=not train), seen, train=train)
    values = self.drop(values, deterministic=not train)
    there = counted(lengths, inputs)[..., 0]
    return Source(values, there, values.mean(axis=1), self.decoder.look_at(values))

  def start(self, source: Source, steps: int) -> Memory:
    """Room for an answer of as many tokens."""
    self._check_length(steps)
    return empty_memory(self.layer, self.decoder_layers, source.values.shape[0], steps)

  def decode(
    self, source: Source, state: Memory | None, tokens: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """A whole answer at once: each token is given those before it.

    Args:
      source: from `encode`.
      state: of no concern: the answer is given from its start.
      tokens: [B, T] int, <bos> y1 y2 …
      train: whether to drop out.

    Returns:
      logits [B, T, V] of y1 y2 …, and weights [B, T, S] of the places that the last layer looked at, a mean
      over its heads.
    """
    del state
    self._check_length(tokens.shape[1])
    mask, _ = visible(tokens.shape[1], causal=True)
    places = jnp.arange(tokens.shape[1])
    x, seen = self.decoder_placed(self._embedded(tokens), Seen(mask), places[None], places)
    x = self.drop(x, deterministic=not train)
    x, weights = self.decoder(x, seen, source.keys, source.mask, train)
    return self._logits(self.drop(x, deterministic=not train)), weights

  def step(self, source: Source, state: Memory, token: jax.Array) -> tuple[Memory, jax.Array, jax.Array]:
    """One token: source, state, token [B] int -> state, logits [B, V] of the next one, weights [B, S]."""
    x, seen = self.decoder_placed(self._embedded(token[:, None]), *further(state, 1))
    x, cache, weights = self.decoder.go_on(x, seen, state.cache, source.keys, source.mask)
    return Memory(cache, state.time + 1), self._logits(x)[:, 0], weights[:, 0]

  def _check_length(self, steps: int) -> None:
    if steps > self.max_length and self.positions == "learned":
      raise UserError(f"{steps} places are more than --task.model.max_length={self.max_length}")

  def _embedded(self, tokens: jax.Array) -> jax.Array:
    x = self.embed(tokens)
    return x * self.layer.hidden_dim**0.5 if self.scale == "embedding" else x

  def _logits(self, x: jax.Array) -> jax.Array:
    if self.scale == "logits":
      x *= self.layer.hidden_dim**-0.5
    return self.embed.attend(x) if self.tied else self.output(x)
