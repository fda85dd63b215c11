"""Recurrent layers of PyTorch and Keras: equal outputs from equal weights, both ways without losing a bit."""

import functools
import importlib
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import once

from dlcourse.errors import UserError
from dlcourse.interop.recurrent import as_keras, as_torch, from_keras, from_torch
from dlcourse.models.recurrent import RecurrentStack

B, T, D, H = 3, 20, 4, 6
LENGTHS = np.array([20, 1, 13], np.int32)
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
INSIDE = (np.arange(T) < LENGTHS[:, None])[..., None]
TORCH = {
  "rnn": ("RNN", {}),
  "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
  "lstm": ("LSTM", {}),
  "gru": ("GRU", {}),
}
KERAS = {
  "rnn": ("SimpleRNN", {}),
  "rnn_relu": ("SimpleRNN", {"activation": "relu"}),
  "lstm": ("LSTM", {}),
  "gru": ("GRU", {}),
  "gru_original": ("GRU", {"reset_after": False}),
}
STACKS = [(1, False), (1, True), (2, False), (2, True)]


@functools.cache
def shapes(cell, layers=1, both=False):
  return jax.eval_shape(stack(cell, layers, both).init, jax.random.key(0), jnp.zeros((1, 2, D)))


def stack(cell, layers=1, both=False):
  return RecurrentStack(cell, H, layers, both)


def random(tree):
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32), tree)


def same(a, b):
  np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-5)


# PyTorch.


def torch_layer(cell, layers, both):
  """A layer whose weights and biases are all random."""
  torch = importlib.import_module("torch")
  kind, options = TORCH[cell]
  layer = getattr(torch.nn, kind)(D, H, layers, batch_first=True, bidirectional=both, **options)
  return layer, random({name: weight.detach().numpy() for name, weight in layer.named_parameters()})


def with_state(layer, state):
  torch = importlib.import_module("torch")
  layer.load_state_dict({name: torch.tensor(np.array(array)) for name, array in state.items()})
  return layer


@pytest.mark.parity
@pytest.mark.parametrize("cell", TORCH)
@pytest.mark.parametrize(("layers", "both"), STACKS)
def test_pytorchs_layers_give_the_same_outputs(cell, layers, both):
  torch = importlib.import_module("torch")
  layer, state = torch_layer(cell, layers, both)
  variables = from_torch(shapes(cell, layers, both), state)
  apply = once(stack(cell, layers, both).apply)
  outputs, last = with_state(layer, state)(torch.tensor(X))
  h = last[0] if cell == "lstm" else last
  found = apply(variables, X)
  same(found.outputs, outputs.detach())
  same(found.final, torch.cat([*h[-1 - both :]], dim=1).detach())
  if not both:
    ours = [c if cell == "lstm" else (c,) for c in found.carry]
    theirs = (last[1], last[0]) if cell == "lstm" else (last,)  # ours is (C, h)
    same(ours, np.stack([x.detach().numpy() for x in theirs], axis=1))

  pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
  packed, last = layer(pack(torch.tensor(X), LENGTHS.tolist(), batch_first=True, enforce_sorted=False))
  h = last[0] if cell == "lstm" else last
  found = apply(variables, X, LENGTHS)
  same(found.outputs, pad(packed, batch_first=True)[0].detach())
  same(found.final, torch.cat([*h[-1 - both :]], dim=1).detach())

  back = with_state(torch_layer(cell, layers, both)[0], as_torch(variables))
  same(back(torch.tensor(X))[0].detach(), outputs.detach())


@pytest.mark.parametrize("cell", TORCH)
@pytest.mark.parametrize(("layers", "both"), STACKS)
def test_to_pytorch_and_back_no_bit_is_lost(cell, layers, both):
  variables = random(shapes(cell, layers, both))
  state = as_torch(variables)
  assert len(state) == 4 * layers * (1 + both)
  assert state["weight_ih_l0"].shape == (H * {"lstm": 4, "gru": 3}.get(cell, 1), D)
  chex.assert_trees_all_equal(from_torch(shapes(cell, layers, both), state), variables)


def test_pytorchs_state_of_a_gru_comes_back_as_it_was():
  state = as_torch(random(shapes("gru", 2, True)))
  chex.assert_trees_all_equal(as_torch(from_torch(shapes("gru", 2, True), state)), state)


def test_one_bias_becomes_the_sum_of_two_and_two_stay_two():
  for cell in ("lstm", "gru"):
    state = as_torch(random(shapes(cell)))
    state["bias_hh_l0"] = np.full_like(state["bias_ih_l0"], 2)
    params = from_torch(shapes(cell), state)["params"]["forward_0"]
    added = 2 if cell == "lstm" else 0
    expected = (state["bias_ih_l0"] + added)[: params["input"]["bias"].size]
    np.testing.assert_array_equal(params["input"]["bias"], expected)
  np.testing.assert_array_equal(params["recurrent"]["bias"], 2)  # of the GRU


