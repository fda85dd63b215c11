"""Sequence networks in the modes of H3.6.2: a front end, a body that reads through time, and an output.

A body is any module (x [B, T, D], lengths, carry, train) -> `Encoded`: a `RecurrentStack`, a `SlidingWindow`.

Shapes: B batch, T time, D features, F outputs of the body, V vocabulary, C classes.
"""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least, check_below_one
from dlcourse.models.dense import Dense, Embed
from dlcourse.models.recurrent import Encoded, RecurrentStack

Pooling = Literal["final", "mean", "max", "attention"]


def counted(lengths: jax.Array | None, x: jax.Array) -> jax.Array:
  """[B, T, 1] bool: which steps of x [B, T, ...] belong to their sequence."""
  if lengths is None:
    return jnp.ones((*x.shape[:2], 1), bool)
  return (jnp.arange(x.shape[1]) < lengths[:, None])[:, :, None]


class Frontend(nn.Module):
  """Symbols to vectors, or numbers as they are; then, if asked for, convolutions over time (H3.6.1).

  Steps after the end of a sequence are 0 for every convolution, as the steps before its start are, so that
  padding changes nothing.
  """

  embed_dim: int = 64
  """Width of the embedding of a symbol."""
  filters: tuple[int, ...] = ()
  """Filters of each convolution over time."""
  width: int = 5
  """Steps that a convolution sees."""
  pool: int = 1
  """After each convolution, steps of which the maximum is kept."""
  dropout: float = 0.0
  """Probability that an entry of the result is dropped in training."""
  vocab_size: int | None = None
  """Number of symbols; None: as many as the data has, where it has symbols."""

  def __post_init__(self) -> None:
    """Refuses sizes of 0, and to drop everything."""
    sizes = {name: getattr(self, name) for name in ("embed_dim", "width", "pool")}
    check_at_least(1, {f"task.model.front.{name}": size for name, size in sizes.items()})
    check_below_one({"task.model.front.dropout": self.dropout})
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: jax.Array, lengths: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, jax.Array | None]:
    """x [B, T] int or [B, T, D], lengths [B] -> vectors [B, T', D'], lengths [B]."""
    if self.vocab_size is not None:
      x = Embed(self.vocab_size, self.embed_dim, name="embed")(x)  # [B, T, E]
    for i, filters in enumerate(self.filters):
      x = jnp.where(counted(lengths, x), x, 0.0)
      x = nn.relu(nn.Conv(filters, (self.width,), name=f"conv_{i}")(x))
      if self.pool > 1:
        x = jnp.where(counted(lengths, x), x, 0.0)
        x = nn.max_pool(x, (self.pool,), (self.pool,), padding=[(0, -x.shape[1] % self.pool)])
        lengths = None if lengths is None else -(-lengths // self.pool)
    return nn.Dropout(self.dropout, deterministic=not train)(x), lengths


class SlidingWindow(nn.Module):
  """An MLP that sees the last `width` steps: memory without recurrence, and its limits (H3.3.3)."""

  width: int = 8
  """Steps in the window, the present one included."""
  hidden_dim: int = 128
  """Width of each layer."""
  num_layers: int = 2
  """Dense layers."""

  def __post_init__(self) -> None:
    """Refuses windows and layers that hold nothing."""
    sizes = {name: getattr(self, name) for name in ("width", "hidden_dim", "num_layers")}
    check_at_least(1, {f"task.model.body.{name}": size for name, size in sizes.items()})
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    lengths: jax.Array | None = None,
    carry: jax.Array | None = None,
    train: bool = False,
  ) -> Encoded:
    """x [B, T, D], carry [B, width - 1, D] of the steps before (None: zeros) -> see `Encoded`."""
    del train
    batch, steps, size = x.shape
    past = jnp.zeros((batch, self.width - 1, size), x.dtype) if carry is None else carry
    known = jnp.concatenate([past, x], axis=1)
    views = [known[:, i : i + steps] for i in range(self.width)]
    y = jnp.concatenate(views, axis=-1)  # [B, T, width D]
    for i in range(self.num_layers):
      y = nn.relu(Dense(self.hidden_dim, name=f"dense_{i}")(y))
    y = jnp.where(counted(lengths, y), y, 0.0)
    ends = jnp.full(batch, steps) if lengths is None else lengths
    rows = jnp.arange(batch)
    window = ends[:, None] + jnp.arange(self.width - 1)  # the last steps that count
    return Encoded(y, y[rows, jnp.maximum(ends - 1, 0)], known[rows[:, None], window])


