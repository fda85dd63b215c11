import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.seq2seq import Attention, EncoderDecoder, ImageEncoder, SequenceEncoder, Source
from dlcourse.models.sequence import Frontend

B, S, T, H, V = 3, 5, 4, 6, 7
RNG = np.random.default_rng(0)
INPUTS = RNG.integers(V, size=(B, S)).astype(np.int32)
LENGTHS = np.array([5, 2, 3], np.int32)
TOKENS = RNG.integers(V, size=(B, T)).astype(np.int32)
KINDS = ("none", "additive", "dot", "general")


def network(attention="additive", cell="lstm", num_layers=1):
  body = RecurrentStack(cell, hidden_dim=H // 2, bidirectional=True)
  encoder = SequenceEncoder(body, Frontend(embed_dim=4, vocab_size=V))
  return EncoderDecoder(encoder, attention, cell, H, num_layers, embed_dim=4, vocab_size=V)


@functools.cache
def variables(model):
  found = jax.jit(model.init)(jax.random.key(0), TOKENS, INPUTS, LENGTHS)
  keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(found))))
  return jax.tree.map(lambda x: 0.7 * jax.random.normal(next(keys), x.shape), found)


def asked(model, inputs, tokens):
  return jax.jit(model.apply)(variables(model), tokens, inputs, LENGTHS)


@functools.cache
def answers(model):
  return asked(model, INPUTS, TOKENS)


@functools.partial(jax.jit, static_argnums=0)
def token_by_token(model, variables):
  source = model.apply(variables, INPUTS, LENGTHS, method="encode")
  state, rows = model.apply(variables, source, method="start", steps=9), []
  for t in range(T):
    state, logits, weights = model.apply(variables, source, state, TOKENS[:, t], method="step")
    rows.append((logits, weights))
  return tuple(jnp.stack(part, axis=1) for part in zip(*rows, strict=True))


@pytest.mark.parametrize("attention", KINDS)
def test_token_by_token_equals_teacher_forcing(attention):
  model = network(attention)
  chex.assert_trees_all_close(token_by_token(model, variables(model)), answers(model), atol=1e-6)


def test_stacked_layers_of_other_cells_agree_too():
  model = network("general", "gru", num_layers=2)
  chex.assert_trees_all_close(token_by_token(model, variables(model)), answers(model), atol=1e-6)


@pytest.mark.parametrize("attention", KINDS)
def test_padding_of_the_source_changes_nothing(attention):
  model = network(attention)
  longer = np.pad(INPUTS, [(0, 0), (0, 3)], constant_values=V - 1)
  longer[1, 2:] = 3
  logits, weights = asked(model, longer, TOKENS)
  np.testing.assert_allclose(logits, answers(model)[0], atol=1e-6)
  np.testing.assert_allclose(weights[:, :, :S], answers(model)[1], atol=1e-6)


@pytest.mark.parametrize("attention", KINDS[1:])
def test_weights_sum_to_one_over_the_places_there_are(attention):
  weights = np.asarray(answers(network(attention))[1])
  assert weights.shape == (B, T, S)
  np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
  assert (weights[1, :, 2:] == 0).all()
  assert weights[0].min() > 0


def test_without_attention_nothing_is_looked_at():
  assert not np.any(answers(network("none"))[1])


@pytest.mark.parametrize("attention", KINDS)
def test_an_answer_depends_on_the_source_and_on_earlier_tokens_only(attention):
  model = network(attention)
  changed = TOKENS.copy()
  changed[:, 2] = (changed[:, 2] + 1) % V
  logits = asked(model, INPUTS, changed)[0]
  before = np.asarray(answers(model)[0])
  np.testing.assert_array_equal(logits[:, :2], before[:, :2])
  assert np.all(np.any(logits[:, 2:] != before[:, 2:], axis=-1))
  other = asked(model, (INPUTS + 1) % V, TOKENS)[0]
  assert np.all(np.any(other != before, axis=-1))


