"""Back-propagation through time by hand, and how gradients fare on the way back (H3.5.5-H3.5.7, H3.9.2).

The network is h_t = f(x_t W_xh + h_(t-1) W_hh + b_h) with rows as states, so that the Jacobian of a step is
∂h_(t+1)/∂h_t = W_hh diag f'_(t+1), and gradients go back by its transpose.

Shapes: T steps, D inputs, H hidden.
"""

from typing import Literal, NamedTuple, get_args

import jax
import numpy as np
from numpy.typing import ArrayLike

Activation = Literal["tanh", "relu", "linear"]


class Rnn(NamedTuple):
  """A simple recurrent layer (H3.5.3), or the gradient with respect to it.

  Attributes:
    inputs: W_xh [D, H].
    recurrent: W_hh [H, H].
    bias: b_h [H].
  """

  inputs: np.ndarray
  recurrent: np.ndarray
  bias: np.ndarray


class Gradients(NamedTuple):
  """What `backward` finds.

  Attributes:
    weights: ∂L/∂W_xh, ∂L/∂W_hh, ∂L/∂b_h.
    inputs: ∂L/∂x [T, D].
    states: ∂L/∂h_0 … ∂L/∂h_T [T + 1, H].
  """

  weights: Rnn
  inputs: np.ndarray
  states: np.ndarray


class Flow(NamedTuple):
  """How a gradient changes on its way back.

  Attributes:
    label: of what.
    norms: ‖∂L/∂h_(T-k)‖ over ‖∂L/∂h_T‖ [T + 1], k = 0 … T.
    rate: factor of a step by which they change, fitted.
    bound: factor of a step that they cannot exceed.
  """

  label: str
  norms: np.ndarray
  rate: float
  bound: float


def forward(rnn: Rnn, x: ArrayLike, start: ArrayLike, activation: Activation = "tanh") -> np.ndarray:
  """States h_0 … h_T [T + 1, H] (H3.5.3, H3.5.4).

  Args:
    rnn: the layer.
    x: [T, D].
    start: h_0 [H].
    activation: f.

  Raises:
    ValueError: there is no such activation.
  """
  states = [np.asarray(start)]
  for now in np.asarray(x):
    states.append(_activate(activation, now @ rnn.inputs + states[-1] @ rnn.recurrent + rnn.bias))
  return np.stack(states)


def _activate(name: Activation, a: np.ndarray) -> np.ndarray:
  match name:
    case "tanh":
      return np.tanh(a)
    case "relu":
      return np.maximum(a, 0)
    case "linear":
      return a
  raise ValueError(f"activation {name!r} is none of {', '.join(get_args(Activation))}")


def slopes(states: np.ndarray, activation: Activation = "tanh") -> np.ndarray:
  """f' at every state, from the state itself: 1 - h² of tanh, 1 where h > 0 of ReLU, 1 of a linear layer."""
  match activation:
    case "tanh":
      return 1 - states**2
    case "relu":
      return (states > 0).astype(states.dtype)
  return np.ones_like(states)


def backward(
  rnn: Rnn, x: ArrayLike, states: np.ndarray, direct: ArrayLike, activation: Activation = "tanh"
) -> Gradients:
  """Gradients by the recursion ∂L/∂h_t = direct_t + ∂L/∂h_(t+1) · ∂h_(t+1)/∂h_t, from T to 0 (H3.5.5).

  Args:
    rnn: the layer.
    x: [T, D].
    states: from `forward`.
    direct: ∂L/∂y_t · ∂y_t/∂h_t [T, H] of steps 1 … T: what the loss of each step says itself.
    activation: f.
  """
  x, direct, slope = np.asarray(x), np.asarray(direct), slopes(states, activation)
  of_states, of_sums = np.zeros_like(states), np.zeros_like(states[1:])  # a_t = x_t W_xh + …
  for t in range(len(x), 0, -1):
    of_states[t] += direct[t - 1]
    of_sums[t - 1] = of_states[t] * slope[t]
    of_states[t - 1] = of_sums[t - 1] @ rnn.recurrent.T
  weights = Rnn(x.T @ of_sums, states[:-1].T @ of_sums, of_sums.sum(axis=0))
  return Gradients(weights, of_sums @ rnn.inputs.T, of_states)


def clip(
  gradient: jax.typing.ArrayLike | dict | tuple, threshold: float
) -> jax.typing.ArrayLike | dict | tuple:
  """The gradient, shortened to the threshold where its norm over all arrays is larger (H3.5.7).

  Args:
    gradient: a tree of arrays.
    threshold: largest norm, above 0.
  """
  norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
  return jax.tree.map(lambda leaf: leaf * (threshold / norm), gradient) if norm > threshold else gradient


def with_radius(matrix: ArrayLike, radius: float) -> np.ndarray:
  """A square matrix scaled such that the largest modulus of its eigenvalues is `radius`."""
  return np.asarray(matrix) * (radius / np.abs(np.linalg.eigvals(matrix)).max())


