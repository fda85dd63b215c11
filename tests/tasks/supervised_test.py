import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.models.mlp import MLP
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.sequence import LanguageModel
from dlcourse.models.transformer import Layer, Transformer
from dlcourse.optim import Adam, Sgd
from dlcourse.tasks.supervised import Classify, ModelLanguage, cross_entropy, sample_tokens

RNG = np.random.default_rng(0)
BATCH = {
  "image": RNG.integers(0, 256, size=(6, 3, 3, 1)).astype(np.uint8),
  "label": np.array([0, 1, 2, 0, 1, 2], np.int32),
  "mask": np.array([1, 1, 1, 1, 0, 0], np.float32),
}


def prepare(key, batch):
  images = batch["image"].astype(jnp.float32) / 255
  return {**batch, "image": images if key is None else images[:, ::-1]}  # "augmentation" upside down


SPEC = Spec(
  jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), BATCH), ("a", "b", "c"), prepare=prepare
)


def log_softmax(logits):
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_cross_entropy_sums_over_what_the_mask_keeps():
  logits = RNG.normal(size=(2, 4, 3))
  labels, mask = np.array([[0, 1, 2, 2], [1, 1, 0, 0]]), np.array([[1, 1, 0, 1], [0, 1, 1, 0]])
  total, weight, measured = cross_entropy(jnp.array(logits), labels, jnp.array(mask, jnp.float32))
  nats = -np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]
  assert weight == 5
  assert total == pytest.approx((nats * mask).sum(), rel=1e-5)
  assert measured["loss"].value() == pytest.approx((nats * mask).sum() / 5, rel=1e-5)
  assert measured["accuracy"].value() == pytest.approx(((logits.argmax(-1) == labels) * mask).sum() / 5)


def linear():
  return Classify(MLP(hidden_dims=(), num_classes=None), Sgd(learning_rate=0.5)).build(SPEC, 10)


def test_a_step_of_softmax_regression_follows_the_formula():
  task = linear()
  state = task.init(jax.random.key(0), BATCH)
  p = jax.device_get(state.params["output"])
  assert p["kernel"].shape == (9, 3)  # the classes of the data have reached the model
  x = BATCH["image"][:, ::-1].reshape(6, 9) / 255  # training batches are augmented
  error = (
    (np.exp(log_softmax(x @ p["kernel"] + p["bias"])) - np.eye(3)[BATCH["label"]]) * BATCH["mask"][:, None] / 4
  )
  after, _ = jax.jit(task.train_step)(state, BATCH)
  np.testing.assert_allclose(after.params["output"]["kernel"], p["kernel"] - 0.5 * x.T @ error, atol=1e-5)
  np.testing.assert_allclose(after.params["output"]["bias"], p["bias"] - 0.5 * error.sum(0), atol=1e-5)
  assert int(after.step) == 1


def test_smoothed_labels_are_learnt_from_and_not_measured():
  model, smoothing = MLP(hidden_dims=(), num_classes=None), 0.3
  task = Classify(model, Sgd(learning_rate=0.5), smoothing).build(SPEC, 10)
  state = task.init(jax.random.key(0), BATCH)
  p = jax.device_get(state.params["output"])
  x = BATCH["image"][:, ::-1].reshape(6, 9) / 255
  target = (1 - smoothing) * np.eye(3)[BATCH["label"]] + smoothing / 3
  error = (np.exp(log_softmax(x @ p["kernel"] + p["bias"])) - target) * BATCH["mask"][:, None] / 4
  after, measured = jax.jit(task.train_step)(state, BATCH)
  np.testing.assert_allclose(after.params["output"]["kernel"], p["kernel"] - 0.5 * x.T @ error, atol=1e-5)
  plain = linear()
  chex.assert_trees_all_close(measured, plain.train_step(state, BATCH)[1], rtol=1e-6)
  chex.assert_trees_all_close(
    task.eval_step(state, None, BATCH), plain.eval_step(state, None, BATCH), rtol=1e-6
  )


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_targets_without_the_label_are_refused(smoothing):
  with pytest.raises(UserError, match=f"--task.label_smoothing={smoothing} has to be"):
    Classify(MLP(), Sgd(), smoothing)


@pytest.mark.parametrize("width", [2, 4])
def test_a_network_of_another_width_than_the_classes_is_refused(width):
  class Fixed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      return nn.Dense(width)(x.reshape(x.shape[0], -1))

  task = Classify(Fixed(), Sgd()).build(SPEC, 1)
  state = task.init(jax.random.key(0), BATCH)
  with pytest.raises(UserError, match="numbers an example, and the data has 3 classes"):
    task.train_step(state, BATCH)


