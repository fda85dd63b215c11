"""Streaming gives what `predict` gives for the whole sequence, however it is cut."""

import dataclasses
import re
import types

import jax
import numpy as np
import pytest
import streaming as streaming_benchmark  # of launch/

from dlcourse.data.recipe import Spec
from dlcourse.data.tokens import Tokenizer
from dlcourse.errors import UserError
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.sequence import Frontend, LanguageModel, SequenceClassifier, SequenceTagger, SlidingWindow
from dlcourse.optim import Sgd
from dlcourse.parallel import compile_task, make_mesh
from dlcourse.streaming import LONGEST_CHUNK, Listener, answers
from dlcourse.tasks.sequences import Forecast, Tag
from dlcourse.tasks.supervised import Classify, ModelLanguage

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(1, 11, 2)).astype(np.float32)
BODIES = {
  "rnn": RecurrentStack("rnn", hidden_dim=5, num_layers=2),
  "lstm": RecurrentStack("lstm", hidden_dim=5, num_layers=2),
  "gru": RecurrentStack("gru", hidden_dim=5),
  "gru_original": RecurrentStack("gru_original", hidden_dim=5),
  "window": SlidingWindow(width=3, hidden_dim=5),
}


def shapes(batch):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)


def doubled(key, batch):
  del key
  return {**batch, "inputs": 2 * batch["inputs"]}


def trained(recipe, spec):
  """An untrained network, with the parts of `Trained` that streaming uses."""
  program = compile_task(recipe.build(spec, 10), spec.batch, make_mesh(1), "jit")
  return types.SimpleNamespace(
    program=program,
    state=program.init(jax.random.key(0)),
    data=types.SimpleNamespace(spec=spec),
    record={"experiment": "mine"},
  )


def of_values(task, prepare=doubled):
  batch = {
    "inputs": VALUES,
    "lengths": np.full(1, 11, np.int32),
    "label": np.zeros(1, np.int32),
    "tags": np.zeros((1, 11), np.int32),
    "targets": np.zeros((1, 3), np.float32),
    "mask": np.ones((1, 11) if isinstance(task, Tag) else 1, np.float32),
  }
  return trained(task, Spec(shapes(batch), ("a", "b", "c"), prepare=prepare)), batch


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("cuts", [[], [1, 2, 5], range(1, 11)])
def test_a_tagger_says_the_same_in_parts_of_any_size(body, cuts):
  network, batch = of_values(Tag(SequenceTagger(BODIES[body]), Sgd()))
  listener = Listener(network)
  heard = np.concatenate([listener.hear(part) for part in np.split(VALUES[0], cuts)])
  whole = network.program.predict(network.state, jax.random.key(0), batch)[0]
  np.testing.assert_allclose(heard, whole, atol=1e-6)
  assert listener.seen == 11


@pytest.mark.parametrize("body", BODIES)
def test_a_classifier_answers_after_every_step_as_if_that_were_the_end(body):
  network, batch = of_values(Classify(SequenceClassifier(BODIES[body], dense_dim=4), Sgd()))
  heard = Listener(network).hear(VALUES[0])
  for steps in (1, 4, 11):
    part = {**batch, "lengths": np.full(1, steps, np.int32)}
    expected = network.program.predict(network.state, jax.random.key(0), part)[0]
    np.testing.assert_allclose(heard[steps - 1], expected, atol=1e-6)


def test_a_chunk_of_any_size_is_heard_by_few_programs():
  network, _ = of_values(Tag(SequenceTagger(BODIES["gru"]), Sgd()))
  steps = RNG.normal(size=(2 * LONGEST_CHUNK + 7, 2)).astype(np.float32)
  one, other = Listener(network), Listener(network)
  parts = [one.hear(part) for part in np.array_split(steps, 40)]
  np.testing.assert_allclose(np.concatenate(parts), other.hear(steps), atol=1e-6)


@pytest.mark.parametrize(
  ("model", "message"),
  [
    (SequenceClassifier(RecurrentStack(bidirectional=True, hidden_dim=3)), "is bidirectional"),
    (SequenceClassifier(BODIES["rnn"], Frontend(filters=(3,))), "front.filters cannot stream"),
    (SequenceClassifier(BODIES["rnn"], pooling="max"), "'max' needs the whole sequence"),
  ],
)
def test_a_network_that_needs_the_future_is_refused(model, message):
  network, _ = of_values(Classify(model, Sgd()))
  with pytest.raises(UserError, match=message):
    Listener(network)  # before anything is heard


def test_data_scaled_by_the_whole_sequence_is_refused():
  def prepare(key, batch):
    return {**batch, "inputs": batch["inputs"] - batch["inputs"].mean(axis=1, keepdims=True)}

  network, _ = of_values(Classify(SequenceClassifier(BODIES["rnn"]), Sgd()), prepare)
  with pytest.raises(UserError, match="scaled by the whole sequence"):
    Listener(network)


