import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.data.tokens import EOS, Tokenizer
from dlcourse.errors import UserError
from dlcourse.evaluators.sentences import SentenceInterpolations, SentenceLikelihood
from dlcourse.task import Latents

KEY = jax.random.key(0)
VOCABULARY = ("<pad>", "<unk>", "<bos>", "<eos>", *"abcdefghij")
TEST, TRAIN = np.array([4, 13, 7, 9, 12]), np.array([5, 6])  # sentences of one word


def data():
  """Sentences of one word, as often as its number says how long they are."""

  def batches(split):
    words = {"test": TEST, "train": TRAIN}[split]
    targets = np.array([[word, EOS, 0] for word in words], np.int32)
    return in_order({"targets": targets, "target_lengths": (words % 3 + 2).astype(np.int32)}, 2)

  spec = Spec({}, vocabulary=VOCABULARY, tokenizer=Tokenizer("words", VOCABULARY))
  return Data(spec, None, batches, {}, "", "")


def log_weight(state, key, batch):
  """Weights whose mean is 5 to the minus length, each exp(ε - 1/2) times as large."""
  noise = jax.random.normal(key, batch["target_lengths"].shape)
  return noise - 0.5 - batch["target_lengths"] * jnp.log(5.0)


def encode(state, batch):
  return batch["targets"][:, :1].astype(jnp.float32)


def texts(state, z):
  words = jnp.rint(z).astype(jnp.int32)
  return jnp.concatenate([words, jnp.full_like(words, EOS)], axis=1)


def stub(**fields):
  return types.SimpleNamespace(latents=Latents(1, encode=encode, log_weight=log_weight, **fields))


def test_many_draws_give_the_likelihood_and_its_perplexity_is_of_a_token():
  report = SentenceLikelihood(draws=20_000)(stub(texts=texts), None, data(), KEY)
  lengths = TEST % 3 + 2
  assert report.scalars["nll/iw20000@5"] == pytest.approx(lengths.mean() * np.log(5), abs=0.02)
  assert report.scalars["perplexity/iw20000@5"] == pytest.approx(5, rel=0.01)
  one = SentenceLikelihood(draws=1)(stub(texts=texts), None, data(), KEY).scalars
  assert set(one) == {"nll/iw1@5", "perplexity/iw1@5"}


def test_a_likelihood_that_is_nan_is_refused():
  latents = Latents(1, encode=encode, log_weight=lambda *args: log_weight(*args) * jnp.nan, texts=texts)
  with pytest.raises(UserError, match="NaN"):
    SentenceLikelihood(draws=2)(types.SimpleNamespace(latents=latents), None, data(), KEY)


def test_interpolations_go_in_even_steps_from_one_code_to_the_other():
  report = SentenceInterpolations(pairs=2, steps=5)(stub(texts=texts), None, data(), KEY)
  rows = report.tables["sentence_interpolations"]
  assert [row["share"] for row in rows] == [0.0, 0.25, 0.5, 0.75, 1.0] * 2
  words = np.array([VOCABULARY.index(row["text"]) for row in rows]).reshape(2, 5)
  assert set(words[:, 0]) | set(words[:, -1]) <= set(TEST.tolist())
  assert len({*words[:, 0], *words[:, -1]}) == 4
  for way in words:
    np.testing.assert_array_equal(way, np.rint(np.linspace(way[0], way[-1], 5).astype(np.float32)))
  known = np.isin(words[:, 1:-1], TRAIN)
  distinct = np.mean([len(set(way)) for way in words.tolist()])
  assert report.scalars == {
    "interpolation_distinct": pytest.approx(distinct),
    "interpolation_new": pytest.approx(1 - known.mean()),
  }
  (page,) = report.figures["sentence_interpolations"].texts
  first, last = (VOCABULARY[words[0, place]] for place in (0, -1))
  assert f"from  {first}\n0.00  {first}\n" in page.get_text()
  assert f"1.00  {last}\nto    {last}" in page.get_text()


def test_what_they_cannot_measure_is_refused():
  for evaluator in (SentenceLikelihood(), SentenceInterpolations()):
    with pytest.raises(UserError, match="needs an autoencoder of text"):
      evaluator(stub(), None, data(), KEY)
    with pytest.raises(UserError, match="needs an autoencoder whose"):
      evaluator(types.SimpleNamespace(latents=None), None, data(), KEY)
  with pytest.raises(UserError, match="needs 6 test sentences"):
    SentenceInterpolations(pairs=3)(stub(texts=texts), None, data(), KEY)
  for fields in ({"pairs": 0}, {"steps": 1}):
    with pytest.raises(UserError, match="is too small"):
      SentenceInterpolations(**fields)
  with pytest.raises(UserError, match="is too small"):
    SentenceLikelihood(draws=0)
