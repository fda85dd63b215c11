"""Encoder and decoder, with and without attention (H3.6.2, H3.11.1; one-to-many from an image: H3.6.2).

An encoder is any module (inputs, lengths, train) -> `Source`. A decoder is asked in two ways that share all
parameters: for a whole given answer (`decode`), and for one token after another (`step`).

Shapes: B batch, S places of the source, T tokens of the answer, F features of a place, A width of a score,
E embedding, H hidden, V vocabulary.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least, check_below_one
from dlcourse.models.cells import Carry, CellName, hidden, make_cell
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.sequence import Frontend, counted

AttentionName = Literal["none", "additive", "dot", "general"]


class Source(NamedTuple):
  """What a decoder knows of its source; a pytree whose leaves have the batch as leading axis.

  Attributes:
    values: [B, S, F], one vector a place.
    mask: [B, S] bool, which places there are.
    summary: [B, F'], one vector for the whole source.
    keys: [B, S, A], what a query is compared with; filled in by the decoder.
  """

  values: jax.Array
  mask: jax.Array
  summary: jax.Array
  keys: jax.Array | None = None


class State(NamedTuple):
  """What a decoder carries from token to token.

  Attributes:
    carries: one a layer.
    readout: [B, H] of the token before.
  """

  carries: tuple[Carry, ...]
  readout: jax.Array


class SequenceEncoder(nn.Module):
  """Reads a sequence with a front end and a recurrent body."""

  body: nn.Module = RecurrentStack(bidirectional=True)
  """What reads through time."""
  front: Frontend = Frontend()
  """What comes before it; its poolings leave fewer places."""

  @nn.compact
  def __call__(self, x: jax.Array, lengths: jax.Array | None = None, train: bool = False) -> Source:
    """x [B, S] int or [B, S, D], lengths [B] -> one place a step."""
    x, lengths = self.front(x, lengths, train)
    encoded = self.body(x, lengths, train=train)
    return Source(encoded.outputs, counted(lengths, x)[..., 0], encoded.final)


class ImageEncoder(nn.Module):
  """Sees an image through convolutions; the places of the last map are the source's (Xu et al., 2015)."""

  filters: tuple[int, ...] = (32, 64, 64)
  """Filters of each 3x3 convolution; each halves the sides."""

  def __post_init__(self) -> None:
    """Refuses to see nothing."""
    if not self.filters:
      raise UserError("--task.model.encoder.filters names at least one convolution, like 32 64")
    check_at_least(1, {"task.model.encoder.filters": min(self.filters)})
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, lengths: jax.Array | None = None, train: bool = False) -> Source:
    """x [B, H, W, C] -> S = H' W' places, row by row; `lengths` and `train` are of no concern."""
    del lengths, train
    for i, filters in enumerate(self.filters):
      x = nn.relu(nn.Conv(filters, (3, 3), strides=(2, 2), name=f"conv_{i}")(x))
    places = x.reshape(x.shape[0], -1, x.shape[-1])  # [B, S, F]
    return Source(places, jnp.ones(places.shape[:2], bool), places.reshape(x.shape[0], -1))


class Attention(nn.Module):
  """Where in the source to look: a softmax over its places of scores of a query.

  additive: vᵀ tanh(W s + U h_j) (Bahdanau et al., 2015, arXiv:1409.0473, appendix A.1.2); dot: sᵀ h_j and
  general: sᵀ W h_j (Luong et al., 2015, arXiv:1508.04025, equation 8).
  """

  kind: Literal["additive", "dot", "general"]
  """How a query is compared with a place."""
  dim: int
  """A, the width of the query."""

  def setup(self) -> None:
    """W, U and v, as far as the kind has them."""
    if self.kind == "additive":
      self.query = nn.Dense(self.dim, use_bias=False)
      self.score = nn.Dense(1, use_bias=False)
    if self.kind != "dot":
      self.key = nn.Dense(self.dim, use_bias=self.kind == "additive")

  def keys(self, values: jax.Array) -> jax.Array:
    """values [B, S, F] -> keys [B, S, A], the same for all queries.

    Raises:
      UserError: a query and a place have no dot product.
    """
    if self.kind == "dot" and values.shape[-1] != self.dim:
      raise UserError(
        f"--task.model.attention=dot compares {values.shape[-1]} features of the encoder with "
        f"--task.model.hidden_dim={self.dim}; make them equal, or choose general"
      )
    return values if self.kind == "dot" else self.key(values)

  def __call__(self, query: jax.Array, source: Source) -> tuple[jax.Array, jax.Array]:
    """query [B, A] -> context [B, F], weights [B, S], which are 0 where there is no place."""
    if self.kind == "additive":
      scores = self.score(jnp.tanh(self.query(query)[:, None] + source.keys))[..., 0]
    else:
      scores = jnp.einsum("ba,bsa->bs", query, source.keys)
    weights = nn.softmax(jnp.where(source.mask, scores, jnp.finfo(scores.dtype).min), axis=-1)  # [B, S]
    return jnp.einsum("bs,bsf->bf", weights, source.values), weights


