"""BERT: published sizes, padding that changes nothing, both poolings, tied outputs, and learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_reach, count, once

from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.models.bert import BERT, Bert, BertClassifier, BertMasked, bert_layer, mean_of
from dlcourse.optim import Adam
from dlcourse.tasks.supervised import Classify

B, T, V, M = 3, 6, 11, 8
BODY = Bert(bert_layer(M, 2), 2, max_length=8, vocab_size=V)
LENGTHS = np.array([6, 1, 4], np.int32)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, V, (B, T)).astype(np.int32)
SEGMENTS = RNG.integers(0, 2, (B, T)).astype(np.int32)
PUBLISHED = {
  "tiny": 4_385_920,
  "mini": 11_170_560,
  "minilm": 22_713_216,
  "base": 109_482_240,
  "large": 335_141_888,
}


def random(model):
  shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS, LENGTHS)
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.normal(scale=0.7, size=leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("name", BERT)
def test_the_published_counts(name):
  model = BertClassifier(BERT[name].clone(vocab_size=30_522), num_classes=2)
  shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
  assert count(shapes) - count(shapes["output"]) == PUBLISHED[name]


def test_padding_changes_nothing_and_is_0_and_all_else_changes_something():
  variables, apply = random(BODY), once(BODY.apply)
  hidden = np.asarray(apply(variables, TOKENS, LENGTHS, SEGMENTS))
  outside = np.arange(T) >= LENGTHS[:, None]
  assert not hidden[outside].any()
  other = np.where(outside, 5, TOKENS)
  np.testing.assert_allclose(apply(variables, other, LENGTHS, SEGMENTS), hidden, atol=1e-6)
  np.testing.assert_allclose(
    apply(variables, TOKENS[2:, :4], LENGTHS[2:], SEGMENTS[2:, :4])[0], hidden[2, :4], atol=1e-5
  )
  changed = np.where(np.arange(T) == 3, TOKENS % (V - 1) + 1, TOKENS)  # the last of row 2
  found = np.asarray(apply(variables, changed, LENGTHS, SEGMENTS))
  assert (np.abs(found - hidden)[2, :4].max(axis=-1) > 1e-4).all()  # the first sees it, too
  np.testing.assert_allclose(found[1], hidden[1], atol=1e-6)
  assert np.abs(apply(variables, TOKENS, LENGTHS, 1 - SEGMENTS) - hidden)[0].max() > 1e-2
  turned = np.asarray(apply(variables, TOKENS[:, ::-1], None, SEGMENTS[:, ::-1]))[0, ::-1]
  assert np.abs(turned - hidden[0]).max() > 1e-2  # places count


def test_the_poolings_are_of_the_first_token_and_of_those_that_count():
  for pooling in ("first", "mean"):
    model = BertClassifier(BODY, pooling, num_classes=2)
    variables = random(model)
    hidden = once(BODY.apply)({"params": variables["params"]["body"]}, TOKENS, LENGTHS)
    found = once(functools.partial(model.apply, method="pooled"))(variables, TOKENS, LENGTHS)
    if pooling == "first":
      dense = variables["params"]["pooler"]
      expected = np.tanh(hidden[:, 0] @ dense["kernel"] + dense["bias"])
    else:
      expected = [row[:length].mean(axis=0) for row, length in zip(hidden, LENGTHS, strict=True)]
      assert "pooler" not in variables["params"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    output = variables["params"]["output"]
    logits = np.asarray(found) @ output["kernel"] + output["bias"]
    np.testing.assert_allclose(once(model.apply)(variables, TOKENS, LENGTHS), logits, atol=1e-5)


def test_rows_that_only_fill_a_batch_have_finite_outputs():
  assert not mean_of(jnp.zeros((1, T, M)), jnp.zeros(1, int)).any()
  for pooling in ("first", "mean"):
    model = BertClassifier(BODY, pooling, num_classes=2)
    assert np.isfinite(once(model.apply)(random(model), TOKENS[:1], np.zeros(1, np.int32))).all()


def test_outputs_of_masked_tokens_have_the_weights_of_the_embedding():
  model = BertMasked(BODY)
  variables = random(model)
  apply = once(model.apply)
  logits = np.asarray(apply(variables, TOKENS, LENGTHS))
  assert logits.shape == (B, T, V)
  params = variables["params"]
  unseen = next(token for token in range(V) if token not in TOKENS)
  table = params["body"]["word"]["embedding"].copy()
  table[unseen] = 0
  other = {**params, "body": {**params["body"], "word": {"embedding": table}}}
  found = np.asarray(apply({"params": other}, TOKENS, LENGTHS))
  np.testing.assert_allclose(found[..., unseen], params["output_bias"][unseen], atol=1e-6)
  np.testing.assert_allclose(np.delete(found, unseen, -1), np.delete(logits, unseen, -1), atol=1e-6)


def test_gradients_reach_every_layer():
  model = BertMasked(BODY)
  params = random(model)["params"]

  @once
  @jax.grad
  def gradient(params):
    rngs = {"dropout": jax.random.key(1)}
    logits = model.apply({"params": params}, TOKENS, LENGTHS, SEGMENTS, train=True, rngs=rngs)
    return (logits**2).mean()

  gradients = gradient(params)
  assert_reach(gradients, ["dense", "norm", "output_bias"])
  assert_reach(gradients["body"], ["word", "segment", "norm"])
  assert_reach(gradients["body"]["stack"]["layers"], ["widen", "narrow", "mlp_norm", "attention_norm"])


def test_longer_texts_than_it_has_places_for_are_refused():
  with pytest.raises(UserError, match=r"9 places are more than BERT's .*max_length=8"):
    jax.eval_shape(BODY.init, jax.random.key(0), np.ones((1, 9), np.int32))


def test_it_learns_which_texts_hold_a_token():
  rng = np.random.default_rng(1)
  tokens = rng.integers(3, V, (64, T)).astype(np.int32)
  label = (np.arange(64) % 2).astype(np.int32)
  tokens[label == 1, rng.integers(1, T, 64)[label == 1]] = 2
  lengths, mask = np.full(64, T, np.int32), np.ones(64, np.float32)
  batch = {"inputs": tokens, "lengths": lengths, "label": label, "mask": mask}
  shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
  spec = Spec(shapes, ("without", "with"), vocabulary=tuple(map(str, range(V))))
  body = BODY.clone(vocab_size=None)
  task = Classify(BertClassifier(body, "mean"), Adam(learning_rate=0.01)).build(spec, 60)
  state = once(task.init)(jax.random.key(0), batch)
  step = once(task.train_step)
  for _ in range(60):
    state, metrics = step(state, batch)
  assert metrics["loss"].total / metrics["loss"].weight < 0.2
