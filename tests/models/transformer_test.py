"""Transformers as bodies of sequence networks: what they may see, and continued from a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.models.attention import Seen, visible
from dlcourse.models.sequence import LanguageModel, SequenceClassifier
from dlcourse.models.transformer import Block, Layer, Transformer
from dlcourse.task import complete

B, T, M = 2, 6, 8
X = jax.random.normal(jax.random.key(0), (B, T, M))
LENGTHS = jnp.array([6, 4])
SMALL = Layer(hidden_dim=M, num_heads=4, num_kv_heads=2)
POSITIONS = ("none", "sinusoidal", "learned", "rotary", "relative")


def body(**fields):
  return Transformer(**{"layer": SMALL, "num_layers": 2, "max_length": 10, **fields})


@functools.cache
def variables(model):
  return jax.jit(model.init)(jax.random.key(1), X)


def run(model, x=X, lengths=None):
  return jax.jit(model.apply)(variables(model), x, lengths)


EVERY = [
  *(body(positions=positions) for positions in POSITIONS),
  body(causal=True, positions="rotary"),
  body(
    layer=Layer(M, 2, norm_first=False, norm="rms", bias=False, scaled=False, activation="relu", gated=True)
  ),
  body(layer=Layer(M, 2, attention="performer", attention_size=16)),
  body(layer=Layer(M, 2, attention="performer", attention_size=16), causal=True),
  body(layer=Layer(M, 2, attention="linformer", attention_size=4)),
]


@pytest.mark.parametrize("model", EVERY, ids=range(len(EVERY)))
def test_padding_never_changes_an_output(model):
  short, expected = X[1:, :4], run(model, X[1:, :4])
  for junk in (0.0, 7.0):
    x = jnp.concatenate([short, jnp.full((1, 2, M), junk)], axis=1)
    found = run(model, x, jnp.array([4]))
    np.testing.assert_allclose(found.outputs[:, :4], expected.outputs, atol=1e-5)
    np.testing.assert_allclose(found.final, expected.outputs[:, -1], atol=1e-5)
    assert not found.outputs[:, 4:].any()


CAUSAL = [
  *(body(causal=True, positions=positions) for positions in POSITIONS),
  body(causal=True, layer=Layer(M, 2, attention="performer", attention_size=16)),
  body(causal=True, positions="rotary", window=3),
]


@pytest.mark.parametrize("model", CAUSAL, ids=range(len(CAUSAL)))
def test_nothing_leaks_from_the_future(model):
  for t in range(1, T):
    changed = run(model, X.at[:, t:].add(3.0)).outputs
    np.testing.assert_array_equal(changed[:, :t], run(model).outputs[:, :t])  # to the last bit
    assert (changed[:, t] != run(model).outputs[:, t]).any()


def test_a_window_is_what_a_layer_sees():
  model = body(causal=True, positions="rotary", window=3, num_layers=1)
  changed, kept = run(model, X.at[:, 1].add(3.0)).outputs, run(model).outputs
  assert [bool((changed[:, t] != kept[:, t]).any()) for t in range(T)] == [
    False,
    True,
    True,
    True,
    False,
    False,
  ]


@pytest.mark.parametrize("model", [model for model in CAUSAL if model.layer.attention == "softmax"])
@pytest.mark.parametrize("sizes", [(1,) * T, (4, 2), (1, 3, 2)])
def test_continuing_from_a_cache_equals_one_pass(model, sizes):
  carry, parts, start = model.initial_carry(B, T + 2), [], 0
  step = jax.jit(model.apply)
  for size in sizes:
    encoded = step(variables(model), X[:, start : start + size], None, carry)
    parts.append(encoded.outputs)
    carry, start = encoded.carry, start + size
  np.testing.assert_allclose(jnp.concatenate(parts, axis=1), run(model).outputs, atol=1e-5)
  np.testing.assert_array_equal(carry.time, [T] * B)


def test_without_positions_an_encoder_is_equivariant_to_permutations():
  order = jax.random.permutation(jax.random.key(3), T)
  for positions, same in (("none", True), ("sinusoidal", False)):
    model = body(positions=positions)
    found, expected = run(model, X[:, order]).outputs, run(model).outputs[:, order]
    assert np.allclose(found, expected, atol=1e-5) == same


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("depth", [1, 3, 6])
def test_scanned_layers_equal_layers_one_by_one(depth, remat):
  model = body(num_layers=depth, positions="none", remat=remat)
  params = variables(model)["params"]["stack"]
  x, seen = X, Seen(*visible(T, LENGTHS))
  for i in range(depth):
    one = {"params": jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])}
    x, _ = Block(SMALL, False, False, 10).apply(one, x, (None, None), (seen, None), False)
  x = SMALL.make_norm().apply({"params": params["norm"]}, x)
  found = run(model, X, LENGTHS).outputs
  np.testing.assert_allclose(found[0], x[0], atol=1e-5)
  np.testing.assert_allclose(found[1, :4], x[1, :4], atol=1e-5)


def test_remat_changes_no_gradient():
  def gradient(remat):
    model = body(remat=remat)
    loss = lambda params: jnp.sum(model.apply(params, X).outputs[..., 0] ** 2)  # noqa: E731
    return jax.grad(loss)(variables(body()))

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient(True), gradient(False))


def test_compile_time_does_not_grow_with_depth():
  def size(depth):
    model = body(num_layers=depth)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    return len(jax.jit(model.apply).lower(shapes, X).as_text())

  assert size(24) < 1.2 * size(8)


def test_a_layer_has_the_parameters_of_the_paper():
  """The base model of 2017: 4 d² + 8 d² a layer, with biases and two norms 3,152,384."""
  model = Transformer(Layer(hidden_dim=512, num_heads=8, mlp_dim=2048, norm_first=False), num_layers=1)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 512)))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 3_152_384


def test_half_precision_is_of_the_computation_alone():
  model = body(layer=Layer(M, 2, compute="bfloat16"))
  assert {leaf.dtype for leaf in jax.tree.leaves(variables(model))} == {jnp.dtype("float32")}
  exact = run(body(layer=Layer(M, 2))).outputs
  found = run(model).outputs
  assert np.abs(found - exact).max() < 0.1
  assert np.abs(found - exact).max() > 1e-5


def test_a_language_model_forgets_where_a_stream_begins():
  model = LanguageModel(body(causal=True), embed_dim=M, vocab_size=11)
  tokens = jax.random.randint(jax.random.key(0), (B, T), 0, 11)
  params = jax.jit(model.init)(jax.random.key(1), (), tokens)
  _, expected = model.apply(params, (), tokens)
  carry, _ = model.apply(params, model.initial_carry(B, 2 * T), tokens)
  _, anew = model.apply(params, carry, tokens, jnp.ones(B))
  np.testing.assert_allclose(anew, expected, atol=1e-5)
  _, on = model.apply(params, carry, tokens, jnp.zeros(B))
  assert np.abs(on - expected).max() > 1e-3


def test_it_is_a_body_of_every_sequence_network():
  spec = Spec({}, classes=("a", "b", "c"), vocabulary=tuple("abcdefg"))
  model = complete(SequenceClassifier(body()), spec)
  tokens = jnp.zeros((B, T), int)
  params = model.init(jax.random.key(0), tokens, LENGTHS)  # embeddings of another width are projected
  assert model.apply(params, tokens, LENGTHS).shape == (B, 3)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"layer": Layer(M, 2, attention="linformer"), "causal": True}, "cannot be causal"),
    ({"layer": Layer(M, 2, attention="performer"), "positions": "relative"}, "has no scores"),
    ({"layer": Layer(9, 3), "positions": "rotary"}, "has to be even"),
    ({"num_layers": 0}, "num_layers=0 is too small"),
    ({"window": 3}, "goes with a causal"),
  ],
)
def test_what_cannot_be_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    body(**fields)


@pytest.mark.parametrize(
  ("model", "said"),
  [
    (body(), "sees the future"),
    (body(causal=True, layer=Layer(M, 2, attention="performer")), "keeps no keys"),
    (body(causal=True, positions="learned"), "12 places are more than"),
  ],
)
def test_what_cannot_be_continued_is_refused(model, said):
  assert model.initial_carry(B) == ()
  with pytest.raises(UserError, match=said):
    model.initial_carry(B, 12)


def test_a_norm_that_could_divide_by_0_is_refused():
  with pytest.raises(UserError, match="keeps no norm from dividing by 0"):
    Layer(M, 2, epsilon=0.0)


def test_a_sequence_longer_than_the_learned_positions_is_refused():
  with pytest.raises(UserError, match="12 places are more than"):
    body(positions="learned").init(jax.random.key(0), jnp.zeros((1, 12, M)))
