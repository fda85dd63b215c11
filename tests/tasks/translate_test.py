import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.recipe import Spec
from dlcourse.data.tokens import BOS, EOS, PAD, SPECIAL
from dlcourse.errors import UserError
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.seq2seq import EncoderDecoder, ImageEncoder, SequenceEncoder
from dlcourse.models.sequence import Frontend
from dlcourse.optim import Adam
from dlcourse.tasks.decoding import length_penalty
from dlcourse.tasks.translate import Translate

VOCABULARY = (*SPECIAL, "a", "b", "c")
V, L = len(VOCABULARY), 5
BATCH = {
  "inputs": np.array([[4, 5, 6], [5, 5, 0], [6, 4, 0], [0, 0, 0]], np.int32),
  "lengths": np.array([3, 2, 2, 0], np.int32),
  "tokens": np.array([[2, 6, 5, 4], [2, 5, 5, 0], [2, 4, 6, 0], [0, 0, 0, 0]], np.int32),
  "targets": np.array([[6, 5, 4, 3], [5, 5, 3, 0], [4, 6, 3, 0], [0, 0, 0, 0]], np.int32),
  "target_lengths": np.array([4, 3, 3, 0], np.int32),
  "mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]], np.float32),
}


def shapes(batch):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)


SPEC = Spec(shapes(BATCH), vocabulary=VOCABULARY)
ENCODER = SequenceEncoder(RecurrentStack("gru", hidden_dim=8), Frontend(embed_dim=6, vocab_size=V))
MODEL = EncoderDecoder(ENCODER, "general", "gru", 12, embed_dim=6)


def recipe(**fields):
  return Translate(MODEL, Adam(learning_rate=0.02), longest=L, **fields)


@functools.cache
def begun(seed=0):
  return jax.jit(recipe().build(SPEC, 1).init)(jax.random.key(seed), BATCH)


@functools.cache
def teacher_forced(tokens):
  model, tokens = MODEL.clone(vocab_size=V), np.array(tokens, np.int32)
  return model.apply({"params": begun().params}, tokens, BATCH["inputs"], BATCH["lengths"])


def log_probs(tokens):
  return np.asarray(jax.nn.log_softmax(teacher_forced(tuple(map(tuple, tokens.tolist())))[0]))


def test_loss_accuracy_and_perplexity_count_tokens():
  measured = jax.jit(recipe(label_smoothing=0.2).build(SPEC, 1).eval_step)(begun(), None, BATCH)
  nats = log_probs(BATCH["tokens"])
  picked = -np.take_along_axis(nats, BATCH["targets"][..., None], axis=-1)[..., 0]
  loss = (picked * BATCH["mask"]).sum() / 10
  assert measured["loss"].value() == pytest.approx(loss, rel=1e-5)
  assert measured["perplexity"].value() == pytest.approx(np.exp(loss), rel=1e-5)
  right = (nats.argmax(axis=-1) == BATCH["targets"]) * BATCH["mask"]
  assert measured["accuracy"].value() == pytest.approx(right.sum() / 10)


def test_smoothed_targets_share_a_part_among_all_tokens():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, V)))
  total, weight, _ = recipe(label_smoothing=0.2)._objective(logits, BATCH)
  target = 0.8 * np.eye(V)[BATCH["targets"]] + 0.2 / V
  nats = -(target * jax.nn.log_softmax(logits)).sum(axis=-1)
  assert total == pytest.approx(float((nats * BATCH["mask"]).sum()), rel=1e-5)
  assert weight == 10


def test_padding_changes_no_metric():
  wider = {name: np.pad(x, [(0, 0), (0, 2)]) if x.ndim == 2 else x for name, x in BATCH.items()}
  evaluate = jax.jit(recipe().build(SPEC, 1).eval_step)
  a, b = (evaluate(begun(), None, batch)["loss"] for batch in (BATCH, wider))
  assert a.value() == pytest.approx(b.value(), rel=1e-6)