def test_auxiliary_outputs_are_learnt_from_with_their_weight():
  class Two(nn.Module):
    sows: bool

    @nn.compact
    def __call__(self, x, train=False):
      x = x.reshape(x.shape[0], -1)
      side = nn.Dense(3, name="side")(x)
      if self.sows and train:
        self.sow("aux", "logits", side)
      return nn.Dense(3, name="output")(x) + 0 * side

  def step(sows):
    task = Classify(Two(sows), Sgd(learning_rate=0.1)).build(SPEC, 1)
    state = task.init(jax.random.key(0), BATCH)
    after, measured = task.train_step(state, BATCH)
    return state, after, measured

  (before, with_, measured), (_, without, alone) = step(True), step(False)
  chex.assert_trees_all_equal(with_.params["output"], without.params["output"])
  chex.assert_trees_all_equal(without.params["side"], before.params["side"])
  chex.assert_trees_all_equal(measured, alone)  # the metrics are those of the network itself
  assert with_.model_state == {}
  x = np.float32(BATCH["image"][:, ::-1].reshape(6, -1)[:4] / 255)
  logits = x @ before.params["side"]["kernel"] + before.params["side"]["bias"]
  error = np.exp(log_softmax(logits)) - np.eye(3)[BATCH["label"][:4]]
  expected = before.params["side"]["kernel"] - 0.1 * 0.3 * x.T @ error / 4
  np.testing.assert_allclose(with_.params["side"]["kernel"], expected, atol=1e-6)


def test_what_padding_holds_changes_neither_update_nor_metrics():
  task = linear()
  state = task.init(jax.random.key(0), BATCH)
  other = {**BATCH, "image": np.concatenate([BATCH["image"][:4], 255 - BATCH["image"][4:]])}
  step, evaluate = jax.jit(task.train_step), jax.jit(task.eval_step)
  chex.assert_trees_all_equal(step(state, BATCH), step(state, other))
  chex.assert_trees_all_equal(evaluate(state, None, BATCH), evaluate(state, None, other))


def test_predictions_are_probabilities_of_images_that_are_not_augmented():
  task = linear()
  state = task.init(jax.random.key(0), BATCH)
  p = jax.device_get(state.params["output"])
  logits = BATCH["image"].reshape(6, 9) / 255 @ p["kernel"] + p["bias"]
  np.testing.assert_allclose(task.predict(state, None, BATCH), np.exp(log_softmax(logits)), atol=1e-5)


def test_training_learns_updates_statistics_and_evaluation_changes_nothing():
  model = MLP(hidden_dims=(16,), dropout=0.1)
  task = Classify(model, Adam(learning_rate=0.05)).build(SPEC, 40)
  state = jax.jit(task.init)(jax.random.key(0), BATCH)
  step, evaluate = jax.jit(task.train_step), jax.jit(task.eval_step)
  before = evaluate(state, None, BATCH)["loss"].value()
  stats = state.model_state
  for _ in range(40):
    state, _ = step(state, BATCH)
  assert before > 0.9
  assert np.any(
    state.model_state["batch_stats"]["BatchNorm_0"]["mean"] != stats["batch_stats"]["BatchNorm_0"]["mean"]
  )
  _, measured = step(state, BATCH)
  assert measured["loss"].value() < 0.3
  first, again = (evaluate(state, jax.random.key(seed), BATCH) for seed in (0, 1))
  chex.assert_trees_all_equal(first, again)  # no dropout, no batch statistics


def test_dropout_differs_between_steps_and_is_a_function_of_the_state():
  task = Classify(MLP(hidden_dims=(32,), norm=False, dropout=0.5), Sgd(learning_rate=0.0)).build(SPEC, 10)
  state = jax.jit(task.init)(jax.random.key(0), BATCH)
  step = jax.jit(task.train_step)
  second, measured = step(state, BATCH)
  assert measured["loss"].value() == step(state, BATCH)[1]["loss"].value()
  assert measured["loss"].value() != step(second, BATCH)[1]["loss"].value()


V = 4
TEXT_BATCH = {
  "tokens": RNG.integers(V, size=(2, 5)).astype(np.int32),
  "targets": RNG.integers(V, size=(2, 5)).astype(np.int32),
  "mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.float32),
  "reset": np.zeros(2, np.float32),
}
TEXT = Spec(
  jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), TEXT_BATCH), vocabulary=tuple("abcd")
)
LSTM = LanguageModel(RecurrentStack(hidden_dim=5), embed_dim=3)


@pytest.fixture(scope="module")
def language():
  """(task, its first state with large weights, compiled train_step)."""
  task = ModelLanguage(LSTM, Sgd(learning_rate=0.1)).build(TEXT, 10)
  state = jax.jit(task.init)(jax.random.key(0), TEXT_BATCH)
  state = state.replace(params=jax.tree.map(lambda x: 3 * x, state.params))
  return task, state, jax.jit(task.train_step)


def test_a_language_model_that_sees_the_future_is_refused_before_it_is_trained():
  model = LanguageModel(Transformer(Layer(4, 2), 1), embed_dim=4)
  with pytest.raises(UserError, match="sees the future"):
    ModelLanguage(model, Sgd()).build(TEXT, 10)


