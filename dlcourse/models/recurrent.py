"""Recurrent networks (H3.5-H3.9).

Shapes: B batch, T time, V vocabulary, E embedding, H hidden.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import check_at_least, check_below_one

Carry = tuple[Any, ...]


class CharLSTM(nn.Module):
  """Stacked LSTM language model (Hochreiter & Schmidhuber, 1997; Graves, 2013, arXiv:1308.0850; H3.9).

  The carry goes in and comes out, so that training can go on where the last window ended (H3.5.5).
  """

  embed_dim: int = 64
  """Width of the symbol embedding."""
  hidden_dim: int = 256
  """Width of each LSTM layer."""
  num_layers: int = 1
  """Stacked LSTM layers."""
  dropout: float = 0.0
  """Probability that a connection between layers is dropped in training; recurrent ones are kept."""
  vocab_size: int | None = None
  """Number of symbols; None: as many as the data has."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit, no layer at all, and to drop every connection."""
    sizes = {name: getattr(self, name) for name in ("embed_dim", "hidden_dim", "num_layers")}
    check_at_least(1, {f"task.model.{name}": size for name, size in sizes.items()})
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  def initial_carry(self, batch_size: int) -> Carry:
    """Zeros: one (cell, hidden) pair of [B, H] a layer."""
    zeros = jnp.zeros((batch_size, self.hidden_dim))
    return tuple((zeros, zeros) for _ in range(self.num_layers))

  @nn.compact
  def __call__(
    self, carry: Carry, tokens: jax.Array, reset: jax.Array, train: bool = False
  ) -> tuple[Carry, jax.Array]:
    """carry, tokens [B, T] int, reset [B] (1 = forget the carry) -> new carry, logits [B, T, V]."""
    carry = jax.tree.map(lambda state: state * (1.0 - reset)[:, None], carry)
    x = nn.Embed(self.vocab_size, self.embed_dim, name="embed")(tokens)  # [B, T, E]
    ends = []
    for layer, start in enumerate(carry):
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
      cell = nn.OptimizedLSTMCell(self.hidden_dim, name=f"lstm_{layer}")
      end, x = nn.RNN(cell, return_carry=True)(x, initial_carry=start)  # [B, T, H]
      ends.append(end)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return tuple(ends), nn.Dense(self.vocab_size, name="output")(x)  # [B, T, V]