@pytest.mark.parametrize(("beams", "alpha"), [(1, 0.6), (3, 0.0), (3, 1.0)])
def test_answers_have_the_probability_that_the_model_gives_them(beams, alpha):
  task = recipe(beams=beams, alpha=alpha).build(SPEC, 1)
  found = jax.jit(task.predict)(begun(), None, BATCH)
  answer, lengths = np.asarray(found["tokens"]), np.asarray(found["lengths"])
  given = np.concatenate([np.full((4, 1), BOS), answer[:, :-1]], axis=1)
  nats = log_probs(given)
  counts = np.arange(L) < lengths[:, None]
  totals = (np.take_along_axis(nats, answer[..., None], axis=-1)[..., 0] * counts).sum(axis=1)
  penalty = 1.0 if beams == 1 else length_penalty(lengths, alpha)
  np.testing.assert_allclose(found["scores"], totals / penalty, atol=1e-5)
  if beams == 1:
    np.testing.assert_array_equal(answer[counts], nats.argmax(axis=-1)[counts])
  np.testing.assert_allclose(
    found["attention"], teacher_forced(tuple(map(tuple, given.tolist())))[1], atol=1e-6
  )
  assert not np.any(answer[~counts])


def test_it_learns_to_turn_words_round():
  task = recipe().build(SPEC, 100)
  state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: task.train_step(s, BATCH), s, length=100))(begun())
  found = jax.jit(task.predict)(state, None, BATCH)
  np.testing.assert_array_equal(found["tokens"][:3, :4], BATCH["targets"][:3])
  np.testing.assert_array_equal(found["lengths"][:3], BATCH["target_lengths"][:3])
  wide = jax.jit(recipe(beams=3).build(SPEC, 1).predict)(state, None, BATCH)
  np.testing.assert_array_equal(wide["tokens"][:3], found["tokens"][:3])


def test_generation_at_temperature_0_is_greedy_and_else_differs_from_draw_to_draw():
  task = recipe().build(SPEC, 1)
  request = {name: BATCH[name] for name in ("inputs", "lengths")}
  draw = jax.jit(task.generate)
  found = jax.jit(task.predict)(begun(), None, BATCH)
  for seed in (0, 1):
    made = draw(begun(), jax.random.key(seed), request | {"temperature": np.zeros(4, np.float32)})
    np.testing.assert_array_equal(made["tokens"], found["tokens"])
    np.testing.assert_array_equal(made["lengths"], found["lengths"])
  warm = request | {"temperature": np.ones(4, np.float32)}
  a, b = (np.asarray(draw(begun(), jax.random.key(seed), warm)["tokens"]) for seed in (0, 1))
  assert np.any(a != b)


def test_an_answer_to_an_image_sees_it_as_the_data_prepares_it():
  images = np.random.default_rng(0).integers(0, 256, size=(4, 6, 6, 1)).astype(np.uint8)
  batch = {name: x for name, x in BATCH.items() if name not in ("inputs", "lengths")} | {"image": images}

  def prepare(key, batch):
    return {**batch, "image": batch["image"].astype(jnp.float32) / 255}

  model = EncoderDecoder(ImageEncoder((4,)), "additive", "gru", 6, embed_dim=4)
  task = Translate(model, Adam(), longest=L).build(Spec(shapes(batch), (), VOCABULARY, prepare), 1)
  state = jax.jit(task.init)(jax.random.key(0), batch)
  measured = jax.jit(task.eval_step)(state, None, batch)
  logits, _ = model.clone(vocab_size=V).apply(
    {"params": state.params}, batch["tokens"], images.astype(np.float32) / 255
  )
  picked = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch["targets"][..., None], -1)[..., 0]
  assert measured["loss"].value() == pytest.approx((picked * batch["mask"]).sum() / 10, rel=1e-5)
  found = jax.jit(task.predict)(state, None, batch)
  assert found["tokens"].shape == (4, L)
  assert found["attention"].shape == (4, L, 9)


def test_the_tokens_of_answers_are_those_of_the_tokenizers():
  assert tuple(SPECIAL.index(name) for name in ("<pad>", "<bos>", "<eos>")) == (PAD, BOS, EOS)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"label_smoothing": 1.0}, "--task.label_smoothing=1.0 has to be"),
    ({"longest": 0}, "--task.longest=0 is too small"),
    ({"beams": 0}, "--task.beams=0 is too small"),
    ({"alpha": -0.1}, "--task.alpha=-0.1 is too small"),
  ],
)
def test_fields_that_make_no_task_are_refused(fields, said):
  with pytest.raises(UserError, match=said):
    Translate(MODEL, Adam(), **fields)
