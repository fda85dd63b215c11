"""Recursive networks: a tree read from its leaves to its root (Socher et al., 2013; Tai et al., 2015; H3).

A tree comes as a program in post-order, padded and scanned: every node after its children.
Shapes: B batch, N nodes, K children of a node at most, D width of a symbol's vector, H hidden, C classes.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import check_at_least, check_below_one


class TreeRNNCell(nn.Module):
  """h = tanh(W x + Σ_k U_k h_k + b): one matrix a child (Socher et al., 2013, section 4.1)."""

  hidden_dim: int

  @nn.compact
  def __call__(self, x: jax.Array, h: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x [B, D], children's h [B, K, H] and memory -> h [B, H], and a memory that nobody reads."""
    children = h.reshape(h.shape[0], -1)
    sums = nn.Dense(self.hidden_dim, name="input")(x)
    h = jnp.tanh(sums + nn.Dense(self.hidden_dim, use_bias=False, name="recurrent")(children))
    return h, jnp.zeros_like(memory[:, 0])


class TreeLSTMCell(nn.Module):
  """The N-ary Tree-LSTM (Tai et al., 2015, arXiv:1503.00075, equations 9-14).

  i, o, u and one forget gate a child, each of x and of the h of all children;
  C = i ⊙ u + Σ_k f_k ⊙ C_k, h = o ⊙ tanh(C). The forget gates share W_f and b_f, which starts at 1.
  """

  hidden_dim: int

  @nn.compact
  def __call__(self, x: jax.Array, h: jax.Array, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x [B, D], children's h and memory [B, K, H] -> h, memory [B, H]."""
    batch, count, width = h.shape
    children = h.reshape(batch, -1)
    gates = nn.Dense(3 * width, name="input")(x)
    gates += nn.Dense(3 * width, use_bias=False, name="recurrent")(children)
    forget = nn.Dense(count * width, use_bias=False, name="forget_recurrent")(children)
    forget = forget.reshape(batch, count, width)
    forget += nn.Dense(width, bias_init=nn.initializers.ones, name="forget_input")(x)[:, None]
    i, o, u = jnp.split(gates, 3, axis=-1)
    memory = nn.sigmoid(i) * jnp.tanh(u) + jnp.sum(nn.sigmoid(forget) * memory, axis=1)
    return nn.sigmoid(o) * jnp.tanh(memory), memory


class TreeClassifier(nn.Module):
  """One answer for a whole tree, from the vector of its root."""

  cell: Literal["rnn", "lstm"] = "lstm"
  """rnn (Socher et al., 2013) or lstm (Tai et al., 2015)."""
  embed_dim: int = 32
  """Width of the embedding of a node's symbol."""
  hidden_dim: int = 64
  """Width of a node's vector."""
  dropout: float = 0.0
  """Probability that an entry of the root's vector is dropped in training."""
  vocab_size: int | None = None
  """Number of symbols; None: as many as the data has."""
  num_classes: int | None = None
  """Width of the output; None: as many as the data has classes."""

  def __post_init__(self) -> None:
    """Refuses vectors of nothing, and to drop everything."""
    sizes = {name: getattr(self, name) for name in ("embed_dim", "hidden_dim")}
    check_at_least(1, {f"task.model.{name}": size for name, size in sizes.items()})
    check_below_one({"task.model.dropout": self.dropout})
    super().__post_init__()

  @nn.compact
  def __call__(
    self, nodes: jax.Array, children: jax.Array, lengths: jax.Array, train: bool = False
  ) -> jax.Array:
    """Computes every node from those before it.

    Args:
      nodes: [B, N] int, symbols in post-order; the root is the last that counts.
      children: [B, N, K] int, places of earlier nodes; -1 where there is no child.
      lengths: [B] int, nodes that count.
      train: whether to drop out.

    Returns:
      logits [B, C].
    """
    batch, count = nodes.shape
    rows = jnp.arange(batch)
    x = nn.Embed(self.vocab_size, self.embed_dim, name="embed")(nodes)  # [B, N, D]
    cell = {"rnn": TreeRNNCell, "lstm": TreeLSTMCell}[self.cell](self.hidden_dim, name="cell")

    def step(cell, known, inputs):
      x, children, place = inputs
      h, memory = (part[rows[:, None], children + 1] for part in known)  # [B, K, H]
      new = cell(x, h, memory)
      return tuple(part.at[:, place + 1].set(each) for part, each in zip(known, new, strict=True)), None

    # Node i lies in row i + 1: row 0 stays 0, and is the child that is not there.
    known = (jnp.zeros((batch, count + 1, self.hidden_dim)),) * 2
    scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, in_axes=((1, 1, 0),))
    (h, _), _ = scan(cell, known, (x, children, jnp.arange(count)))
    root = nn.Dropout(self.dropout, deterministic=not train)(h[rows, lengths])
    return nn.Dense(self.num_classes, name="output")(root)
