"""Back-propagation by hand against `jax.grad`; rates and bounds against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcourse.models.cells import initial_carry, make_cell
from dlcourse.theory import bptt

T, D, H = 12, 3, 5
F = {"tanh": jnp.tanh, "relu": jax.nn.relu, "linear": lambda a: a}


def layer(seed=0):
  rng = np.random.default_rng(seed)
  return bptt.Rnn(*(rng.normal(scale=0.3, size=shape) for shape in ((D, H), (H, H), (H,))))


def sequence(seed=1):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(T, D)), rng.normal(size=H), rng.normal(size=(T, H))


def loss(rnn, x, start, nudges, targets, activation):
  """½ Σ_t |h_t - target_t|², through states to which `nudges` [T + 1, H] add."""
  h, total = start + nudges[0], 0.0
  for now, nudge, target in zip(x, nudges[1:], targets, strict=True):
    h = F[activation](now @ rnn.inputs + h @ rnn.recurrent + rnn.bias) + nudge
    total += 0.5 * jnp.sum((h - target) ** 2)
  return total


@pytest.mark.parametrize("activation", ["tanh", "relu", "linear"])
def test_every_gradient_by_hand_is_that_of_autodiff(activation):
  rnn, (x, start, targets) = layer(), sequence()
  states = bptt.forward(rnn, x, start, activation)
  found = bptt.backward(rnn, x, states, states[1:] - targets, activation)
  differentiate = jax.jit(jax.grad(functools.partial(loss, activation=activation), argnums=(0, 1, 2, 3)))
  weights, inputs, first, all_states = differentiate(rnn, x, start, np.zeros((T + 1, H)), targets)
  for ours, theirs in zip(found.weights, weights, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found.inputs, inputs, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found.states[0], first, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found.states, all_states, rtol=1e-5, atol=1e-5)


def test_the_states_are_those_of_the_cell_that_is_trained():
  rnn, (x, start, _) = layer(), sequence()
  params = {"input": {"kernel": rnn.inputs, "bias": rnn.bias}, "recurrent": {"kernel": rnn.recurrent}}
  h, found = start[None].astype(np.float32), bptt.forward(rnn, x, start)
  for t, now in enumerate(x):
    h, _ = make_cell("rnn", H).apply({"params": params}, h, now[None])
    np.testing.assert_allclose(found[t + 1], h[0], atol=1e-5)


def test_an_unknown_activation_is_refused():
  with pytest.raises(ValueError, match="'sigmoid' is none of tanh, relu, linear"):
    bptt.forward(layer(), *sequence()[:2], "sigmoid")


@pytest.mark.parametrize("threshold", [1e-3, 1.0, 5.0, 1e3])
def test_clipping_is_that_of_optax(threshold):
  rng = np.random.default_rng(0)
  gradient = {"a": rng.normal(size=(4, 3)).astype(np.float32), "b": [rng.normal(size=5).astype(np.float32)]}
  rule = optax.clip_by_global_norm(threshold)
  expected, _ = rule.update(gradient, rule.init(gradient))
  found = bptt.clip(gradient, threshold)
  for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
  before, after = (np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(x))) for x in (gradient, found))
  np.testing.assert_allclose(after, min(threshold, before), rtol=1e-5)


def test_a_gradient_of_zero_stays_zero():
  np.testing.assert_array_equal(bptt.clip(np.zeros(3), 1.0), 0)


@pytest.mark.parametrize("radius", [0.3, 1.0, 2.5])
def test_a_scaled_matrix_has_the_radius(radius):
  matrix = bptt.with_radius(np.random.default_rng(0).normal(size=(9, 9)), radius)
  np.testing.assert_allclose(np.abs(np.linalg.eigvals(matrix)).max(), radius)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3])
def test_the_rate_of_a_geometric_series_is_its_factor(factor):
  np.testing.assert_allclose(bptt.rate(7 * factor ** np.arange(20)), factor)


def test_the_rate_leaves_out_what_has_vanished_altogether():
  np.testing.assert_allclose(bptt.rate([1, 0.5, 0.25, 0, 0]), 0.5)


@pytest.mark.parametrize("radius", [0.8, 1.0, 1.25])
def test_a_linear_layer_with_an_orthogonal_matrix_meets_its_bound(radius):
  (flow,) = bptt.compare_flows((radius,), (), "linear", steps=30, hidden=16)
  np.testing.assert_allclose(flow.norms, radius ** np.arange(31))
  np.testing.assert_allclose([flow.rate, flow.bound], radius)


def test_no_step_lengthens_a_gradient_by_more_than_the_bound():
  rng = np.random.default_rng(0)
  for activation in ("tanh", "relu"):
    for radius in (0.5, 1.0, 1.5):
      rnn = bptt.Rnn(np.eye(16), bptt.with_radius(rng.normal(size=(16, 16)), radius), np.zeros(16))
      flow = bptt.simple_flow(rnn, 0.5 * rng.normal(size=(40, 16)), rng.normal(size=16), activation)
      assert np.all(flow.norms[1:] <= flow.norms[:-1] * flow.bound * (1 + 1e-9))
      assert flow.rate < flow.bound


def test_the_norms_are_those_of_the_gradient_that_autodiff_finds():
  rnn, (x, _, toward) = layer(), sequence()

  def last(nudges):
    h = jnp.zeros(H)
    for now, nudge in zip(x, nudges, strict=True):
      h = jnp.tanh(now @ rnn.inputs + (h + nudge) @ rnn.recurrent + rnn.bias)
    return h @ toward[0]

  norms = np.linalg.norm(jax.jit(jax.grad(last))(np.zeros((T, H))), axis=1)  # of ∂L/∂h_0 … ∂L/∂h_(T-1)
  flow = bptt.simple_flow(rnn, x, toward[0])
  np.testing.assert_allclose(flow.norms[1:], norms[::-1] / np.linalg.norm(toward[0]), rtol=1e-4)


def test_gradients_vanish_stay_or_explode_as_the_radius_says_and_the_memory_keeps_them():
  below, one, above, short, long = bptt.compare_flows(activation="linear")
  assert below.norms[-1] < 1e-9
  np.testing.assert_allclose(one.norms, 1)
  assert above.norms[-1] > 1e9
  assert short.norms[-1] < 1e-9  # a gate of σ(1) = 0.73 forgets as fast
  assert long.norms[-1] > 0.4
  tanh = bptt.compare_flows()
  assert [flow.rate < flow.bound for flow in tanh] == [True] * 5


# The LSTM.


def lstm_parameters():
  rng = np.random.default_rng(5)
  shapes = jax.eval_shape(
    make_cell("lstm", H).init, jax.random.key(0), initial_carry("lstm", 1, H), jnp.zeros((1, D))
  )["params"]
  params = jax.tree.map(lambda leaf: rng.normal(scale=0.7, size=leaf.shape).astype(np.float32), shapes)
  params["input"]["bias"] = np.repeat([0, 2, 0, 0], H).astype(np.float32)  # b_f
  return params


def forget(params, x):
  return bptt.forget_gates(params["recurrent"]["kernel"], x @ params["input"]["kernel"], 2.0)


def test_the_additive_path_is_the_gradient_where_h_is_not_followed():
  params, (x, _, toward) = lstm_parameters(), sequence()

  def last(nudges):
    memory, h = initial_carry("lstm", 1, H)
    for now, nudge in zip(x, nudges, strict=True):
      (memory, h), _ = make_cell("lstm", H).apply({"params": params}, (memory + nudge, h), now[None])
      h = jax.lax.stop_gradient(h)
    return memory[0] @ toward[0]

  found = bptt.additive_flow(forget(params, x), toward[0])
  norms = np.linalg.norm(jax.jit(jax.grad(last))(np.zeros((T, H), np.float32)), axis=1)
  np.testing.assert_allclose(found.norms[1:], norms[::-1] / np.linalg.norm(toward[0]), rtol=1e-4)


def test_the_memory_fades_by_the_product_of_its_gates():
  flow = bptt.additive_flow(np.full((30, H), 0.9), np.ones(H))
  np.testing.assert_allclose(flow.norms, 0.9 ** np.arange(31))
  np.testing.assert_allclose([flow.rate, flow.bound], 0.9)
  kept = np.linspace(0.5, 0.99, H) * np.ones((30, H))
  flow = bptt.additive_flow(kept, np.ones(H))
  assert np.all(flow.norms <= flow.bound ** np.arange(31) * (1 + 1e-9))
