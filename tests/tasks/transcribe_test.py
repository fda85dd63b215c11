import chex
import jax
import numpy as np
import pytest

from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.sequence import Frontend, SequenceTagger
from dlcourse.optim import Adam
from dlcourse.tasks.ctc import best_path, ctc_nll, prefix_beam_search
from dlcourse.tasks.transcribe import Transcribe

B, T, D, L, C = 4, 9, 2, 3, 4
RNG = np.random.default_rng(0)
BATCH = {
  "inputs": RNG.normal(size=(B, T, D)).astype(np.float32),
  "lengths": np.array([9, 7, 8, 0], np.int32),
  "labels": np.array([[1, 2, 2], [3, 0, 0], [2, 1, 0], [0, 0, 0]], np.int32),
  "label_lengths": np.array([3, 1, 2, 0], np.int32),
  "mask": np.array([1, 1, 1, 0], np.float32),
}
SPEC = Spec(
  jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), BATCH), ("<blank>", *map(str, range(C - 1)))
)
PLAIN = SequenceTagger(RecurrentStack("gru", hidden_dim=8), Frontend())
POOLED = SequenceTagger(RecurrentStack("gru", hidden_dim=8), Frontend(filters=(4,), width=3, pool=2))


def logits_of(model, state, batch=BATCH):
  return model.clone(num_classes=C).apply({"params": state.params}, batch["inputs"], batch["lengths"])[0]


@pytest.mark.parametrize("model", [PLAIN, POOLED])
def test_the_metrics_are_those_of_the_sequences_that_count(model):
  task = Transcribe(model, Adam()).build(SPEC, 1)
  state = jax.jit(task.init)(jax.random.key(0), BATCH)
  logits = logits_of(model, state)
  lengths = BATCH["lengths"] if model is PLAIN else np.array([5, 4, 4, 0])
  nats = ctc_nll(logits, lengths, BATCH["labels"], BATCH["label_lengths"])
  measured = jax.jit(task.eval_step)(state, None, BATCH)
  assert measured["loss"].value() == pytest.approx(float(nats[:3].mean()), rel=1e-5)
  assert measured["loss"].weight == 3
  found = task.predict(state, None, BATCH)
  expected = best_path(logits, lengths)
  np.testing.assert_array_equal(found["labels"], expected.labels)
  np.testing.assert_array_equal(found["lengths"], expected.lengths)


def test_a_step_descends_the_mean_over_the_sequences_that_count():
  task = Transcribe(PLAIN, Adam(learning_rate=0.01)).build(SPEC, 1)
  state = jax.jit(task.init)(jax.random.key(0), BATCH)
  other = {name: x.copy() for name, x in BATCH.items()}
  other["inputs"][3] = 5.0
  other["lengths"][3], other["labels"][3, 0], other["label_lengths"][3] = 9, 1, 1
  step = jax.jit(task.train_step)
  chex.assert_trees_all_close(step(state, other), step(state, BATCH), rtol=1e-6)


def test_it_learns_labels_and_counts_them():
  task = Transcribe(PLAIN, Adam(learning_rate=0.03)).build(SPEC, 120)
  state = jax.jit(task.init)(jax.random.key(0), BATCH)
  before = jax.jit(task.eval_step)(state, None, BATCH)
  state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: task.train_step(s, BATCH), s, length=120))(state)
  after = jax.jit(task.eval_step)(state, None, BATCH)
  assert (before["exact"].value(), after["exact"].value()) == (0.0, 1.0)
  found = task.predict(state, None, BATCH)
  assert [found["labels"][row, :n].tolist() for row, n in enumerate(found["lengths"][:3])] == [
    [1, 2, 2],
    [3],
    [2, 1],
  ]


def test_beams_answer_with_prefix_beam_search():
  task = Transcribe(PLAIN, Adam(), beams=3).build(SPEC, 1)
  state = jax.jit(task.init)(jax.random.key(0), BATCH)
  expected = prefix_beam_search(logits_of(PLAIN, state), BATCH["lengths"], 3)
  found = task.predict(state, None, BATCH)
  np.testing.assert_array_equal(found["labels"], expected.labels)
  np.testing.assert_allclose(found["scores"], expected.scores, rtol=1e-5)


def test_no_beam_is_refused():
  with pytest.raises(UserError, match=r"--task.beams=0 is too small"):
    Transcribe(PLAIN, Adam(), beams=0)


def test_a_network_that_leaves_fewer_steps_than_labels_is_refused():
  front = Frontend(filters=(4,), pool=5)  # 9 steps become 2
  with pytest.raises(UserError, match="leaves 2 of 9 steps, and there are up to 3 labels"):
    Transcribe(SequenceTagger(RecurrentStack("gru", hidden_dim=8), front), Adam()).build(SPEC, 1)
