"""Recurrent layers over whole sequences, stacked and in both directions (H3.5-H3.10).

Shapes: B batch, T time, D inputs, H hidden, F = H, or 2 H in both directions.
"""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least, check_below_one
from dlcourse.models.cells import Carry, CellName, hidden, initial_carry, make_cell


class Encoded(NamedTuple):
  """What the body of a sequence network makes of [B, T, D].

  Attributes:
    outputs: [B, T, F], 0 where a sequence has ended.
    final: [B, F], one vector for the whole sequence.
    carry: what goes on into the next part of the sequence, where the body can be continued, else ().
  """

  outputs: jax.Array
  final: jax.Array
  carry: Any


def unroll(
  cell: nn.Module,
  carry: Carry,
  x: jax.Array,
  lengths: jax.Array | None = None,
  reverse: bool = False,
  mask: jax.Array | None = None,
) -> tuple[Carry, jax.Array]:
  """Takes a cell through time. Where a sequence has ended the carry stands still and outputs are 0.

  So padding changes nothing, and in reverse the first step that counts is the last symbol of each sequence.

  Args:
    cell: (carry, x [B, D], mask) -> (carry, h [B, H]).
    carry: before the first step.
    x: [B, T, D].
    lengths: [B] int, steps that count; None: all.
    reverse: from the last step to the first.
    mask: [B, H] of what of h_(t-1) is seen, the same at all steps (Gal & Ghahramani, 2016).

  Returns:
    The carry after the last step, and outputs [B, T, H] in the order of time.
  """

  def step(cell, carry, inputs):
    x, time = inputs
    new, h = cell(carry, x, mask)
    if lengths is None:
      return new, h
    counts = (time < lengths)[:, None]  # [B, 1]
    return jax.tree.map(lambda new, old: jnp.where(counts, new, old), new, carry), jnp.where(counts, h, 0.0)

  # Projecting all inputs before the scan is no faster on a CPU: the gates of all steps do not fit its caches.
  scan = nn.scan(
    step,
    variable_broadcast="params",
    split_rngs={"params": False},
    in_axes=((1, 0),),
    out_axes=1,
    reverse=reverse,
  )
  return scan(cell, carry, (x, jnp.arange(x.shape[1])))


class RecurrentStack(nn.Module):
  """Recurrent layers, each reading the outputs of the one below, in one direction or both (H3.6.3).

  Parameters of layer l are `forward_l/{input,recurrent}` and `backward_l/…`.
  """

  cell: CellName = "lstm"
  """rnn (tanh), rnn_relu, lstm, gru (as in PyTorch and Keras), gru_original (as published)."""
  hidden_dim: int = 128
  """Width of each layer, in each direction."""
  num_layers: int = 1
  """Stacked layers."""
  bidirectional: bool = False
  """A second set of layers reads from the end (Schuster & Paliwal, 1997); such a stack cannot be continued."""
  dropout: float = 0.0
  """Probability that an input of a layer is dropped in training."""
  dropout_kind: Literal["standard", "variational"] = "standard"
  """Another draw at every step, or one for all steps of a sequence (Gal & Ghahramani, 2016)."""
  recurrent_dropout: float = 0.0
  """Probability that a unit of h_(t-1) is unseen in training, drawn once for all steps."""
  forget_bias: float = 1.0
  """Where the bias of an LSTM's forget gate starts: 1 remembers further, 0 learns faster what is near."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit, no layer at all, and to drop everything."""
    sizes = {name: getattr(self, name) for name in ("hidden_dim", "num_layers")}
    check_at_least(1, {f"task.model….{name}": size for name, size in sizes.items()})
    for name in ("dropout", "recurrent_dropout"):
      check_below_one({f"task.model….{name}": getattr(self, name)})
    super().__post_init__()

  def initial_carry(self, batch_size: int, steps: int | None = None) -> tuple[Carry, ...]:
    """Zeros for every layer, however many steps follow.

    Raises:
      UserError: the stack reads in both directions.
    """
    del steps
    if self.bidirectional:
      raise UserError("a bidirectional network reads the future: it cannot be continued or streamed")
    return tuple(initial_carry(self.cell, batch_size, self.hidden_dim) for _ in range(self.num_layers))

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    lengths: jax.Array | None = None,
    carry: tuple[Carry, ...] | None = None,
    train: bool = False,
  ) -> Encoded:
    """x [B, T, D], lengths [B], carry of the part before -> outputs [B, T, F], final [B, F], carry.

    `final` is h of the top layer after its last step, in both directions side by side.
    """
    directions = ("forward", "backward") if self.bidirectional else ("forward",)
    steps = (1,) if self.dropout_kind == "variational" else ()
    start = initial_carry(self.cell, x.shape[0], self.hidden_dim)
    ends = []
    for layer in range(self.num_layers):
      x = nn.Dropout(self.dropout, broadcast_dims=steps, deterministic=not train)(x)
      parts, ends_here = [], []
      for direction in directions:
        cell = make_cell(self.cell, self.hidden_dim, f"{direction}_{layer}", self.forget_bias)
        first = start if carry is None else carry[layer]
        mask = None
        if self.recurrent_dropout and train:
          mask = nn.Dropout(self.recurrent_dropout, deterministic=False)(jnp.ones_like(hidden(start)))
        end, outputs = unroll(cell, first, x, lengths, direction == "backward", mask)
        parts.append(outputs)
        ends_here.append(end)
      x = jnp.concatenate(parts, axis=-1)  # [B, T, F]
      ends.append(ends_here)
    final = jnp.concatenate([hidden(end) for end in ends[-1]], axis=-1)
    return Encoded(x, final, () if self.bidirectional else tuple(end for (end,) in ends))