class SequenceClassifier(nn.Module):
  """Many-to-one: one answer for a whole sequence (H3.6.2)."""

  body: nn.Module = RecurrentStack()
  """What reads through time."""
  front: Frontend = Frontend()
  """What comes before it."""
  pooling: Pooling = "final"
  """What of the outputs counts: the final state, their mean, their maximum, or a mean with learnt weights."""
  dense_dim: int | None = None
  """Width of a hidden layer before the output; None: none."""
  dropout: float = 0.0
  """Probability that an input of the output layer is dropped in training."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses to drop everything."""
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  def setup(self) -> None:
    """What comes after the body."""
    self.output = Dense(self.num_classes)
    self.drop = nn.Dropout(self.dropout)
    if self.dense_dim is not None:
      self.dense = Dense(self.dense_dim)
    if self.pooling == "attention":
      self.attend = Dense(1)

  def __call__(self, x: jax.Array, lengths: jax.Array | None = None, train: bool = False) -> jax.Array:
    """x [B, T] int or [B, T, D], lengths [B] -> logits [B, C]."""
    x, lengths = self.front(x, lengths, train)
    encoded = self.body(x, lengths, train=train)
    return self._answer(self._pooled(encoded, counted(lengths, x)), train)

  def stream(self, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    """carry (None: the beginning), x [B, T] int or [B, T, D] -> carry, after each step logits [B, T, C].

    Raises:
      UserError: the network needs what comes later.
    """
    if self.pooling != "final":
      raise UserError(f"the pooling {self.pooling!r} needs the whole sequence; only `final` can be streamed")
    encoded = _continued(self, carry, x)
    return encoded.carry, self._answer(encoded.outputs, train=False)

  def _answer(self, y: jax.Array, train: bool) -> jax.Array:
    """y [..., F] -> logits [..., C]."""
    if self.dense_dim is not None:
      y = nn.relu(self.dense(y))
    return self.output(self.drop(y, deterministic=not train))

  def _pooled(self, encoded: Encoded, counts: jax.Array) -> jax.Array:
    """[B, F] of the outputs where `counts` [B, T, 1]."""
    outputs, least = encoded.outputs, jnp.finfo(encoded.outputs.dtype).min
    match self.pooling:
      case "final":
        return encoded.final
      case "mean":  # outputs are 0 where a sequence has ended
        return outputs.sum(axis=1) / jnp.maximum(counts.sum(axis=1), 1)
      case "max":
        largest = jnp.max(outputs, axis=1, where=counts, initial=least)
        return jnp.where(counts.any(axis=1), largest, 0.0)  # a row that only fills a batch has no step
      case "attention":
        return jnp.sum(nn.softmax(jnp.where(counts, self.attend(outputs), least), axis=1) * outputs, axis=1)
    raise ValueError(f"pooling {self.pooling!r} is none of {', '.join(get_args(Pooling))}")


class SequenceTagger(nn.Module):
  """Synchronised many-to-many: an answer at every step (H3.6.2); with a blank among the classes, for CTC."""

  body: nn.Module = RecurrentStack(bidirectional=True)
  """What reads through time."""
  front: Frontend = Frontend()
  """What comes before it; its poolings leave fewer steps."""
  dropout: float = 0.0
  """Probability that an input of the output layer is dropped in training."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses to drop everything."""
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  def setup(self) -> None:
    """What comes after the body."""
    self.output = Dense(self.num_classes)
    self.drop = nn.Dropout(self.dropout)

  def __call__(
    self, x: jax.Array, lengths: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, jax.Array | None]:
    """x [B, T] int or [B, T, D], lengths [B] -> logits [B, T', C], lengths [B] of them."""
    x, lengths = self.front(x, lengths, train)
    outputs = self.body(x, lengths, train=train).outputs
    return self.output(self.drop(outputs, deterministic=not train)), lengths

  def stream(self, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    """carry (None: the beginning), x [B, T] int or [B, T, D] -> carry, logits [B, T, C].

    Raises:
      UserError: the network needs what comes later.
    """
    encoded = _continued(self, carry, x)
    return encoded.carry, self.output(encoded.outputs)


def _continued(model: SequenceClassifier | SequenceTagger, carry: Any, x: jax.Array) -> Encoded:
  """A further part of a sequence, through front end and body."""
  if model.front.filters:
    raise UserError(
      "convolutions see what comes later: a network with --task.model.front.filters cannot stream"
    )
  encoded = model.body(model.front(x)[0], None, carry)
  _check_continued(encoded.carry)
  return encoded


def _check_continued(carry: Any) -> None:
  if not jax.tree.leaves(carry):
    raise UserError(
      "a network that is bidirectional, or looks at all that came before (a Transformer, H3.12.5), keeps no "
      "state of fixed size: it cannot stream"
    )


class LanguageModel(nn.Module):
  """The next symbol from all before it (Mikolov et al., 2010; Graves, 2013, arXiv:1308.0850; H3.7.3).

  The carry goes in and comes out, so that training can go on where the last window ended (H3.5.5).
  """

  body: nn.Module = RecurrentStack(hidden_dim=256)
  """What reads through time; one that can be continued."""
  embed_dim: int = 64
  """Width of the symbol embedding."""
  dropout: float = 0.0
  """Probability that an input of the output layer is dropped in training."""
  tied: bool = False
  """The output layer uses the embedding's weights (Press & Wolf, 2017); the body is as wide as they are."""
  bias: bool = True
  """Whether the output layer adds one; GPT-2's does not."""
  vocab_size: int | None = None
  """Number of symbols; None: as many as the data has."""
  num_classes: int | None = None
  """Classes of text, each with a vector that is added to those of its symbols; None: those of the data."""

  def __post_init__(self) -> None:
    """Refuses embeddings of nothing, and to drop every connection."""
    check_at_least(1, {"task.model.embed_dim": self.embed_dim})
    check_below_one({"task.model.dropout": self.dropout})
    width = getattr(self.body, "hidden_dim", self.embed_dim)
    if self.tied and width != self.embed_dim:
      raise UserError(
        f"--task.model.tied needs --task.model.embed_dim={width}, as wide as the body: the weights are the same"
      )
    super().__post_init__()

  def initial_carry(self, batch_size: int, steps: int | None = None) -> Any:
    """Of the body; steps: how many are read one by one, None: windows as in training."""
    return self.body.initial_carry(batch_size, steps)

  def setup(self) -> None:
    """Embedding and output layer, which may share their weights."""
    self.embed = Embed(self.vocab_size, self.embed_dim)
    if self.num_classes is not None:
      self.embed_class = Embed(self.num_classes, self.embed_dim)
    self.drop = nn.Dropout(self.dropout)
    if not self.tied:
      self.output = Dense(self.vocab_size, use_bias=self.bias)
    elif self.bias:
      self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.vocab_size,))

  def __call__(
    self,
    carry: Any,
    tokens: jax.Array,
    reset: jax.Array | None = None,
    condition: jax.Array | None = None,
    train: bool = False,
  ) -> tuple[Any, jax.Array]:
    """carry, tokens [B, T], reset [B] (1 = forget the carry), condition [B, T] -> carry, logits [B, T, V]."""
    if reset is not None:
      carry = jax.tree.map(lambda state: (state.T * (1 - reset).astype(state.dtype)).T, carry)
    x = self.embed(tokens)
    if self.num_classes is not None:
      x += self.embed_class(condition)
    encoded = self.body(x, None, carry, train)
    y = self.drop(encoded.outputs, deterministic=not train)
    return encoded.carry, self._logits(y)

  def stream(self, carry: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
    """carry (None: the beginning), tokens [B, T] int -> carry, logits [B, T, V] of what follows each.

    Raises:
      UserError: the network wants to be told a class, too.
    """
    if self.num_classes is not None:
      raise UserError("a conditional language model has to be told what a text is of: it cannot stream")
    batch = tokens.shape[0]
    carry, logits = self(self.initial_carry(batch) if carry is None else carry, tokens)
    _check_continued(carry)
    return carry, logits

  def _logits(self, y: jax.Array) -> jax.Array:
    """y [..., F] -> [..., V]."""
    if not self.tied:
      return self.output(y)
    logits = self.embed.attend(y)
    return logits + self.output_bias if self.bias else logits