def test_the_carry_goes_from_step_to_step_until_a_reset(language):
  _, state, step = language
  chex.assert_trees_all_equal(state.carry, LSTM.initial_carry(2))
  carried, _ = step(state, TEXT_BATCH)
  assert all(np.any(x) for x in jax.tree.leaves(carried.carry))
  same_weights = state.replace(carry=carried.carry)
  fresh = step(state, TEXT_BATCH)[1]["loss"].value()
  assert step(same_weights, TEXT_BATCH)[1]["loss"].value() != pytest.approx(fresh, rel=1e-4)
  reset = {**TEXT_BATCH, "reset": np.ones(2, np.float32)}
  assert step(same_weights, reset)[1]["loss"].value() == pytest.approx(fresh, rel=1e-6)


def test_evaluation_starts_without_a_past(language):
  task, state, step = language
  carried = state.replace(carry=step(state, TEXT_BATCH)[0].carry)
  evaluate = jax.jit(task.eval_step)
  chex.assert_trees_all_equal(evaluate(carried, None, TEXT_BATCH), evaluate(state, None, TEXT_BATCH))


def test_perplexity_is_exp_of_the_loss_over_the_symbols_that_count(language):
  task, state, _ = language
  measured = jax.jit(task.eval_step)(state, None, TEXT_BATCH)
  assert measured["loss"].weight == 8
  assert measured["perplexity"].value() == pytest.approx(np.exp(measured["loss"].value()), rel=1e-6)
  uniform = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
  assert task.eval_step(uniform, None, TEXT_BATCH)["perplexity"].value() == pytest.approx(V, rel=1e-5)


def test_bits_of_a_token_are_shared_by_its_characters(language):
  task, state, _ = language
  measured = task.eval_step(state, None, TEXT_BATCH)
  assert "bits_per_character" not in measured
  characters = np.arange(TEXT_BATCH["mask"].size, dtype=np.float32).reshape(TEXT_BATCH["mask"].shape)
  found = task.eval_step(state, None, {**TEXT_BATCH, "characters": characters})["bits_per_character"].value()
  nats = float(measured["loss"].total)
  assert found == pytest.approx(nats / np.log(2) / (characters * TEXT_BATCH["mask"]).sum(), rel=1e-5)


def request(tokens, given, temperature):
  return {
    "tokens": np.asarray(tokens, np.int32),
    "given": np.asarray(given, np.float32),
    "temperature": np.full(len(tokens), temperature, np.float32),
  }


def test_given_tokens_are_kept_and_the_others_drawn(language):
  task, state, _ = language
  tokens = RNG.integers(V, size=(50, 8))
  given = RNG.integers(2, size=(50, 8))
  made = jax.jit(task.generate)(state, jax.random.key(0), request(tokens, given, 1.0))["tokens"]
  np.testing.assert_array_equal(made[given > 0], tokens[given > 0])
  np.testing.assert_array_equal(made[:, 0], tokens[:, 0])
  assert np.any(made != tokens)
  assert made.dtype == np.int32


def test_temperature_zero_is_the_greedy_rollout(language):
  task, state, _ = language
  tokens = np.zeros((3, 7), np.int32)
  tokens[:, :2] = [[0, 1], [1, 2], [3, 3]]
  given = np.zeros((3, 7))
  given[:, :2] = 1
  generate = jax.jit(task.generate)
  made = generate(state, jax.random.key(0), request(tokens, given, 0.0))["tokens"]
  rollout = tokens.copy()
  apply = jax.jit(LSTM.clone(vocab_size=V).apply)
  for t in range(1, 6):  # the whole past again for every symbol, without a carry
    _, logits = apply({"params": state.params}, LSTM.initial_carry(3), rollout, np.zeros(3, np.float32))
    rollout[:, t + 1] = logits[:, t].argmax(-1)
  np.testing.assert_array_equal(made, rollout)
  np.testing.assert_array_equal(made, generate(state, jax.random.key(9), request(tokens, given, 0.0))["tokens"])


class Fixed(nn.Module):
  """Logits that do not depend on the past."""

  def initial_carry(self, batch_size, steps=None):
    return ()

  def __call__(self, carry, tokens, reset, train=False):
    return carry, jnp.broadcast_to(jnp.log(jnp.array([0.1, 0.2, 0.7])), (*tokens.shape, 3))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_distribution_at_their_temperature(temperature):
  asked = request(np.zeros((200, 51)), np.zeros((200, 51)), temperature)
  made = sample_tokens(Fixed(), {}, jax.random.key(0), asked)
  share = np.bincount(made[:, 1:].ravel(), minlength=3) / 10_000
  expected = np.array([0.1, 0.2, 0.7]) ** (1 / temperature)
  np.testing.assert_allclose(share, expected / expected.sum(), atol=0.02)


def test_every_row_has_its_own_temperature():
  asked = request(np.zeros((2, 200)), np.zeros((2, 200)), 0.0)
  asked["temperature"][1] = 1.0
  made = sample_tokens(Fixed(), {}, jax.random.key(0), asked)
  assert set(made[0, 1:].tolist()) == {2}
  assert set(made[1, 1:].tolist()) == {0, 1, 2}