def rate(norms: ArrayLike) -> float:
  """The factor of a step, by least squares of log norm over distance; norms of 0 are left out.

  Args:
    norms: [K], at distances 0 … K - 1.
  """
  norms = np.asarray(norms)
  (distance,) = np.nonzero(norms)
  return float(np.exp(np.polyfit(distance, np.log(norms[distance]), 1)[0]))


def simple_flow(
  rnn: Rnn, x: ArrayLike, toward: ArrayLike, activation: Activation = "tanh", label: str = ""
) -> Flow:
  """The gradient of a loss at the last step alone, through a simple layer that starts from 0 (H3.5.6, H3.5.7).

  No step lengthens it by more than ‖W_hh‖ max|f'|, the largest singular value times the largest slope met. If
  that is below 1 the gradient vanishes; that an eigenvalue is above 1 is necessary for it to explode, and f'
  may still prevent it (Pascanu et al., 2013, section 2.1).

  Args:
    rnn: the layer.
    x: [T, D].
    toward: ∂L/∂h_T [H].
    activation: f.
    label: of the result.
  """
  states = forward(rnn, x, np.zeros(len(rnn.bias)), activation)
  direct = np.zeros_like(states[1:])
  direct[-1] = toward
  norms = np.linalg.norm(backward(rnn, x, states, direct, activation).states, axis=1)[::-1]
  bound = np.linalg.norm(rnn.recurrent, 2) * slopes(states[1:], activation).max()
  return Flow(label, norms / norms[0], rate(norms), float(bound))


def additive_flow(forget: ArrayLike, toward: ArrayLike, label: str = "") -> Flow:
  """The gradient along an LSTM's memory alone: ∂C_T/∂C_t = Π f_k over k = t + 1 … T (H3.9.2, H3.9.3).

  No matrix and no slope of tanh is in it: a gate near 1 passes on all of it, and no step lengthens it. The ways
  through h_(t-1) and the gates come on top, as those of a simple layer.

  Args:
    forget: gates f_1 … f_T [T, H].
    toward: ∂L/∂C_T [H].
    label: of the result.
  """
  forget = np.asarray(forget)
  products = np.concatenate([np.ones_like(forget[:1]), np.cumprod(forget[::-1], axis=0)])
  norms = np.linalg.norm(products * toward, axis=1)
  return Flow(label, norms / norms[0], rate(norms), float(forget.max()))


def forget_gates(recurrent: ArrayLike, sums: ArrayLike, bias: float) -> np.ndarray:
  """Gates f_1 … f_T [T, H] of an LSTM that starts from 0 (H3.9.2).

  Args:
    recurrent: [H, 4 H], of the gates i, f, C~, o.
    sums: what x_t adds to them [T, 4 H].
    bias: b_f; the other biases are 0.
  """
  memory = h = np.zeros(len(recurrent))
  gates = []
  for now in np.asarray(sums):
    i, f, candidate, o = np.split(now + h @ recurrent, 4)
    gates.append(_sigmoid(f + bias))
    memory = gates[-1] * memory + _sigmoid(i) * np.tanh(candidate)
    h = _sigmoid(o) * np.tanh(memory)
  return np.stack(gates)


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 0.5 * np.tanh(0.5 * x) + 0.5


def compare_flows(
  radii: tuple[float, ...] = (0.8, 1.0, 1.25),
  forget_biases: tuple[float, ...] = (1.0, 5.0),
  activation: Activation = "tanh",
  steps: int = 100,
  hidden: int = 64,
  seed: int = 0,
) -> list[Flow]:
  """Simple layers of several spectral radii beside the memory of an LSTM, on the same random inputs.

  All have orthogonal matrices: then the singular values are the radius too, and a linear layer meets the bound.
  Of the LSTM each gate has one of radius 1. Rates beside bounds: tanh 0.780, 0.935, 1.019 beside 0.8, 1, 1.25;
  ReLU, half of which passes nothing on, 0.563, 0.705, 0.872; the memory 0.732 and 0.993 beside 0.814 and 0.998.

  Args:
    radii: largest moduli of the eigenvalues of W_hh.
    forget_biases: b_f of the LSTMs.
    activation: f of the simple layers.
    steps: T.
    hidden: H; as many inputs, of standard deviation 0.1 after W_xh.
    seed: of matrices and inputs.
  """
  rng = np.random.default_rng(seed)
  orthogonal = [np.linalg.qr(rng.normal(size=(hidden, hidden)))[0] for _ in range(4)]
  x, toward = 0.1 * rng.normal(size=(steps, hidden)), rng.normal(size=hidden)
  flows = []
  for radius in radii:
    rnn = Rnn(np.eye(hidden), with_radius(orthogonal[0], radius), np.zeros(hidden))
    flows.append(simple_flow(rnn, x, toward, activation, f"{activation}, radius {radius:g}"))
  for bias in forget_biases:
    gates = forget_gates(np.concatenate(orthogonal, axis=1), np.tile(x, 4), bias)
    flows.append(additive_flow(gates, toward, f"LSTM's memory, forget bias {bias:g}"))
  return flows
