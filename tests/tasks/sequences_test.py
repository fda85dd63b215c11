"""Tagging and forecasting: what is measured, and in which unit."""

import jax
import numpy as np
import pytest

from dlcourse.data.recipe import Scaling, Spec
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.sequence import Frontend, SequenceClassifier, SequenceTagger
from dlcourse.optim import Sgd
from dlcourse.tasks.sequences import Forecast, Tag

RNG = np.random.default_rng(0)
LENGTHS = np.array([5, 2, 3], np.int32)
TAGGED = {
  "inputs": RNG.integers(6, size=(3, 5)).astype(np.int32),
  "lengths": LENGTHS,
  "tags": RNG.integers(4, size=(3, 5)).astype(np.int32),
  "mask": (np.arange(5) < LENGTHS[:, None]).astype(np.float32),
}
WINDOWS = {
  "inputs": RNG.normal(size=(4, 6, 2)).astype(np.float32),
  "lengths": np.full(4, 6, np.int32),
  "targets": RNG.normal(50, 10, size=(4, 3)).astype(np.float32),
  "mask": np.array([1, 1, 1, 0], np.float32),
}


def shapes(batch):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)


def test_every_tag_that_counts_weighs_the_same():
  spec = Spec(shapes(TAGGED), tuple("abcd"), tuple("uvwxyz"))
  body = RecurrentStack("gru", hidden_dim=5, bidirectional=True)
  task = Tag(SequenceTagger(body, Frontend(embed_dim=3)), Sgd()).build(spec, 10)
  state = task.init(jax.random.key(0), TAGGED)
  probabilities = np.asarray(task.predict(state, None, TAGGED))
  assert probabilities.shape == (3, 5, 4)
  nats = -np.log(np.take_along_axis(probabilities, TAGGED["tags"][..., None], axis=-1)[..., 0])
  measured = task.eval_step(state, None, TAGGED)
  assert measured["loss"].weight == 10
  assert measured["loss"].value() == pytest.approx(nats[TAGGED["mask"] > 0].mean(), rel=1e-5)
  state, first = jax.jit(task.train_step)(state, TAGGED)
  assert task.eval_step(state, None, TAGGED)["loss"].value() < first["loss"].value()


def test_a_forecast_is_learnt_in_the_networks_scale_and_measured_in_the_unit_of_the_targets():
  spec = Spec(shapes(WINDOWS), scaling=Scaling(np.float32(50), np.float32(10)))
  task = Forecast(SequenceClassifier(RecurrentStack("lstm", hidden_dim=5)), Sgd()).build(spec, 10)
  state = task.init(jax.random.key(0), WINDOWS)
  error = (np.asarray(task.predict(state, None, WINDOWS)) - WINDOWS["targets"])[:3]
  measured = task.eval_step(state, None, WINDOWS)
  assert measured["rmse"].value() == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
  assert measured["mae"].value() == pytest.approx(np.mean(np.abs(error)), rel=1e-5)
  assert measured["loss"].value() == pytest.approx(np.mean(error**2) / 100, rel=1e-5)


def test_a_change_is_added_to_the_last_value_that_counts():
  spec = Spec(shapes(WINDOWS), scaling=Scaling(np.float32(50), np.float32(10)))
  model = SequenceClassifier(RecurrentStack("lstm", hidden_dim=5))
  plain, change = (Forecast(model, Sgd(), flag).build(spec, 10) for flag in (False, True))
  state = plain.init(jax.random.key(0), WINDOWS)
  batch = {**WINDOWS, "lengths": np.array([6, 2, 3, 1], np.int32)}
  difference = np.asarray(change.predict(state, None, batch) - plain.predict(state, None, batch))
  last = WINDOWS["inputs"][np.arange(4), batch["lengths"] - 1, 0]
  np.testing.assert_allclose(difference, 10 * np.repeat(last[:, None], 3, axis=1), atol=1e-4)


def test_padding_of_the_windows_changes_nothing():
  spec = Spec(shapes(WINDOWS), scaling=Scaling(np.float32(50), np.float32(10)))
  task = Forecast(SequenceClassifier(RecurrentStack("lstm", hidden_dim=5)), Sgd()).build(spec, 10)
  state = task.init(jax.random.key(0), WINDOWS)
  padded = np.concatenate([WINDOWS["inputs"], np.full((4, 3, 2), 9, np.float32)], axis=1)
  expected = task.predict(state, None, WINDOWS)
  np.testing.assert_allclose(task.predict(state, None, {**WINDOWS, "inputs": padded}), expected, atol=1e-6)
