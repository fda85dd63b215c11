import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse import losses
from dlcourse.data.recipe import Spec
from dlcourse.data.token_batches import teacher_forced
from dlcourse.data.tokens import BOS, EOS, UNK
from dlcourse.errors import UserError
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.seq2seq import SequenceEncoder
from dlcourse.models.sequence import Frontend
from dlcourse.models.text_vae import TextVAE
from dlcourse.optim import Adam, Sgd
from dlcourse.parallel import compile_task, make_mesh
from dlcourse.tasks.text_autoencoder import AutoencodeText, hidden

V, Z, KEY = 9, 3, jax.random.key(5)
ANSWERS = np.array([[4, 5, 6, 7, 8], [8, 4, 0, 0, 0], [5, 5, 6, 0, 0], [7, 0, 0, 0, 0]], np.int32)
WIDE = np.pad(ANSWERS, [(0, 4), (0, 0)])  # four rows that only fill the batch


def batch_of(answers):
  forced = teacher_forced(answers)
  rows = np.arange(len(answers)) < 4
  return {name: forced[name] for name in ("tokens", "targets", "target_lengths")} | {"mask": np.float32(rows)}


BATCH = batch_of(WIDE)
ENCODER = SequenceEncoder(RecurrentStack("gru", hidden_dim=6, bidirectional=True), Frontend(embed_dim=6))
MODEL = TextVAE(ENCODER, RecurrentStack("gru", hidden_dim=12), latent_dim=Z, embed_dim=6)
SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), BATCH)
SPEC = Spec(SHAPES, vocabulary=tuple(map(str, range(V))))


def build(model=MODEL, **fields):
  task = AutoencodeText(model, Adam(learning_rate=0.02), **fields).build(SPEC, 10)
  return task, jax.jit(task.init)(jax.random.key(0), BATCH)


@pytest.fixture(scope="module")
def vae():
  return build()


def read(measured):
  return {name: metric.value() for name, metric in measured.items()}


def evaluated(task, state, key=KEY, batch=BATCH):
  return read(jax.jit(task.eval_step)(state, key, batch))


def inferred(task, state, key=KEY):
  """By the model itself, of the four sentences that count: logits, means, logarithms of variances, z."""
  model = task.network.model
  shown = (BATCH[name] for name in ("targets", "target_lengths", "tokens"))
  inference = jax.jit(model.apply)(task.network.variables(state), *shown, key)
  (group,) = inference.latents
  return tuple(np.asarray(x[:4], np.float64) for x in (inference.outputs, *group.posterior[:2], group.z))


def nats_of(logits):
  """-log p of each of the four sentences, its end included, and how many tokens they have."""
  log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  rows = [[*(token for token in row if token), EOS] for row in ANSWERS.tolist()]
  nats = [-sum(log_probs[i, t, token] for t, token in enumerate(row)) for i, row in enumerate(rows)]
  right = sum(logits[i, t].argmax() == token for i, row in enumerate(rows) for t, token in enumerate(row))
  return np.array(nats), sum(map(len, rows)), right


def test_the_elbo_equals_its_formula_on_the_tokens_that_count(vae):
  logits, mean, log_var, _ = inferred(*vae)
  nats, count, right = nats_of(logits)
  rates = (0.5 * (mean**2 + np.exp(log_var) - 1 - log_var)).sum(axis=1)
  measured = evaluated(*vae)
  assert set(measured) == {"loss", "elbo", "distortion", "rate", "perplexity", "accuracy"}
  assert measured["distortion"] == pytest.approx(nats.mean(), rel=1e-5)
  assert measured["rate"] == pytest.approx(rates.mean(), rel=1e-4)
  assert measured["elbo"] == pytest.approx(-nats.mean() - rates.mean(), rel=1e-5)
  assert measured["loss"] == pytest.approx(-measured["elbo"], rel=1e-6)
  assert count == 15
  assert measured["perplexity"] == pytest.approx(np.exp((nats + rates).sum() / count), rel=1e-5)
  assert measured["accuracy"] == pytest.approx(right / count)
  np.testing.assert_allclose(vae[0].latents.rates(vae[1], KEY, BATCH)[:4].sum(axis=1), rates, rtol=1e-4)


