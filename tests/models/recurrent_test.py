"""Recurrent layers through time: lengths, directions, layers, carries and dropout."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import once

from dlcourse.errors import UserError
from dlcourse.models.cells import hidden, initial_carry, make_cell
from dlcourse.models.recurrent import RecurrentStack

B, T, D, H = 4, 7, 3, 5
CELLS = ("rnn", "rnn_relu", "lstm", "gru", "gru_original")
LENGTHS = np.array([7, 1, 4, 0], np.int32)
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
DEEP = functools.partial(RecurrentStack, hidden_dim=H, num_layers=2)


@functools.cache
def variables(model, inputs=D):
  """Random ones, so that no bias is 0."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, inputs)))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes)


@functools.cache
def program(model):
  return once(model.apply)


def run(model, x, lengths=None, carry=None):
  return program(model)(variables(model), x, lengths, carry)


@functools.cache
def step_of(kind):
  return once(make_cell(kind, H).apply)


def layer_by_hand(kind, params, x):
  """One layer, one sequence x [T, D], a Python loop over the cell -> outputs [T, H], the last h [H]."""
  carry, outputs = initial_carry(kind, 1, H), []
  for now in x:
    carry, h = step_of(kind)({"params": params}, carry, now[None])
    outputs.append(np.asarray(h[0]))
  return np.array(outputs).reshape(-1, H), np.asarray(hidden(carry)[0])


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_row_is_its_sequence_alone_layer_by_layer(kind, bidirectional):
  """In reverse, the sequence without its padding turned around."""
  model = DEEP(kind, bidirectional=bidirectional)
  found = run(model, X, LENGTHS)
  params = variables(model)["params"]
  for row, length in enumerate(LENGTHS):
    x = X[row, :length]
    for layer in range(2):
      outputs, final = layer_by_hand(kind, params[f"forward_{layer}"], x)
      if bidirectional:
        backward, first = layer_by_hand(kind, params[f"backward_{layer}"], x[::-1])
        outputs = np.concatenate([outputs, backward[::-1]], axis=1)
        final = np.concatenate([final, first])
      x = outputs
    np.testing.assert_allclose(found.outputs[row, :length], x, atol=1e-5)
    np.testing.assert_array_equal(found.outputs[row, length:], 0)
    np.testing.assert_allclose(found.final[row], final, atol=1e-5)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_neither_what_padding_holds_nor_how_much_of_it_there_is_matters(kind, bidirectional):
  model = DEEP(kind, bidirectional=bidirectional)
  expected = run(model, X, LENGTHS)
  other = np.where(np.arange(T)[:, None] < LENGTHS[:, None, None], X, 1e6).astype(np.float32)
  chex.assert_trees_all_equal(run(model, other, LENGTHS), expected)
  longer = run(model, np.pad(X, [(0, 0), (0, 5), (0, 0)], constant_values=-3), LENGTHS)
  chex.assert_trees_all_close(longer._replace(outputs=longer.outputs[:, :T]), expected, atol=1e-6)
  np.testing.assert_array_equal(longer.outputs[:, T:], 0)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_padding_has_no_gradient_and_gives_none(kind):
  model = DEEP(kind, bidirectional=True)

  @once
  def gradients(x):
    return jax.grad(lambda v, x: (model.apply(v, x, LENGTHS).outputs ** 2).sum(), argnums=(0, 1))(
      variables(model), x
    )

  counts = np.arange(T)[:, None] < LENGTHS[:, None, None]
  of_weights, of_inputs = gradients(X)
  np.testing.assert_array_equal(np.where(counts, 0, of_inputs), 0)
  assert np.all(np.any(of_inputs != 0, axis=-1)[counts[..., 0]])
  chex.assert_trees_all_equal(gradients(np.where(counts, X, 9).astype(np.float32))[0], of_weights)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_full_lengths_are_no_lengths(bidirectional):
  model = DEEP("lstm", bidirectional=bidirectional)
  chex.assert_trees_all_close(run(model, X, np.full(B, T)), run(model, X), atol=1e-6)