class EncoderDecoder(nn.Module):
  """A recurrent decoder of what an encoder has read (Sutskever et al., 2014; Cho et al., 2014; H3.11.1).

  The summary of the source, projected, is the decoder's first state; without attention it is all that the
  decoder gets. With attention the readout is r_t = tanh(W_c [c_t, s_t]): additive attention looks with
  s_(t-1) and c_t is an input of the step (Bahdanau et al., 2015); dot and general ones look with s_t, and
  r_(t-1) is an input of the step (Luong et al., 2015, sections 3 and 3.3).
  """

  encoder: nn.Module = SequenceEncoder()
  """What reads the source: a SequenceEncoder or an ImageEncoder."""
  attention: AttentionName = "additive"
  """none, additive (Bahdanau), dot or general (Luong)."""
  cell: CellName = "lstm"
  """Of the decoder: rnn (tanh), rnn_relu, lstm, gru (as in PyTorch and Keras), gru_original (as published)."""
  hidden_dim: int = 128
  """Width of the decoder's layers."""
  num_layers: int = 1
  """Layers of the decoder."""
  embed_dim: int = 64
  """Width of the embedding of an answer's tokens."""
  dropout: float = 0.0
  """Probability that an entry of an embedding or of a readout is dropped in training."""
  vocab_size: int | None = None
  """Number of tokens; None: as many as the data has."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit, no layer at all, and to drop everything."""
    sizes = {name: getattr(self, name) for name in ("hidden_dim", "num_layers", "embed_dim")}
    check_at_least(1, {f"task.model.{name}": size for name, size in sizes.items()})
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  def setup(self) -> None:
    """The decoder's parts; the encoder is a field."""
    self.embed = nn.Embed(self.vocab_size, self.embed_dim)
    self.cells = [make_cell(self.cell, self.hidden_dim) for _ in range(self.num_layers)]
    parts = 2 if self.cell == "lstm" else 1
    self.first = [nn.Dense(parts * self.hidden_dim) for _ in range(self.num_layers)]
    if self.attention != "none":
      self.attend = Attention(self.attention, self.hidden_dim)
      self.combine = nn.Dense(self.hidden_dim, use_bias=False)
    self.drop = nn.Dropout(self.dropout)
    self.output = nn.Dense(self.vocab_size)

  def __call__(
    self,
    tokens: jax.Array,
    inputs: jax.Array,
    lengths: jax.Array | None = None,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array]:
    """tokens [B, T], and inputs and lengths [B] as the encoder takes them -> see `decode`."""
    source = self.encode(inputs, lengths, train)
    return self.decode(source, self.start(source, tokens.shape[1]), tokens, train)

  def encode(self, inputs: jax.Array, lengths: jax.Array | None = None, train: bool = False) -> Source:
    """inputs, lengths [B] -> the source, with keys where there is attention."""
    source = self.encoder(inputs, lengths, train)
    return source if self.attention == "none" else source._replace(keys=self.attend.keys(source.values))

  def start(self, source: Source, steps: int) -> State:
    """The state before the first of `steps` tokens: h through tanh, an LSTM's memory as it is projected."""
    del steps

    def carry(dense):
      parts = dense(source.summary)  # [B, H] or [B, 2 H]
      if self.cell != "lstm":
        return jnp.tanh(parts)
      memory, h = jnp.split(parts, 2, axis=-1)
      return memory, jnp.tanh(h)

    readout = jnp.zeros((source.summary.shape[0], self.hidden_dim), source.summary.dtype)
    return State(tuple(carry(dense) for dense in self.first), readout)

  def decode(
    self, source: Source, state: State, tokens: jax.Array, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Teacher forcing: every step is given the right token before it (Williams & Zipser, 1989).

    Args:
      source: from `encode`.
      state: from `start`.
      tokens: [B, T] int, <bos> y1 y2 …
      train: whether to drop out.

    Returns:
      logits [B, T, V] of y1 y2 …, and weights [B, T, S] of the places each was decided from (0 without
      attention).
    """
    x = self.drop(self.embed(tokens), deterministic=not train)  # [B, T, E]
    scan = nn.scan(
      lambda module, state, x: module._advance(source, state, x),
      variable_broadcast="params",
      split_rngs={"params": False},
      in_axes=1,
      out_axes=1,
    )
    _, (readouts, weights) = scan(self, state, x)
    return self.output(self.drop(readouts, deterministic=not train)), weights

  def step(self, source: Source, state: State, token: jax.Array) -> tuple[State, jax.Array, jax.Array]:
    """One token: source, state, token [B] int -> state, logits [B, V] of the next one, weights [B, S]."""
    state, (readout, weights) = self._advance(source, state, self.embed(token))
    return state, self.output(readout), weights

  def _advance(self, source: Source, state: State, x: jax.Array):
    """x [B, E] -> state, (readout [B, H], weights [B, S])."""
    if self.attention == "additive":
      context, weights = self.attend(hidden(state.carries[-1]), source)
      x = jnp.concatenate([x, context], axis=-1)
    elif self.attention != "none":
      x = jnp.concatenate([x, state.readout], axis=-1)
    carries = []
    for cell, carry in zip(self.cells, state.carries, strict=True):
      carry, x = cell(carry, x)
      carries.append(carry)
    if self.attention == "none":
      return State(tuple(carries), x), (x, jnp.zeros(source.mask.shape, x.dtype))
    if self.attention != "additive":
      context, weights = self.attend(x, source)
    readout = jnp.tanh(self.combine(jnp.concatenate([context, x], axis=-1)))
    return State(tuple(carries), readout), (readout, weights)