def test_a_weight_is_the_joint_over_the_posterior(vae):
  task, state = vae
  logits, mean, log_var, z = inferred(task, state)
  prior = -0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=1)
  posterior = -0.5 * ((z - mean) ** 2 / np.exp(log_var) + log_var + np.log(2 * np.pi)).sum(axis=1)
  found = task.latents.log_weight(state, KEY, BATCH)[:4]
  np.testing.assert_allclose(found, prior - nats_of(logits)[0] - posterior, rtol=1e-4)


def test_more_padding_changes_nothing(vae):
  task, state = vae
  longer = batch_of(np.pad(WIDE, [(0, 0), (0, 4)]))
  longer["tokens"][:, 6:] = 7  # after every end
  assert evaluated(task, state, batch=longer) == pytest.approx(evaluated(task, state), rel=1e-5)
  other = {name: np.concatenate([x[:4], x[:4]]) for name, x in BATCH.items()} | {"mask": BATCH["mask"]}
  step = jax.jit(task.train_step)
  chex.assert_trees_all_close(step(state, other), step(state, BATCH), rtol=1e-5, atol=1e-7)
  chex.assert_trees_all_close(step(state, longer)[0].params, step(state, BATCH)[0].params, atol=1e-5)


@pytest.mark.parametrize(("mode", "latent_dim"), [("jit", Z), ("pmap", 0)])
def test_eight_devices_learn_what_one_does(mode, latent_dim):
  """Under pmap replicas draw other noise, so that there are no latents."""
  batch, after = {**BATCH, "mask": np.float32([1, 1, 1, 1, 0, 1, 0, 0])}, []
  task = AutoencodeText(MODEL.clone(latent_dim=latent_dim), Sgd(learning_rate=0.1), free_bits=0.02).build(
    SPEC, 10
  )
  for devices, how in ((1, "jit"), (8, mode)):
    program = compile_task(task, SHAPES, make_mesh(devices), how)
    state, measured = program.train_step(program.init(jax.random.key(0)), batch)
    after.append(jax.device_get((state.params, read(measured))))
  chex.assert_trees_all_close(*after, atol=2e-6, rtol=1e-5)


def test_beta_rises_over_the_warm_up_and_weighs_the_rate_in_the_loss_alone(vae):
  task, state = build(beta=4.0, warm_up=0.5)  # over the first 5 of 10 steps
  step = jax.jit(task.train_step)
  for at, weight in ((0, 0), (1, 0.8), (5, 4), (9, 4)):
    measured = read(step(state.replace(step=jnp.int32(at)), BATCH)[1])
    assert measured["loss"] == pytest.approx(measured["distortion"] + weight * measured["rate"], rel=1e-5)
    assert measured["elbo"] == pytest.approx(-measured["distortion"] - measured["rate"], rel=1e-5)
  measured = evaluated(task, state)
  assert measured["loss"] == pytest.approx(measured["distortion"] + 4 * measured["rate"], rel=1e-5)
  assert measured["elbo"] == pytest.approx(evaluated(*vae)["elbo"], rel=1e-6)


def test_free_bits_are_nats_of_each_dimension_in_the_mean_over_the_batch(vae):
  rates = np.asarray(vae[0].latents.rates(vae[1], KEY, BATCH))[:4].mean(axis=0)
  free = float(np.sort(rates)[1]) + 1e-4  # above two of three dimensions
  measured = evaluated(*build(free_bits=free))
  assert measured["rate"] == pytest.approx(rates.sum(), rel=1e-5)
  assert measured["loss"] == pytest.approx(measured["distortion"] + 2 * free + rates.max(), rel=1e-5)
  slopes = jax.grad(lambda rates: losses.floored(rates, BATCH["mask"], 0.5)[0])(
    jnp.full((8, 3), 0.1).at[:, 1].set(0.7)
  )
  np.testing.assert_allclose(slopes[:, 1], BATCH["mask"] / 4)
  assert not slopes[:, ::2].any()


def test_hidden_words_are_unknown_and_the_beginning_never_is():
  tokens = np.full((400, 6), 7, np.int32)
  tokens[:, 0] = BOS
  found = np.asarray(hidden(KEY, tokens, 0.3))
  np.testing.assert_array_equal(found[:, 0], BOS)
  assert set(np.unique(found[:, 1:])) == {UNK, 7}
  assert (found[:, 1:] == UNK).mean() == pytest.approx(0.3, abs=4 * (0.21 / 2000) ** 0.5)
  np.testing.assert_array_equal(hidden(KEY, tokens, 0.0), tokens)