@pytest.mark.parametrize("kind", CELLS)
def test_any_parts_one_after_the_other_are_the_whole(kind):
  model = DEEP(kind)
  whole = run(model, X)
  for chunks in ((3, 4), (1,) * T, (6, 1)):
    carry, parts, start = model.initial_carry(B), [], 0
    for size in chunks:
      part = run(model, X[:, start : start + size], carry=carry)
      carry, start = part.carry, start + size
      parts.append(part.outputs)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole.outputs, atol=1e-6)
    np.testing.assert_allclose(part.final, whole.final, atol=1e-6)
    chex.assert_trees_all_close(carry, whole.carry, atol=1e-6)


def test_the_carry_of_an_ended_sequence_is_that_of_its_last_step():
  """So parts may hold padding: what has ended before goes on from where it was."""
  model = DEEP("lstm")
  lengths = np.array([2, 3, 1, 2], np.int32)
  rest = 4
  carry = run(model, X[:, :3], lengths).carry
  found = run(model, X[:, 3:], carry=carry)
  for row, length in enumerate(lengths):
    alone = np.concatenate([X[row, :length], X[row, 3:]])[None]
    expected = run(model, np.repeat(alone, B, axis=0)).outputs[0, -rest:]
    np.testing.assert_allclose(found.outputs[row], expected, atol=1e-6)


def test_the_first_carry_is_zero_with_the_batch_in_front():
  zeros = jnp.zeros((9, H))
  chex.assert_trees_all_equal(DEEP("lstm").initial_carry(9), ((zeros, zeros),) * 2)
  chex.assert_trees_all_equal(DEEP("gru").initial_carry(9), (zeros,) * 2)
  model = DEEP("gru")
  chex.assert_trees_all_equal(run(model, X), run(model, X, carry=model.initial_carry(B)))


def test_both_directions_cannot_be_continued():
  model = DEEP("gru", bidirectional=True)
  assert run(model, X).carry == ()
  with pytest.raises(UserError, match="reads the future"):
    model.initial_carry(B)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_parameters_of_each_layer_have_their_name_and_read_the_layer_below(bidirectional):
  params = variables(DEEP("lstm", bidirectional=bidirectional))["params"]
  directions = ("forward", "backward") if bidirectional else ("forward",)
  assert set(params) == {f"{direction}_{layer}" for direction in directions for layer in (0, 1)}
  for direction in directions:
    for layer, inputs in enumerate((D, H * len(directions))):
      assert params[f"{direction}_{layer}"]["input"]["kernel"].shape == (inputs, 4 * H)


# Dropout.


def copying(**fields):
  """A layer of which h_t = x_t, to see what is dropped: f = ReLU, W_xh = I, W_hh = 0."""
  model = RecurrentStack("rnn_relu", D, **fields)
  cell = {
    "input": {"kernel": np.eye(D, dtype=np.float32), "bias": np.zeros(D, np.float32)},
    "recurrent": {"kernel": np.zeros((D, D), np.float32)},
  }
  return lambda x, key, train=True: model.apply(
    {"params": {"forward_0": cell}}, x, train=train, rngs={"dropout": jax.random.key(key)}
  )


def test_standard_dropout_draws_another_mask_at_every_step():
  ones = np.ones((50, 20, D), np.float32)
  found = np.asarray(copying(dropout=0.25)(ones, 0).outputs)
  np.testing.assert_allclose(np.unique(found), [0, 1 / 0.75], rtol=1e-6)
  np.testing.assert_allclose((found > 0).mean(), 0.75, atol=0.03)
  of_step = (found > 0).mean(axis=1)  # had all steps one mask, 0 or 1
  assert np.all((of_step > 0) & (of_step < 1), axis=None)


