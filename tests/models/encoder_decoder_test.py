"""The Transformer of two stacks: token by token as in one pass, by greedy and beam search."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.tokens import BOS
from dlcourse.errors import UserError
from dlcourse.models.encoder_decoder import TransformerEncoderDecoder
from dlcourse.models.transformer import Layer
from dlcourse.tasks import decoding

B, S, T, V = 2, 5, 4, 9
INPUTS = jax.random.randint(jax.random.key(0), (B, S), 4, V)
TOKENS = jax.random.randint(jax.random.key(1), (B, T), 4, V)
LENGTHS = jnp.array([5, 3])
T5 = Layer(8, 2, norm="rms", bias=False, scaled=False, activation="relu", epsilon=1e-6)
KINDS = {
  "2017": {"layer": Layer(8, 2, norm_first=False, activation="relu")},
  "t5": {"layer": T5, "positions": "relative", "scale": "logits"},
  "learned": {"positions": "learned", "num_decoder_layers": 1, "tied": False, "max_length": 9},
  "rotary": {"positions": "rotary", "scale": "none"},
}


@functools.cache
def network(kind):
  return TransformerEncoderDecoder(**{"layer": Layer(8, 2), "num_layers": 2, "vocab_size": V, **KINDS[kind]})


@functools.cache
def variables(kind):
  return jax.jit(network(kind).init)(jax.random.key(2), TOKENS, INPUTS, LENGTHS)


def asked(kind, inputs=INPUTS, tokens=TOKENS, lengths=LENGTHS):
  return jax.jit(network(kind).apply)(variables(kind), tokens, inputs, lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_token_by_token_equals_one_pass(kind):
  model, params = network(kind), variables(kind)

  @jax.jit
  def step_by_step():
    source = model.apply(params, INPUTS, LENGTHS, method="encode")
    state, rows = model.apply(params, source, T, method="start"), []
    for t in range(T):
      state, logits, weights = model.apply(params, source, state, TOKENS[:, t], method="step")
      rows.append((logits, weights))
    return tuple(jnp.stack(part, axis=1) for part in zip(*rows, strict=True))

  for found, expected in zip(step_by_step(), asked(kind), strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_of_the_source_and_later_tokens_change_nothing(kind):
  logits, weights = asked(kind)
  junk = INPUTS.at[1, 3:].set(4)
  np.testing.assert_allclose(asked(kind, inputs=junk)[0], logits, atol=1e-6)
  assert not weights[1, :, 3:].any()
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
  np.testing.assert_array_equal(asked(kind, tokens=TOKENS.at[:, 2:].set(5))[0][:, :2], logits[:, :2])
  assert np.abs(asked(kind, inputs=INPUTS.at[0, 4].set(4 + (INPUTS[0, 4] - 3) % 5))[0] - logits)[0].max() > 1e-4


@pytest.mark.parametrize("beams", [1, 3])
def test_search_with_a_cache_equals_search_without(beams):
  model, params = network("t5"), variables("t5")
  source = decoding.repeated(model.apply(params, INPUTS, LENGTHS, method="encode"), beams)
  first = jnp.full(B, BOS)

  def cached(state, token):
    state, logits, _ = model.apply(params, source, state, token, method="step")
    return state, logits

  def anew(state, token):
    """All tokens so far, [N, T + 1], and their number [N]."""
    tokens, count = state
    rows = jnp.arange(len(token))
    tokens = tokens.at[rows, count].set(token)
    logits, _ = model.apply(params, source, None, tokens, method="decode")
    return (tokens, count + 1), logits[rows, count]

  rows = B * beams
  starts = {
    cached: model.apply(params, source, T, method="start"),
    anew: (jnp.zeros((rows, T + 1), int), jnp.zeros(rows, int)),
  }
  if beams == 1:
    found = [
      decoding.follow(step, start, first, T, decoding.greedy, jax.random.key(0))
      for step, start in starts.items()
    ]
  else:
    found = [decoding.beam_search(step, start, first, T, beams, 0.6) for step, start in starts.items()]
  np.testing.assert_array_equal(found[0].tokens, found[1].tokens)
  np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-5)


def test_the_base_model_of_2017_without_embeddings_has_the_parameters_of_the_paper():
  """6 layers of 3,152,384 and 6 of 4,204,032 with attention to the source; embeddings are of the vocabulary."""
  layer = Layer(512, 8, mlp_dim=2048, norm_first=False, activation="relu")
  model = TransformerEncoderDecoder(layer, num_layers=6, vocab_size=1)
  shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS, INPUTS)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert count == 6 * (3_152_384 + 4_204_032) + 512


def test_what_keeps_no_keys_is_refused():
  with pytest.raises(UserError, match="keeps no keys"):
    TransformerEncoderDecoder(Layer(attention="performer"))


def test_more_places_than_learned_positions_are_refused_on_both_sides():
  model, params = network("learned"), variables("learned")
  long = jnp.zeros((B, 10), jnp.int32)
  for tokens, inputs in ((TOKENS, long), (long, INPUTS)):
    with pytest.raises(UserError, match=r"10 places are more than --task\.model\.max_length=9"):
      model.apply(params, tokens, inputs)
  source = model.apply(params, INPUTS, method="encode")
  with pytest.raises(UserError, match="10 places are more than"):
    model.apply(params, source, 10, method="start")