def test_words_are_hidden_from_the_decoder_in_training_only(vae):
  task, state = build(word_dropout=0.99)
  assert evaluated(task, state) == pytest.approx(evaluated(*vae), rel=1e-6)
  step = jax.jit(task.train_step)
  first, other = (
    read(step(state, {**BATCH, "tokens": tokens})[1])
    for tokens in (BATCH["tokens"], np.where(BATCH["tokens"] > BOS, 4, BATCH["tokens"]))
  )
  assert first["rate"] == other["rate"]  # what the encoder reads is whole


@pytest.fixture(scope="module")
def learnt():
  """Four sentences by heart."""
  task, state = build(word_dropout=0.5, beta=0.3)
  step = jax.jit(task.train_step)
  for _ in range(250):
    state, _ = step(state, BATCH)
  return task, state


def test_training_raises_the_elbo_and_the_latents_tell_the_sentences(vae, learnt):
  assert evaluated(*learnt)["elbo"] > evaluated(*vae)["elbo"] + 5
  task, state = learnt
  made = task.predict(state, KEY, BATCH)
  np.testing.assert_array_equal(made["lengths"][:4], BATCH["target_lengths"][:4])
  np.testing.assert_array_equal(made["tokens"][:4], BATCH["targets"][:4])
  np.testing.assert_array_equal(task.latents.texts(state, task.latents.encode(state, BATCH)), made["tokens"])


def test_generated_sentences_decode_the_prior_and_keep_what_is_given(learnt):
  task, state = learnt
  count, generate = 60, jax.jit(task.generate)
  nothing = np.zeros((count, 7), np.int32)
  asked = {"tokens": nothing, "given": nothing, "temperature": np.zeros(count, np.float32)}
  made = np.asarray(generate(state, KEY, asked)["tokens"])
  z = jax.random.normal(jax.random.split(KEY)[0], (count, Z))
  np.testing.assert_array_equal(made[:, :6], task.latents.texts(state, z))
  assert not made[:, 6:].any()
  sentences = {tuple(row) for row in BATCH["targets"][:4].tolist()}
  drawn = {tuple(row) for row in made[:, :6].tolist()}
  assert len(sentences & drawn) >= 3
  prompt = nothing.copy()
  prompt[:, 0] = 8
  given = (np.arange(7) == 0) * np.ones((count, 1), np.float32)
  told = np.asarray(generate(state, KEY, {**asked, "tokens": prompt, "given": given})["tokens"])
  assert (told[:, 0] == 8).all()
  model, shown = task.network.model, np.tile(np.int32([BOS, 8]), (count, 1))
  after = jax.jit(
    lambda params, z: model.apply(params, z, model.apply(params, z, method="start"), shown, method="decode")
  )
  np.testing.assert_array_equal(told[:, 1], after(task.network.variables(state), z)[1][:, 1].argmax(axis=-1))


def test_without_latents_the_bound_is_the_likelihood_of_a_language_model():
  task, state = build(MODEL.clone(latent_dim=0))
  assert task.latents is None
  measured = evaluated(task, state)
  assert measured["rate"] == 0
  assert measured == evaluated(task, state, key=jax.random.key(6))
  nothing = np.zeros((2, 3), np.int32)
  asked = {"tokens": nothing, "given": nothing, "temperature": np.ones(2, np.float32)}
  assert task.generate(state, KEY, asked)["tokens"].shape == (2, 3)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"word_dropout": 1.0}, r"--task\.word_dropout=1\.0"),
    ({"beta": -1.0}, r"--task\.beta=-1\.0 is too small"),
    ({"free_bits": -1.0}, r"--task\.free_bits=-1\.0 is too small"),
    ({"warm_up": 1.5}, r"--task\.warm_up=1\.5 has to be between 0 and 1"),
  ],
)
def test_numbers_out_of_range_are_refused(fields, said):
  with pytest.raises(UserError, match=said):
    AutoencodeText(MODEL, Adam(), **fields)


def test_data_with_a_source_or_without_sentences_is_refused():
  for batch in ({**SHAPES, "inputs": SHAPES["tokens"]}, {"mask": SHAPES["mask"]}):
    with pytest.raises(UserError, match="texts that stand by themselves"):
      AutoencodeText(MODEL, Adam()).build(Spec(batch, vocabulary=SPEC.vocabulary), 10)
