"""Sequence networks in their modes: what padding may not change, and what goes on where a part has ended."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import count, once

from dlcourse.errors import UserError
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.sequence import (
  Frontend,
  LanguageModel,
  SequenceClassifier,
  SequenceTagger,
  SlidingWindow,
  counted,
)

B, T, V, C = 4, 11, 7, 3
LENGTHS = np.array([11, 1, 6, 4], np.int32)
TOKENS = np.random.default_rng(0).integers(1, V, size=(B, T)).astype(np.int32)
VALUES = np.random.default_rng(0).normal(size=(B, T, 2)).astype(np.float32)
INSIDE = np.arange(T) < LENGTHS[:, None]

BODIES = {
  "deep": RecurrentStack("lstm", hidden_dim=5, num_layers=2),
  "both": RecurrentStack("gru", hidden_dim=5, bidirectional=True),
  "window": SlidingWindow(width=3, hidden_dim=5),
}
FRONTS = {
  "symbols": Frontend(embed_dim=4, vocab_size=V),
  "numbers": Frontend(),
  "convolutions": Frontend(embed_dim=4, filters=(6, 6), width=5, pool=3, vocab_size=V),
  "even": Frontend(filters=(6,), width=4, pool=2),
}


def random(shapes):
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes)


@functools.cache
def variables(model, dtype):
  x = jnp.zeros((B, T), dtype) if dtype == jnp.int32 else jnp.zeros((B, T, 2))
  return random(jax.eval_shape(model.init, jax.random.key(0), x, jnp.full(B, T)))


@functools.cache
def program(model):
  return once(model.apply)


def run(model, x, lengths):
  return program(model)(variables(model, x.dtype), x, lengths)


def inputs(front):
  return TOKENS if front.vocab_size else VALUES


def padded(x, steps, value):
  return np.pad(x, [(0, 0), (0, steps)] + [(0, 0)] * (x.ndim - 2), constant_values=value)


def filled(x, value):
  """The same sequences with something else in their padding."""
  return np.where(INSIDE if x.ndim == 2 else INSIDE[..., None], x, value).astype(x.dtype)


@pytest.mark.parametrize("pooling", ["final", "mean", "max", "attention"])
@pytest.mark.parametrize(
  ("front", "body"),
  [("symbols", "deep"), ("convolutions", "both"), ("even", "both"), ("numbers", "window"), ("even", "window")],
)
def test_padding_never_changes_an_answer(front, body, pooling):
  model = SequenceClassifier(BODIES[body], FRONTS[front], pooling, dense_dim=4, num_classes=C)
  x = inputs(FRONTS[front])
  expected = run(model, x, LENGTHS)
  np.testing.assert_array_equal(run(model, filled(x, 1), LENGTHS), run(model, filled(x, 2), LENGTHS))
  np.testing.assert_allclose(run(model, filled(x, 2), LENGTHS), expected, atol=1e-5)
  for more in (1, 2):
    np.testing.assert_allclose(run(model, padded(x, more, 3), LENGTHS), expected, atol=1e-5)
  for row in (1, 2):
    alone = run(model, x[row : row + 1, : LENGTHS[row]], LENGTHS[row : row + 1])
    np.testing.assert_allclose(alone[0], expected[row], atol=1e-5)


@pytest.mark.parametrize(
  ("front", "body"),
  [("symbols", "both"), ("convolutions", "both"), ("convolutions", "window"), ("numbers", "window")],
)
def test_padding_never_changes_a_tag(front, body):
  model = SequenceTagger(BODIES[body], FRONTS[front], num_classes=C)
  x = inputs(FRONTS[front])
  alone = [run(model, x[row : row + 1, : LENGTHS[row]], LENGTHS[row : row + 1])[0][0] for row in range(B)]
  for other in (x, filled(x, 2), padded(x, 2, 1)):
    found, lengths = run(model, other, LENGTHS)
    np.testing.assert_array_equal(lengths, [len(tags) for tags in alone])
    for row, tags in zip(found, alone, strict=True):
      np.testing.assert_allclose(row[: len(tags)], tags, atol=1e-5)


@pytest.mark.parametrize("pooling", ["final", "mean", "max", "attention"])
def test_a_row_of_no_step_has_finite_logits_and_gradients(pooling):
  """Rows that fill a batch are masked by a product, which makes NaN of an infinity."""
  model = SequenceClassifier(BODIES["both"], FRONTS["symbols"], pooling, num_classes=C)

  def loss(variables):
    return (model.apply(variables, TOKENS, np.array([11, 0, 3, 0])) ** 2).sum()

  value, slopes = once(jax.value_and_grad(loss))(variables(model, TOKENS.dtype))
  assert value < 1e6
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_poolings_are_what_they_are_called():
  body = BODIES["both"]
  x = np.random.default_rng(3).normal(size=(B, T, 2)).astype(np.float32)
  for pooling in ("final", "mean", "max", "attention"):
    model = SequenceClassifier(body, Frontend(), pooling, num_classes=C)
    params = variables(model, x.dtype)["params"]
    encoded = body.apply({"params": params["body"]}, x, LENGTHS)
    kept = [np.asarray(encoded.outputs[row, :length]) for row, length in enumerate(LENGTHS)]
    if pooling == "attention":
      scores = [np.exp(outputs @ params["attend"]["kernel"]) for outputs in kept]
      pooled = [(s * outputs).sum(axis=0) / s.sum() for s, outputs in zip(scores, kept, strict=True)]
    else:
      pooled = {
        "final": encoded.final,
        "mean": [outputs.mean(axis=0) for outputs in kept],
        "max": [outputs.max(axis=0) for outputs in kept],
      }[pooling]
    expected = np.stack(pooled) @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(run(model, x, LENGTHS), expected, atol=1e-5)


def test_an_unknown_pooling_is_refused():
  with pytest.raises(ValueError, match="pooling 'sum' is none of final, mean, max, attention"):
    jax.eval_shape(SequenceClassifier(pooling="sum", num_classes=C).init, jax.random.key(0), VALUES)


@pytest.mark.parametrize(("pool", "steps"), [(1, [11, 1, 6, 4]), (2, [6, 1, 3, 2]), (3, [4, 1, 2, 2])])
def test_each_pooling_leaves_as_many_steps_as_it_has_windows(pool, steps):
  front = Frontend(filters=(3,), pool=pool)
  y, lengths = run(front, VALUES, LENGTHS)
  np.testing.assert_array_equal(lengths, steps)
  assert y.shape == (B, max(steps), 3)
  assert run(front, VALUES, None)[1] is None


def test_without_convolutions_numbers_pass_the_front_end_as_they_are():
  y, lengths = Frontend().apply({}, VALUES, LENGTHS)
  np.testing.assert_array_equal(y, VALUES)
  np.testing.assert_array_equal(lengths, LENGTHS)


def test_counted_is_one_up_to_each_length():
  np.testing.assert_array_equal(counted(LENGTHS, VALUES)[..., 0], INSIDE)
  assert counted(None, VALUES).all()


# Streaming.


@pytest.mark.parametrize("chunks", [(4, 7), (1,) * T])
@pytest.mark.parametrize("body", ["deep", "window"])
@pytest.mark.parametrize("kind", [SequenceClassifier, SequenceTagger])
def test_a_stream_in_any_parts_is_the_answer_to_the_sequence_so_far(kind, body, chunks):
  model = kind(BODIES[body], FRONTS["symbols"], num_classes=C)
  weights = variables(model, TOKENS.dtype)
  stream = functools.partial(model.apply, weights, method="stream")
  carry, parts, start = None, [], 0
  for size in chunks:
    carry, logits = stream(carry, TOKENS[:, start : start + size])
    parts.append(logits)
    start += size
  streamed = np.concatenate(parts, axis=1)
  if kind is SequenceTagger:
    np.testing.assert_allclose(streamed, run(model, TOKENS, np.full(B, T))[0], atol=1e-5)
  else:
    np.testing.assert_allclose(streamed[:, -1], run(model, TOKENS, np.full(B, T)), atol=1e-5)
    ended = streamed[np.arange(B), LENGTHS - 1]
    np.testing.assert_allclose(ended, run(model, TOKENS, LENGTHS), atol=1e-5)


@pytest.mark.parametrize(
  ("model", "line"),
  [
    (SequenceClassifier(BODIES["both"], FRONTS["numbers"], num_classes=C), "bidirectional"),
    (SequenceTagger(BODIES["both"], FRONTS["numbers"], num_classes=C), "bidirectional"),
    (SequenceTagger(BODIES["deep"], FRONTS["even"], num_classes=C), "front.filters"),
    (SequenceClassifier(BODIES["deep"], FRONTS["numbers"], "mean", num_classes=C), "'mean' needs the whole"),
  ],
)
def test_what_sees_the_future_cannot_be_streamed(model, line):
  with pytest.raises(UserError, match=line):
    model.apply(variables(model, VALUES.dtype), None, VALUES, method="stream")


# The sliding window.


def test_a_window_sees_its_last_steps_and_no_other():
  model = BODIES["window"]
  outputs = run(model, VALUES, None).outputs
  for at in range(T):
    other = VALUES.copy()
    other[:, at] += 1
    changed = np.any(run(model, other, None).outputs != outputs, axis=(0, 2))
    assert set(np.flatnonzero(changed)) == set(range(at, min(at + 3, T)))


@pytest.mark.parametrize("chunks", [(4, 7), (1,) * T, (1, 9, 1)])
def test_parts_of_a_window_one_after_the_other_are_the_whole(chunks):
  model = BODIES["window"]
  whole = run(model, VALUES, None)
  carry, parts, start = None, [], 0
  for size in chunks:
    part = program(model)(variables(model, VALUES.dtype), VALUES[:, start : start + size], None, carry)
    carry, start = part.carry, start + size
    parts.append(part.outputs)
  np.testing.assert_allclose(np.concatenate(parts, axis=1), whole.outputs, atol=1e-5)
  np.testing.assert_array_equal(carry, VALUES[:, -2:])


def test_the_carry_of_a_window_is_the_last_steps_that_count():
  carry = run(BODIES["window"], VALUES, LENGTHS).carry
  for row, length in enumerate(LENGTHS):
    known = np.concatenate([np.zeros((2, 2), np.float32), VALUES[row, :length]])
    np.testing.assert_array_equal(carry[row], known[-2:])


# The language model.

KEEP, FORGET = np.zeros(B, np.float32), np.ones(B, np.float32)
LANGUAGE = LanguageModel(RecurrentStack("lstm", hidden_dim=6, num_layers=2), embed_dim=4, vocab_size=V)
TIED = LanguageModel(RecurrentStack("gru", hidden_dim=6), embed_dim=6, tied=True, vocab_size=V)


@functools.cache
def language(model):
  start = model.initial_carry(B)
  return random(jax.eval_shape(model.init, jax.random.key(0), start, TOKENS, KEEP))


def speak(carry, tokens, reset=KEEP, model=LANGUAGE):
  return program(model)(language(model), carry, tokens, reset)


@pytest.mark.parametrize("model", [LANGUAGE, TIED], ids=["untied", "tied"])
def test_logits_are_embedding_body_and_output_one_after_the_other(model):
  params = language(model)["params"]
  encoded = model.body.apply({"params": params["body"]}, params["embed"]["embedding"][TOKENS])
  if model.tied:
    expected = encoded.outputs @ params["embed"]["embedding"].T + params["output_bias"]
  else:
    expected = encoded.outputs @ params["output"]["kernel"] + params["output"]["bias"]
  carry, logits = speak(model.initial_carry(B), TOKENS, model=model)
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  chex.assert_trees_all_close(carry, encoded.carry, atol=1e-5)


def test_parameters_are_counted_by_hand():
  lstm = sum(4 * (inputs * 6 + 6 * 6 + 6) for inputs in (4, 6))
  assert count(language(LANGUAGE)) == V * 4 + lstm + 6 * V + V
  gru = 3 * (6 * 6 + 6 * 6 + 2 * 6)
  assert count(language(TIED)) == V * 6 + gru + V  # the matrix once


def test_two_windows_with_the_carry_are_one_long_window():
  start = LANGUAGE.initial_carry(B)
  _, whole = speak(start, TOKENS)
  carry, first = speak(start, TOKENS[:, :4])
  _, second = speak(carry, TOKENS[:, 4:])
  np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, atol=1e-5)


def test_reset_is_a_zero_carry_row_by_row():
  start = LANGUAGE.initial_carry(B)
  carry, _ = speak(start, TOKENS)
  mixed = np.array([1, 0, 1, 0], np.float32)
  found, fresh, going_on = (speak(*at)[1] for at in ((carry, TOKENS, mixed), (start, TOKENS), (carry, TOKENS)))
  np.testing.assert_allclose(found, np.where(mixed[:, None, None] > 0, fresh, going_on), atol=1e-6)
  assert np.abs(fresh - going_on).max() > 1e-3
  np.testing.assert_allclose(speak(carry, TOKENS, FORGET)[1], fresh, atol=1e-6)


def test_logits_depend_on_no_later_symbol():
  changed = TOKENS.copy()
  changed[:, 5] = (changed[:, 5] + 1) % V
  start = LANGUAGE.initial_carry(B)
  before, after = (speak(start, tokens)[1] for tokens in (TOKENS, changed))
  np.testing.assert_array_equal(before[:, :5], after[:, :5])
  assert np.all(np.any(before[:, 5:] != after[:, 5:], axis=-1))


@pytest.mark.parametrize("train", [False, True])
def test_dropout_acts_in_training_only(train):
  model = LANGUAGE.clone(dropout=0.5)

  @once
  def logits(key):
    start = model.initial_carry(B)
    return model.apply(language(LANGUAGE), start, TOKENS, KEEP, train=train, rngs={"dropout": key})[1]

  outputs = [logits(jax.random.key(seed)) for seed in (0, 1)]
  assert np.any(outputs[0] != outputs[1]) == train


@pytest.mark.parametrize(
  ("build", "line"),
  [
    (lambda: LanguageModel(embed_dim=0), "--task.model.embed_dim=0 is"),
    (lambda: LanguageModel(dropout=1.0), "--task.model.dropout=1.0 has"),
    (lambda: LanguageModel(tied=True), "--task.model.tied needs --task.model.embed_dim=256"),
    (lambda: SequenceClassifier(dropout=1.0), "--task.model.dropout=1.0 has"),
    (lambda: SequenceTagger(dropout=-0.1), "--task.model.dropout=-0.1 has"),
    (lambda: Frontend(pool=0), "--task.model.front.pool=0 is"),
    (lambda: Frontend(dropout=-0.5), "--task.model.front.dropout=-0.5 has"),
    (lambda: SlidingWindow(width=0), "--task.model.body.width=0 is"),
    (lambda: SlidingWindow(num_layers=0), "--task.model.body.num_layers=0 is"),
  ],
)
def test_fields_that_make_no_network_are_refused(build, line):
  with pytest.raises(UserError, match=line):
    build()


def test_a_conditional_language_model_reads_every_symbol_as_one_of_its_class():
  model = LanguageModel(RecurrentStack("gru", hidden_dim=6), embed_dim=4, vocab_size=V, num_classes=2)
  tokens, reset = jnp.zeros((1, 5), int), jnp.zeros(1)
  start, first = model.initial_carry(1), jnp.zeros((1, 5), int)
  variables = model.init(jax.random.key(0), start, tokens, reset, first)
  changed = first.at[0, 2].set(1)
  one, other = (model.apply(variables, start, tokens, reset, each)[1] for each in (first, changed))
  np.testing.assert_array_equal(one[:, :2], other[:, :2])
  assert jnp.abs(one[:, 2:] - other[:, 2:]).max() > 1e-3
  params = variables["params"]
  params = {
    **params,
    "embed": {"embedding": params["embed"]["embedding"].at[0].add(params["embed_class"]["embedding"][0])},
  }
  plain = model.clone(num_classes=None).apply({"params": params}, start, tokens, reset)[1]
  np.testing.assert_allclose(plain, one, atol=1e-6)
  with pytest.raises(UserError, match="told what a text is of"):
    model.apply(variables, None, tokens, method="stream")