def softmax(x):
  return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_scores_are_those_of_the_papers(kind):
  module, values, query = Attention(kind, H), RNG.normal(size=(2, S, H)), RNG.normal(size=(2, H))
  mask = np.arange(S) < np.array([[S], [3]])

  def look(module, values, query):
    return module(query, Source(values, mask, None, module.keys(values)))

  found = module.init(jax.random.key(0), values, query, method=look)
  found = jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape), jnp.float32), found)
  context, weights = module.apply(found, values, query, method=look)
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), found.get("params", {}))
  for row in range(2):
    places = values[row, : mask[row].sum()]
    match kind:
      case "additive":
        u = places @ p["key"]["kernel"] + p["key"]["bias"]
        scores = np.tanh(query[row] @ p["query"]["kernel"] + u) @ p["score"]["kernel"][:, 0]
      case "dot":
        scores = places @ query[row]
      case "general":
        scores = places @ p["key"]["kernel"] @ query[row]
    expected = softmax(scores)
    np.testing.assert_allclose(weights[row, : len(places)], expected, atol=1e-5)
    np.testing.assert_allclose(context[row], expected @ places, atol=1e-5)


def test_a_dot_product_of_different_widths_is_refused():
  model = network("dot").clone(hidden_dim=H + 1)
  with pytest.raises(
    UserError, match=rf"compares {H} features of the encoder with --task.model.hidden_dim={H + 1}"
  ):
    model.init(jax.random.key(0), TOKENS, INPUTS, LENGTHS)


@pytest.mark.parametrize("train", [False, True])
def test_dropout_acts_in_training_only(train):
  model = network().clone(dropout=0.5)

  @jax.jit
  def logits(key):
    return model.apply(variables(network()), TOKENS, INPUTS, LENGTHS, train, rngs={"dropout": key})[0]

  a, b = (logits(jax.random.key(seed)) for seed in (0, 1))
  assert np.any(a != b) == train


def test_an_image_is_a_source_of_places():
  model = EncoderDecoder(ImageEncoder((4, 6)), "additive", "gru", H, embed_dim=4, vocab_size=V)
  images = RNG.normal(size=(B, 8, 12, 1)).astype(np.float32)
  found = jax.jit(model.init)(jax.random.key(0), TOKENS, images)
  see = jax.jit(lambda images: model.apply(found, TOKENS, images))
  logits, weights = see(images)
  assert logits.shape == (B, T, V)
  assert weights.shape == (B, T, 2 * 3)
  changed = images.copy()
  changed[0, -1, -1] += 1
  other, looked = see(changed)
  assert np.any(other[0] != logits[0])
  np.testing.assert_array_equal(other[1:], logits[1:])
  assert abs(looked[0] - weights[0]).max() > 0


def test_the_places_of_an_image_lie_row_by_row():
  encoder = ImageEncoder((2,))
  image = np.zeros((1, 4, 6, 1), np.float32)
  found = encoder.init(jax.random.key(0), image)
  image[0, 3, 1] = 1.0  # seen by the second row of places, first column
  values = encoder.apply(found, np.concatenate([image, -image])).values
  seen = np.flatnonzero(np.any(values[0] != 0, axis=-1) | np.any(values[1] != 0, axis=-1))
  assert 3 in seen
  assert set(seen) <= {0, 3}


@pytest.mark.parametrize(
  ("field", "value"), [("embed_dim", 0), ("hidden_dim", -1), ("num_layers", 0), ("dropout", 1.0)]
)
def test_a_field_that_makes_no_network_is_refused(field, value):
  with pytest.raises(UserError, match=f"--task.model.{field}={value} (is|has)"):
    EncoderDecoder(**{field: value})


def test_an_image_encoder_without_a_convolution_is_refused():
  with pytest.raises(UserError, match="names at least one convolution"):
    ImageEncoder(())
