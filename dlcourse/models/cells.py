"""Recurrent cells: one step in time (H3.5, H3.9, H3.10).

Shapes: B batch, D inputs, H hidden. Every cell is two affine maps, `input` of x_t and `recurrent` of h_(t-1),
whose results hold the gates side by side; the candidate of a GRU has its own two.
"""

import functools
from collections.abc import Callable
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

Carry = jax.Array | tuple[jax.Array, jax.Array]
CellName = Literal["rnn", "rnn_relu", "lstm", "gru", "gru_original"]


def _orthogonal_gates(key: jax.Array, shape: tuple[int, int], dtype=jnp.float32) -> jax.Array:
  """[H, G H] of G orthogonal matrices (Saxe et al., 2014): h keeps its length on the way through each gate."""
  hidden, width = shape
  keys = jax.random.split(key, width // hidden)
  square = nn.initializers.orthogonal()
  return jnp.concatenate([square(each, (hidden, hidden), dtype) for each in keys], axis=1)


def _gate_bias(gates: int, gate: int, value: float) -> Callable:
  """Zeros, but `value` for one gate: 1 lets an LSTM at first remember (Jozefowicz et al., 2015)."""

  def init(key, shape, dtype=jnp.float32):
    del key
    return jnp.zeros((gates, shape[0] // gates), dtype).at[gate].set(value).reshape(shape)

  return init


class _Weights(nn.Module):
  """A matrix and a bias that the cell multiplies with, so that the whole cell is one layer of a summary."""

  width: int
  use_bias: bool = True
  kernel_init: Callable = nn.initializers.lecun_normal()
  bias_init: Callable = nn.initializers.zeros

  @nn.compact
  def __call__(self, inputs: int) -> tuple[jax.Array, jax.Array | float]:
    """Size of the input -> kernel [inputs, width], bias [width] or 0."""
    kernel = self.param("kernel", self.kernel_init, (inputs, self.width))
    return kernel, self.param("bias", self.bias_init, (self.width,)) if self.use_bias else 0.0


def _affine(x: jax.Array, weights: _Weights) -> jax.Array:
  """x [B, D] -> W x + b [B, width]."""
  kernel, bias = weights(x.shape[-1])
  return x @ kernel + bias


class SimpleCell(nn.Module):
  """h_t = f(W_xh x_t + W_hh h_(t-1) + b_h) (Elman, 1990; H3.5.3)."""

  hidden_dim: int
  activation: Callable = jnp.tanh

  def setup(self) -> None:
    """W_xh with b_h, and W_hh."""
    self.input = _Weights(self.hidden_dim)
    self.recurrent = _Weights(self.hidden_dim, use_bias=False, kernel_init=_orthogonal_gates)

  def __call__(self, h: jax.Array, x: jax.Array, mask: jax.Array | None = None) -> tuple[Carry, jax.Array]:
    """h [B, H], x [B, D], mask [B, H] of what of h_(t-1) is seen -> carry, h_t [B, H]."""
    h = self.activation(_affine(x, self.input) + _affine(_seen(h, mask), self.recurrent))
    return h, h


class LSTMCell(nn.Module):
  """Long short-term memory (Hochreiter & Schmidhuber, 1997; forget gate: Gers et al., 2000; H3.9.2).

  i, f, o = σ(W [h_(t-1), x_t] + b), the candidate C~ = tanh(W_C [h_(t-1), x_t] + b_C);
  C_t = f ⊙ C_(t-1) + i ⊙ C~ and h_t = o ⊙ tanh(C_t). Gates lie in the order i, f, C~, o.
  """

  hidden_dim: int
  forget_bias: float = 1.0

  def setup(self) -> None:
    """The four gates' matrices, once for x_t and once for h_(t-1)."""
    self.input = _Weights(4 * self.hidden_dim, bias_init=_gate_bias(4, 1, self.forget_bias))
    self.recurrent = _Weights(4 * self.hidden_dim, use_bias=False, kernel_init=_orthogonal_gates)

  def __call__(self, carry: Carry, x: jax.Array, mask: jax.Array | None = None) -> tuple[Carry, jax.Array]:
    """carry (C, h), each [B, H]; x [B, D]; mask [B, H] of what of h_(t-1) is seen -> carry, h_t [B, H]."""
    memory, h = carry
    gates = _affine(x, self.input) + _affine(_seen(h, mask), self.recurrent)  # [B, 4 H]
    i, f, candidate, o = jnp.split(gates, 4, axis=-1)
    memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(candidate)
    h = nn.sigmoid(o) * jnp.tanh(memory)
    return (memory, h), h


class GRUCell(nn.Module):
  """Gated recurrent unit (Cho et al., 2014, arXiv:1406.1078; H3.10.2).

  r, z = σ(W [h_(t-1), x_t] + b); h_t = z ⊙ h_(t-1) + (1 - z) ⊙ h~, with the candidate
  h~ = tanh(W x_t + b + U (r ⊙ h_(t-1))) as published, or with `reset_after`, as cuDNN, PyTorch and Keras do
  it, h~ = tanh(W x_t + b + r ⊙ (U h_(t-1) + b')). Gates lie in the order r, z.
  """

  hidden_dim: int
  reset_after: bool = True

  def setup(self) -> None:
    """The matrices of r and z, and those of h~: on a CPU that takes 0.9 of the time of all three in one."""
    recurrent = functools.partial(_Weights, use_bias=self.reset_after, kernel_init=_orthogonal_gates)
    self.input, self.input_candidate = _Weights(2 * self.hidden_dim), _Weights(self.hidden_dim)
    self.recurrent, self.recurrent_candidate = recurrent(2 * self.hidden_dim), recurrent(self.hidden_dim)

  def __call__(self, h: jax.Array, x: jax.Array, mask: jax.Array | None = None) -> tuple[Carry, jax.Array]:
    """h [B, H], x [B, D], mask [B, H] of what of h_(t-1) is seen -> carry, h_t [B, H]."""
    seen = _seen(h, mask)
    r, z = jnp.split(nn.sigmoid(_affine(x, self.input) + _affine(seen, self.recurrent)), 2, axis=-1)
    if self.reset_after:
      past = r * _affine(seen, self.recurrent_candidate)
    else:
      past = _affine(r * seen, self.recurrent_candidate)
    h = z * h + (1.0 - z) * jnp.tanh(_affine(x, self.input_candidate) + past)
    return h, h


def _seen(h: jax.Array, mask: jax.Array | None) -> jax.Array:
  return h if mask is None else h * mask


def make_cell(kind: CellName, hidden_dim: int, name: str | None = None, forget_bias: float = 1.0) -> nn.Module:
  """The cell of that kind; "gru" resets after the product, "gru_original" before it.

  Only an LSTM has a forget gate, whose bias starts at `forget_bias`.

  Raises:
    ValueError: there is no such cell.
  """
  match kind:
    case "rnn":
      return SimpleCell(hidden_dim, name=name)
    case "rnn_relu":
      return SimpleCell(hidden_dim, nn.relu, name=name)
    case "lstm":
      return LSTMCell(hidden_dim, forget_bias, name=name)
    case "gru":
      return GRUCell(hidden_dim, name=name)
    case "gru_original":
      return GRUCell(hidden_dim, reset_after=False, name=name)
  raise ValueError(f"cell {kind!r} is none of {', '.join(get_args(CellName))}")


def initial_carry(kind: CellName, batch_size: int, hidden_dim: int) -> Carry:
  """Zeros: h [B, H], and for an LSTM (C, h)."""
  zeros = jnp.zeros((batch_size, hidden_dim))
  return (zeros, zeros) if kind == "lstm" else zeros


def hidden(carry: Carry) -> jax.Array:
  """h [B, H] of a carry."""
  return carry[1] if isinstance(carry, tuple) else carry
