import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.recurrent import CharLSTM

B, T, V = 3, 8, 5
MODEL = CharLSTM(embed_dim=4, hidden_dim=6, num_layers=2, vocab_size=V)
TOKENS = np.random.default_rng(0).integers(V, size=(B, T)).astype(np.int32)
KEEP, FORGET = np.zeros(B, np.float32), np.ones(B, np.float32)
apply = jax.jit(MODEL.apply)


@functools.cache
def variables():
  return jax.jit(MODEL.init)(jax.random.key(0), MODEL.initial_carry(B), TOKENS, KEEP)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def lstm_by_hand(p, x):
  """Hochreiter & Schmidhuber with a forget gate, float64; x [B, T, D] -> cell, hidden, outputs [B, T, H]."""
  width = p["hi"]["bias"].shape[0]
  c, h, outputs = np.zeros((B, width)), np.zeros((B, width)), []
  for t in range(x.shape[1]):
    gate = {
      name: x[:, t] @ p["i" + name]["kernel"] + h @ p["h" + name]["kernel"] + p["h" + name]["bias"]
      for name in "ifgo"
    }
    c = sigmoid(gate["f"]) * c + sigmoid(gate["i"]) * np.tanh(gate["g"])
    h = sigmoid(gate["o"]) * np.tanh(c)
    outputs.append(h)
  return c, h, np.stack(outputs, axis=1)


def test_it_follows_the_lstm_equations():
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables()["params"])
  x = p["embed"]["embedding"][TOKENS]
  carries = []
  for layer in range(2):
    c, h, x = lstm_by_hand(p[f"lstm_{layer}"], x)
    carries.append((c, h))
  expected = x @ p["output"]["kernel"] + p["output"]["bias"]
  carry, logits = apply(variables(), MODEL.initial_carry(B), TOKENS, KEEP)
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  chex.assert_trees_all_close(jax.device_get(carry), tuple(carries), atol=1e-5)


def test_two_windows_with_the_carry_equal_one_long_window():
  _, whole = apply(variables(), MODEL.initial_carry(B), TOKENS, KEEP)
  carry, first = apply(variables(), MODEL.initial_carry(B), TOKENS[:, :4], KEEP)
  _, second = apply(variables(), carry, TOKENS[:, 4:], KEEP)
  np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, atol=1e-6)


def test_reset_equals_a_zero_carry_row_by_row():
  carry, _ = apply(variables(), MODEL.initial_carry(B), TOKENS, KEEP)
  mixed = np.array([1.0, 0.0, 1.0], np.float32)
  found = apply(variables(), carry, TOKENS, mixed)[1]
  fresh = apply(variables(), MODEL.initial_carry(B), TOKENS, KEEP)[1]
  going_on = apply(variables(), carry, TOKENS, KEEP)[1]
  np.testing.assert_allclose(found, np.where(mixed[:, None, None] > 0, fresh, going_on), atol=1e-6)
  assert np.abs(fresh - going_on).max() > 1e-3


def test_logits_depend_on_no_later_symbol():
  changed = TOKENS.copy()
  changed[:, 5] = (changed[:, 5] + 1) % V
  before, after = (
    apply(variables(), MODEL.initial_carry(B), tokens, FORGET)[1] for tokens in (TOKENS, changed)
  )
  np.testing.assert_array_equal(before[:, :5], after[:, :5])
  assert np.all(np.any(before[:, 5:] != after[:, 5:], axis=-1))


def test_parameters_are_counted_by_hand():
  lstm = [4 * (inputs * 6 + 6 * 6 + 6) for inputs in (4, 6)]
  count = sum(leaf.size for leaf in jax.tree.leaves(variables()))
  assert count == V * 4 + sum(lstm) + 6 * V + V


def test_the_initial_carry_is_zero_with_the_batch_in_front():
  carry = MODEL.initial_carry(7)
  chex.assert_trees_all_equal(carry, ((jnp.zeros((7, 6)),) * 2,) * 2)


@pytest.mark.parametrize("train", [False, True])
def test_dropout_acts_in_training_only(train):
  model = MODEL.clone(dropout=0.5)

  @jax.jit
  def logits(key):
    carry = MODEL.initial_carry(B)
    return model.apply(variables(), carry, TOKENS, KEEP, train=train, rngs={"dropout": key})[1]

  outputs = [logits(jax.random.key(seed)) for seed in (0, 1)]
  assert np.any(outputs[0] != outputs[1]) == train


@pytest.mark.parametrize(
  ("field", "value"), [("embed_dim", 0), ("hidden_dim", -1), ("num_layers", 0), ("dropout", 1.0)]
)
def test_a_field_that_makes_no_network_is_refused(field, value):
  with pytest.raises(UserError, match=f"--task.model.{field}={value} (is|has)"):
    CharLSTM(**{field: value})
