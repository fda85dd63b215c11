"""BERT: an encoder that sees both sides of every token (Devlin et al., 2019, arXiv:1810.04805; H3.12.4).

Shapes: B batch, T places, M model width, V vocabulary, C classes.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least, check_below_one
from dlcourse.models.attention import Seen, visible
from dlcourse.models.dense import Dense, Embed
from dlcourse.models.layers import activate
from dlcourse.models.sequence import counted
from dlcourse.models.transformer import Layer, Stack

EPSILON = 1e-12  # of BERT's norms
_weights = nn.initializers.truncated_normal(0.02)


def bert_layer(hidden_dim: int, num_heads: int) -> Layer:
  """A layer of BERT: norms after the sums, the exact GELU, four times as wide between the dense layers."""
  return Layer(hidden_dim, num_heads, norm_first=False, epsilon=EPSILON, dropout=0.1)


class Bert(nn.Module):
  """Tokens, their places and the text they are of, through a post-norm encoder."""

  layer: Layer = bert_layer(768, 12)
  """How a layer is built."""
  num_layers: int = 12
  """Layers."""
  max_length: int = 512
  """Places at most."""
  num_segments: int = 2
  """Texts in a sequence at most, each with a vector that is added to those of its tokens."""
  dropout: float = 0.1
  """Probability that an entry of what goes into the first layer is dropped in training."""
  remat: bool = False
  """Whether activations are computed again on the way back: less memory, a third more time."""
  vocab_size: int | None = None
  """Number of tokens; None: as many as the data has."""

  def __post_init__(self) -> None:
    """Refuses no layer at all, and to drop everything."""
    sizes = {name: getattr(self, name) for name in ("num_layers", "max_length", "num_segments")}
    check_at_least(1, {f"task.model.body.{name}": size for name, size in sizes.items()})
    check_below_one({"task.model.body.dropout": self.dropout})
    super().__post_init__()

  def setup(self) -> None:
    """Three embeddings, their norm, and the layers."""
    width = self.layer.hidden_dim
    self.word = Embed(self.vocab_size, width, embedding_init=_weights)
    self.place = nn.Embed(self.max_length, width, embedding_init=_weights)
    self.segment = nn.Embed(self.num_segments, width, embedding_init=_weights)
    self.norm = self.layer.make_norm()
    self.drop = nn.Dropout(self.dropout)
    self.stack = Stack(self.layer, self.num_layers, remat=self.remat)

  def __call__(
    self,
    tokens: jax.Array,
    lengths: jax.Array | None = None,
    segments: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """What each token means where it stands.

    Args:
      tokens: [B, T] int.
      lengths: [B] int, tokens that count; None: all.
      segments: [B, T] int, which text a token is of; None: all of the first.
      train: whether to drop out.

    Returns:
      [B, T, M], 0 after the end of a sequence.

    Raises:
      UserError: the sequences are longer than `max_length`.
    """
    times = tokens.shape[1]
    if times > self.max_length:
      raise UserError(f"{times} places are more than BERT's --task.model.body.max_length={self.max_length}")
    segments = jnp.zeros_like(tokens) if segments is None else segments
    x = self.norm(self.word(tokens) + self.place(jnp.arange(times)) + self.segment(segments))
    x = self.drop(x, deterministic=not train)
    x, _ = self.stack(x, Seen(*visible(times, lengths)), train=train)
    return jnp.where(counted(lengths, x), x, 0.0)

  def word_scores(self, y: jax.Array) -> jax.Array:
    """y [..., M] -> its products with the embeddings of all tokens, [..., V]."""
    return self.word.attend(y)


class BertClassifier(nn.Module):
  """One answer for a whole sequence, from its first token, [CLS], or from the mean of all."""

  body: Bert = Bert()
  """The encoder."""
  pooling: Literal["first", "mean"] = "first"
  """The first token after a dense layer and tanh, as in BERT; or the mean, as in encoders of sentences."""
  dropout: float = 0.1
  """Probability that an input of the output layer is dropped in training."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses to drop everything."""
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  def setup(self) -> None:
    """What comes after the encoder."""
    if self.pooling == "first":
      self.pooler = nn.Dense(self.body.layer.hidden_dim, kernel_init=_weights)
    self.drop = nn.Dropout(self.dropout)
    self.output = nn.Dense(self.num_classes, kernel_init=_weights)

  def __call__(self, x: jax.Array, lengths: jax.Array | None = None, train: bool = False) -> jax.Array:
    """x [B, T] int, lengths [B] -> logits [B, C]."""
    return self.output(self.drop(self.pooled(x, lengths, train), deterministic=not train))

  def pooled(self, x: jax.Array, lengths: jax.Array | None = None, train: bool = False) -> jax.Array:
    """x [B, T] int, lengths [B] -> one vector a sequence, [B, M]."""
    hidden = self.body(x, lengths, train=train)
    return nn.tanh(self.pooler(hidden[:, 0])) if self.pooling == "first" else mean_of(hidden, lengths)


class BertMasked(nn.Module):
  """Which token stands at each place, from all the others: what BERT is trained for."""

  body: Bert = Bert()
  """The encoder."""

  def setup(self) -> None:
    """A dense layer and a norm; the output layer has the weights of the embedding."""
    self.dense = Dense(self.body.layer.hidden_dim, kernel_init=_weights)
    self.norm = self.body.layer.make_norm()
    self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.body.vocab_size,))

  def __call__(
    self,
    tokens: jax.Array,
    lengths: jax.Array | None = None,
    segments: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """tokens [B, T] int, lengths [B], segments [B, T] -> logits [B, T, V]."""
    hidden = self.body(tokens, lengths, segments, train)
    return self.body.word_scores(self.norm(activate("gelu", self.dense(hidden)))) + self.output_bias


def mean_of(hidden: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
  """The mean of the tokens that count, which encodes a sentence (Reimers & Gurevych, 2019, arXiv:1908.10084).

  Args:
    hidden: [B, T, M], 0 after the end of a sequence.
    lengths: [B] int; None: all tokens count.

  Returns:
    [B, M].
  """
  ends = hidden.shape[1] if lengths is None else jnp.maximum(lengths, 1)[:, None]
  return hidden.sum(axis=1) / ends


# Numbers at 30,522 tokens, with the dense layer of the pooling.
BERT = {
  "tiny": Bert(bert_layer(128, 2), 2),  # 4,385,920 (Turc et al., 2019, arXiv:1908.08962)
  "mini": Bert(bert_layer(256, 4), 4),  # 11,170,560
  "minilm": Bert(bert_layer(384, 12), 6),  # 22,713,216 (Wang et al., 2020, arXiv:2002.10957)
  "base": Bert(),  # 109,482,240
  "large": Bert(bert_layer(1024, 16), 24),  # 335,141,888
}