@pytest.mark.parametrize(
  ("change", "line"),
  [
    (lambda state: state.pop("weight_hh_l1"), "1 missing, the first 'weight_hh_l1'"),
    (lambda state: state.update(weight_hr_l0=np.zeros(3)), "no place for, the first 'weight_hr_l0'"),
    (lambda state: state.pop("bias_hh_l0"), None),  # a layer that somebody has already added up
    (lambda state: state.update(bias_hh_l0=np.zeros(1)), "no place for, the first 'bias_hh_l0'"),
    (lambda state: state.update(weight_ih_l0=np.zeros((5, D))), "1 of another shape"),
  ],
)
def test_a_state_of_another_layer_is_refused(change, line):
  state = as_torch(random(shapes("lstm", 2)))
  change(state)
  if line is None:
    from_torch(shapes("lstm", 2), state)
    return
  with pytest.raises(UserError, match=line):
    from_torch(shapes("lstm", 2), state)


def test_a_gru_that_resets_before_the_product_is_none_of_pytorchs():
  with pytest.raises(UserError, match="resets before the product"):
    as_torch(random(shapes("gru_original")))


# Keras.


@functools.cache
def keras_network(cell, layers, both):
  """Layers with random weights and biases, of which the last gives all its outputs and its last ones."""
  os.environ["KERAS_BACKEND"] = "jax"
  keras = importlib.import_module("keras")
  kind, options = KERAS[cell]
  built = []
  for _ in range(layers):
    layer = getattr(keras.layers, kind)(H, return_sequences=True, **options)
    built.append(keras.layers.Bidirectional(layer) if both else layer)
    built[-1].build((B, T, D if len(built) == 1 else H * (1 + both)))
    built[-1].set_weights(random(built[-1].get_weights()))
  return built


def keras_outputs(network, mask=None):
  y = X
  for layer in network:
    y = layer(y, mask=mask)
  return np.asarray(y)


@pytest.mark.parity
@pytest.mark.parametrize("cell", KERAS)
@pytest.mark.parametrize(("layers", "both"), STACKS)
def test_kerass_layers_give_the_same_outputs(cell, layers, both):
  network = keras_network(cell, layers, both)
  variables = from_keras(shapes(cell, layers, both), [layer.get_weights() for layer in network])
  apply = once(stack(cell, layers, both).apply)
  same(apply(variables, X).outputs, keras_outputs(network))
  masked = keras_outputs(network, INSIDE[..., 0])  # it repeats the last output where a sequence has ended
  same(apply(variables, X, LENGTHS).outputs, np.where(INSIDE, masked, 0))


@pytest.mark.parity
@pytest.mark.parametrize("cell", KERAS)
def test_keras_takes_what_is_given_back(cell):
  network = keras_network(cell, 2, True)
  theirs = [layer.get_weights() for layer in network]
  back = as_keras(from_keras(shapes(cell, 2, True), theirs))
  for layer, weights in zip(network, back, strict=True):
    layer.set_weights(weights)
  chex.assert_trees_all_equal([layer.get_weights() for layer in network], theirs)


@pytest.mark.parametrize("cell", KERAS)
@pytest.mark.parametrize(("layers", "both"), STACKS)
def test_to_keras_and_back_no_bit_is_lost(cell, layers, both):
  variables = random(shapes(cell, layers, both))
  weights = as_keras(variables)
  assert [len(layer) for layer in weights] == [3 * (1 + both)] * layers
  chex.assert_trees_all_equal(from_keras(shapes(cell, layers, both), weights), variables)


def test_keras_has_the_update_gate_of_a_gru_first():
  r, z, h = (np.full(H, value, np.float32) for value in (1, 2, 3))
  variables = random(shapes("gru"))
  layer = variables["params"]["forward_0"]
  layer["input"]["bias"], layer["input_candidate"]["bias"] = np.concatenate([r, z]), h
  ((_, _, bias),) = as_keras(variables)
  np.testing.assert_array_equal(bias[0], np.concatenate([z, r, h]))
  np.testing.assert_array_equal(as_torch(variables)["bias_ih_l0"], np.concatenate([r, z, h]))


@pytest.mark.parametrize(
  "change",
  [
    lambda layers: layers.pop(),
    lambda layers: layers[0].pop(),
    lambda layers: layers.reverse(),
    lambda layers: layers[0].__setitem__(2, layers[0][2][0]),  # the bias of a GRU without reset_after
  ],
)
def test_weights_of_other_layers_are_refused(change):
  layers = as_keras(random(shapes("gru", 2)))
  change(layers)
  with pytest.raises(UserError, match=r"not those of the model: shapes .* where it has \[\[\(4, 18\)"):
    from_keras(shapes("gru", 2), layers)


def test_variables_of_another_network_are_refused():
  with pytest.raises(UserError, match="recurrent stack, got the layers conv1"):
    as_keras({"params": {"conv1": {}}})