def test_variational_dropout_draws_one_mask_for_all_steps_of_a_sequence():
  ones = np.ones((200, 20, D), np.float32)
  found = np.asarray(copying(dropout=0.25, dropout_kind="variational")(ones, 0).outputs)
  np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1], found.shape))
  np.testing.assert_allclose((found > 0).mean(), 0.75, atol=0.06)
  assert len(np.unique(found[:, 0] > 0, axis=0)) == 2**D  # sequences and inputs have masks of their own


def test_recurrent_dropout_hides_a_unit_at_all_steps_or_at_none():
  """h_t = 1 + h_(t-1) m/0.5: ones where the unit is unseen, 1, 3, 7, 15 where it is seen."""
  model = RecurrentStack("rnn_relu", D, recurrent_dropout=0.5)
  cell = {
    "input": {"kernel": np.zeros((1, D), np.float32), "bias": np.ones(D, np.float32)},
    "recurrent": {"kernel": np.eye(D, dtype=np.float32)},
  }
  x = np.zeros((200, 4, 1), np.float32)
  found = model.apply({"params": {"forward_0": cell}}, x, train=True, rngs={"dropout": jax.random.key(0)})
  seen = np.asarray(found.outputs[:, -1] > 1)  # [B, H]
  expected = np.where(seen[:, None], np.array([1, 3, 7, 15])[:, None], 1)
  np.testing.assert_array_equal(found.outputs, expected)
  np.testing.assert_allclose(seen.mean(), 0.5, atol=0.08)
  assert len(np.unique(seen, axis=0)) == 2**D


@pytest.mark.parametrize(
  "fields", [{"dropout": 0.5}, {"dropout": 0.5, "dropout_kind": "variational"}, {"recurrent_dropout": 0.5}]
)
def test_dropout_acts_in_training_only(fields):
  model = DEEP("gru", bidirectional=True, **fields)

  def outputs(key, train):
    apply = once(functools.partial(model.apply, train=train))
    return apply(variables(model), X, rngs={"dropout": jax.random.key(key)}).outputs

  np.testing.assert_array_equal(outputs(0, False), outputs(1, False))
  np.testing.assert_array_equal(outputs(0, True), outputs(0, True))
  assert np.any(outputs(0, True) != outputs(1, True))


def test_each_direction_draws_its_own_recurrent_mask():
  model = RecurrentStack("rnn_relu", 40, bidirectional=True, recurrent_dropout=0.5)
  cell = {
    "input": {"kernel": np.zeros((1, 40), np.float32), "bias": np.ones(40, np.float32)},
    "recurrent": {"kernel": np.eye(40, dtype=np.float32)},
  }
  params = {"forward_0": cell, "backward_0": cell}
  x = np.zeros((1, 3, 1), np.float32)
  found = model.apply({"params": params}, x, train=True, rngs={"dropout": jax.random.key(0)})
  forward, backward = np.split(np.asarray(found.final[0] > 1), 2)
  assert np.any(forward != backward)


@pytest.mark.parametrize(
  ("field", "value"),
  [("hidden_dim", 0), ("num_layers", -1), ("dropout", 1.0), ("recurrent_dropout", -0.1)],
)
def test_a_field_that_makes_no_network_is_refused(field, value):
  with pytest.raises(UserError, match=f"--task.model….{field}={value} (is|has)"):
    RecurrentStack(**{field: value})


def test_the_forget_bias_of_every_lstm_layer_starts_where_the_stack_says():
  stack = RecurrentStack("lstm", hidden_dim=3, num_layers=2, bidirectional=True, forget_bias=0.5)
  params = stack.init(jax.random.key(0), jnp.zeros((1, 2, 4)))["params"]
  assert len(params) == 4
  for layer in params.values():
    np.testing.assert_array_equal(layer["input"]["bias"], np.repeat([0, 0.5, 0, 0], 3))


def test_an_unknown_cell_is_refused_when_the_network_is_built():
  with pytest.raises(ValueError, match="cell 'elman' is none of"):
    jax.eval_shape(RecurrentStack("elman").init, jax.random.key(0), X)
