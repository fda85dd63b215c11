"""Every cell against its equations, its published parameter count and its initialisation."""

import functools
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import count

from dlcourse.models.cells import hidden, initial_carry, make_cell

B, D, H = 3, 5, 4
CELLS = ("rnn", "rnn_relu", "lstm", "gru", "gru_original")
GATES = {"rnn": 1, "rnn_relu": 1, "lstm": 4, "gru": 3, "gru_original": 3}


def shapes(kind, inputs, hidden_dim):
  carry, x = initial_carry(kind, 1, hidden_dim), jnp.zeros((1, inputs))
  return jax.eval_shape(make_cell(kind, hidden_dim).init, jax.random.key(0), carry, x)


@functools.cache
def fresh(kind, hidden_dim=H):
  """Parameters as the cell initialises them."""
  variables = jax.jit(make_cell(kind, hidden_dim).init)(
    jax.random.key(1), initial_carry(kind, B, hidden_dim), jnp.zeros((B, D))
  )
  return variables["params"]


def randomised(kind):
  """Parameters of which none is 0, the biases included."""
  rng = np.random.default_rng(2)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), fresh(kind))


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def by_hand(kind, p, carry, x):
  """One step for one example, gate by gate in float64; x [D] -> the new carry."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p)

  def affine(name, x, gate=0):
    at = slice(gate * H, gate * H + H)
    return x @ p[name]["kernel"][:, at] + (p[name]["bias"][at] if "bias" in p[name] else 0)

  def gates(h, *numbers):
    return [affine("input", x, gate) + affine("recurrent", h, gate) for gate in numbers]

  if kind in ("rnn", "rnn_relu"):
    (a,) = gates(carry, 0)
    return np.tanh(a) if kind == "rnn" else np.maximum(a, 0)
  if kind == "lstm":
    memory, h = carry
    i, f, candidate, o = gates(h, 0, 1, 2, 3)
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(candidate)
    return memory, sigmoid(o) * np.tanh(memory)
  r, z = map(sigmoid, gates(carry, 0, 1))
  after, before = r * affine("recurrent_candidate", carry), affine("recurrent_candidate", r * carry)
  past = after if kind == "gru" else before
  return z * carry + (1 - z) * np.tanh(affine("input_candidate", x) + past)


@pytest.mark.parametrize("kind", CELLS)
def test_a_step_follows_the_equations(kind):
  rng = np.random.default_rng(3)
  x = rng.normal(size=(B, D)).astype(np.float32)
  carry = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), initial_carry(kind, B, H))
  params = randomised(kind)
  found, h = make_cell(kind, H).apply({"params": params}, carry, x)
  for row in range(B):
    before, after = (jax.tree.map(operator.itemgetter(row), each) for each in (carry, found))
    chex.assert_trees_all_close(after, by_hand(kind, params, before, x[row]), atol=1e-5)
  np.testing.assert_array_equal(h, hidden(found))


@pytest.mark.parametrize("kind", CELLS)
def test_a_mask_hides_units_of_h_from_every_product_and_nothing_else(kind):
  """What the products see is h with some units at 0; the memory and z ⊙ h stay whole."""
  rng = np.random.default_rng(4)
  x = rng.normal(size=(B, D)).astype(np.float32)
  carry = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), initial_carry(kind, B, H))
  mask = np.array([[0.0, 2.0, 0.0, 2.0]] * B, np.float32)
  cut = randomised(kind)  # the same as weights: rows of W_hh times the mask
  for name in ("recurrent", "recurrent_candidate"):
    if name in cut:
      cut[name] = cut[name] | {"kernel": cut[name]["kernel"] * mask[0][:, None]}
  cell = make_cell(kind, H)
  _, masked = cell.apply({"params": randomised(kind)}, carry, x, mask)
  _, expected = cell.apply({"params": cut}, carry, x)
  np.testing.assert_allclose(masked, expected, atol=1e-5)


@pytest.mark.parametrize(
  ("kind", "parameters"),
  [
    ("rnn", 91_392),
    ("rnn_relu", 91_392),
    ("lstm", 365_568),
    ("gru_original", 274_176),
    ("gru", 274_944),
  ],
)
def test_parameters_are_as_many_as_published(kind, parameters):
  """d_x = 100, d_h = 256: (d_x + d_h + 1) d_h a gate, and 3 d_h more where the reset comes after."""
  assert count(shapes(kind, 100, 256)) == parameters


@pytest.mark.parametrize(("inputs", "hidden_dim"), [(1, 1), (7, 3), (20, 64)])
def test_an_lstm_is_four_simple_cells_and_a_gru_three(inputs, hidden_dim):
  one = count(shapes("rnn", inputs, hidden_dim))
  assert count(shapes("lstm", inputs, hidden_dim)) == 4 * one
  assert count(shapes("gru_original", inputs, hidden_dim)) == 3 * one


@pytest.mark.parametrize("kind", CELLS)
def test_every_recurrent_gate_starts_orthogonal_and_no_two_are_equal(kind):
  params = fresh(kind, 16)
  kernels = [params[name]["kernel"] for name in ("recurrent", "recurrent_candidate") if name in params]
  squares = [gate for kernel in kernels for gate in np.split(kernel, kernel.shape[1] // 16, axis=1)]
  assert len(squares) == GATES[kind]
  for gate in squares:
    np.testing.assert_allclose(gate @ gate.T, np.eye(16), atol=1e-5)
  assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(squares) for b in squares[:i])


@pytest.mark.parametrize("kind", CELLS)
def test_biases_start_at_zero_but_one_for_the_forget_gate(kind):
  biases = {name: layer["bias"] for name, layer in fresh(kind).items() if "bias" in layer}
  if kind == "lstm":
    np.testing.assert_array_equal(biases.pop("input").reshape(4, H), np.eye(4)[1][:, None] * np.ones(H))
  for bias in biases.values():
    np.testing.assert_array_equal(bias, 0)


def test_the_gate_of_the_first_bias_is_the_one_that_keeps_the_memory():
  params = jax.tree.map(np.zeros_like, fresh("lstm"))
  params["input"]["bias"] = np.asarray(fresh("lstm")["input"]["bias"])
  carry = (np.ones((B, H), np.float32), np.zeros((B, H), np.float32))
  (memory, _), _ = make_cell("lstm", H).apply({"params": params}, carry, np.zeros((B, D), np.float32))
  np.testing.assert_allclose(memory, sigmoid(1.0), rtol=1e-6)


@pytest.mark.parametrize("kind", CELLS)
def test_the_first_carry_is_zero_and_has_the_shape_of_the_next(kind):
  cell, carry = make_cell(kind, H), initial_carry(kind, B, H)
  after, _ = cell.apply({"params": fresh(kind)}, carry, np.ones((B, D), np.float32))
  assert all(not leaf.any() for leaf in jax.tree.leaves(carry))
  assert jax.tree.map(jnp.shape, carry) == jax.tree.map(jnp.shape, after)


def test_an_unknown_cell_is_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="'elman' is none of rnn, rnn_relu, lstm, gru, gru_original"):
    make_cell("elman", H)