def test_every_sample_has_an_answer():
  network, batch = of_values(Classify(SequenceClassifier(BODIES["lstm"]), Sgd()))
  lines = [" ".join(map(str, sample)) + "\n" for sample in VALUES[0]]
  said = list(answers(network, [*lines[:3], "\n", *lines]))  # an empty line begins anew
  expected = np.asarray(network.program.predict(network.state, jax.random.key(0), batch)[0])
  assert len(said) == 3 + 11
  assert said[:3] == said[3:6]
  assert said[-1] == {"class": "abc"[expected.argmax()], "probability": pytest.approx(expected.max(), abs=1e-4)}


@pytest.mark.parametrize("change", [False, True])
def test_forecasts_are_numbers(change):
  network, batch = of_values(Forecast(SequenceClassifier(BODIES["lstm"]), Sgd(), change))
  network.data.spec = Spec(network.data.spec.batch, prepare=doubled)
  *_, last = answers(network, [" ".join(map(str, sample)) for sample in VALUES[0]])
  expected = network.program.predict(network.state, jax.random.key(0), batch)[0]
  assert last == {"forecast": pytest.approx(expected.tolist(), abs=1e-5)}


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("1 x", "line 2 is no sample: '1 x'; it takes 2"),
    ("1", "line 2 has 1 numbers; a sample is 2"),
    ("1 nan", "finite"),
  ],
)
def test_a_line_that_is_no_sample_is_refused_by_its_number(line, message):
  network, _ = of_values(Classify(SequenceClassifier(BODIES["rnn"]), Sgd()))
  with pytest.raises(UserError, match=message):
    list(answers(network, ["1 2", line]))


def test_a_sample_that_is_none_is_told_what_one_is():
  network, _ = of_values(Classify(SequenceClassifier(BODIES["rnn"]), Sgd()))
  network.data.spec = dataclasses.replace(network.data.spec, channels=("speed (mph)", "height (m)"))
  with pytest.raises(UserError, match=r"2 finite numbers: speed \(mph\), height \(m\)"):
    list(answers(network, ["1"]))


def test_the_benchmark_says_what_a_step_costs(capsys):
  streaming_benchmark.stream("gru", hidden_dim=4, chunk=2, steps=41)
  assert re.match(r"gru 4, chunks of 2: [\d.]+ µs a step, 40 steps; memory grew by", capsys.readouterr().out)


def test_a_language_model_prices_every_line_by_all_before_it():
  text = {
    "tokens": np.array([[0, 1, 2, 2, 0, 1, 1]], np.int32),
    "targets": np.zeros((1, 7), np.int32),
    "mask": np.ones((1, 7), np.float32),
    "reset": np.ones(1, np.float32),
  }
  spec = Spec(shapes(text), vocabulary=("\n", "a", "b"))
  network = trained(ModelLanguage(LanguageModel(BODIES["gru"], embed_dim=3), Sgd()), spec)
  following = np.asarray(network.program.predict(network.state, jax.random.key(0), text)[0])
  nats = -np.log(following[np.arange(6), text["tokens"][0, 1:]])
  first, second = answers(network, ["\nabb\n", "aa"])
  assert first["symbols"] == 5
  assert first["nats"] == pytest.approx(nats[:4].mean(), abs=1e-4)  # before the first symbol nothing is known
  assert second["nats"] == pytest.approx(nats[4:].mean(), abs=1e-4)
  assert sum(second["next"].values()) == pytest.approx(1, abs=1e-3)
  with pytest.raises(UserError, match="line 1 has 'ß'"):
    list(answers(network, ["aß"]))


def test_a_sentence_is_judged_token_by_token():
  batch = {
    "inputs": np.array([[4, 5, 1]], np.int32),
    "lengths": np.full(1, 3, np.int32),
    "label": np.zeros(1, np.int32),
    "mask": np.ones(1, np.float32),
  }
  words = Tokenizer("words", ("<pad>", "<unk>", "<bos>", "<eos>", "not", "bad"))
  spec = Spec(shapes(batch), ("good", "poor"), words.vocabulary, tokenizer=words)
  network = trained(Classify(SequenceClassifier(BODIES["rnn"], Frontend(embed_dim=3)), Sgd()), spec)
  said = list(answers(network, ["Not bad", "dog"]))
  assert [answer["token"] for answer in said] == ["not", "bad", "<unk>"]
  expected = np.asarray(network.program.predict(network.state, jax.random.key(0), batch)[0])
  assert said[-1]["probability"] == pytest.approx(expected.max(), abs=1e-4)
