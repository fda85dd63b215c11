import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.models.seq2seq import SequenceEncoder
from dlcourse.models.sequence import Frontend, LanguageModel
from dlcourse.models.text_vae import TextVAE
from dlcourse.theory.gaussians import sample

B, T, Z, V = 3, 5, 2, 9
RNG = np.random.default_rng(0)
TARGETS = RNG.integers(4, V, size=(B, T)).astype(np.int32)
TOKENS = RNG.integers(4, V, size=(B, T)).astype(np.int32)
LENGTHS = np.array([5, 2, 3], np.int32)
KEY = jax.random.key(1)


def network(latent_dim=Z):
  encoder = SequenceEncoder(RecurrentStack("gru", hidden_dim=4, bidirectional=True), Frontend(4, vocab_size=V))
  body = RecurrentStack("lstm", hidden_dim=6, num_layers=2)
  return TextVAE(encoder, body, latent_dim, embed_dim=4, vocab_size=V)


@functools.cache
def variables(model):
  found = jax.jit(model.init)(jax.random.key(0), TARGETS, LENGTHS, TOKENS, KEY)
  keys = iter(jax.random.split(KEY, len(jax.tree.leaves(found))))
  return jax.tree.map(lambda x: 0.7 * jax.random.normal(next(keys), x.shape), found)


def asked(model, *args, **kwargs):
  return jax.jit(functools.partial(model.apply, **kwargs))(variables(model), *args)


def test_token_by_token_equals_teacher_forcing():
  model, z = network(), RNG.normal(size=(B, Z)).astype(np.float32)

  @jax.jit
  def both(variables):
    start = model.apply(variables, z, method="start")
    carry, rows = start, []
    for t in range(T):
      carry, logits = model.apply(variables, z, carry, TOKENS[:, t : t + 1], method="decode")
      rows.append(logits)
    return start, jnp.concatenate(rows, axis=1), model.apply(variables, z, start, TOKENS, method="decode")[1]

  start, stepped, whole = both(variables(model))
  np.testing.assert_allclose(stepped, whole, atol=1e-5)
  assert all(np.abs(part).min() > 0 and np.abs(part).max() < 1 for part in jax.tree.leaves(start))


def test_what_follows_the_end_changes_neither_posterior_nor_what_is_said_before_it():
  model = network()
  first = asked(model, TARGETS, LENGTHS, TOKENS, KEY)
  counts = np.arange(T + 3) < LENGTHS[:, None]
  targets, tokens = (
    np.where(counts, np.pad(x, [(0, 0), (0, 3)]), V - 1).astype(np.int32) for x in (TARGETS, TOKENS)
  )
  longer = asked(model, targets, LENGTHS, tokens, KEY)
  chex.assert_trees_all_close(longer.latents, first.latents, atol=1e-6)
  shown = counts[:, :T, None]
  np.testing.assert_allclose(longer.outputs[:, :T] * shown, first.outputs * shown, atol=1e-5)


def test_the_draw_is_from_the_posterior_of_what_the_encoder_reads_alone():
  model = network()
  inference = asked(model, TARGETS, LENGTHS, TOKENS, KEY)
  (group,) = inference.latents
  np.testing.assert_array_equal(inference.code, group.z)
  np.testing.assert_allclose(group.z, sample(group.posterior, KEY), atol=1e-6)
  assert not np.any(group.prior.mean)
  assert not np.any(group.prior.log_var)
  again = asked(model, TARGETS, LENGTHS, TOKENS[:, ::-1], KEY)
  chex.assert_trees_all_equal(again.latents, inference.latents)
  other = asked(model, (TARGETS + 1) % V, LENGTHS, TOKENS, KEY)
  assert np.all(np.any(other.code != inference.code, axis=1))


def test_z_stands_beside_every_token_and_not_in_the_first_state_alone():
  model = network()
  carry = jax.tree.map(lambda x: jnp.zeros((B, *x.shape[1:])), model.body.initial_carry(1))
  steps = [
    asked(model, z, carry, TOKENS[:, :1], method="decode")[1]
    for z in np.eye(2, dtype=np.float32)[:, None].repeat(B, axis=1)
  ]
  assert np.all(np.any(steps[0] != steps[1], axis=-1))


def test_without_latents_it_is_the_language_model_of_the_chapter_on_recurrent_networks():
  model = network(latent_dim=0)
  params = variables(model)["params"]
  assert set(params) == {"embed", "body", "output"}
  inference = asked(model, TARGETS, LENGTHS, TOKENS, KEY)
  plain = LanguageModel(model.body, embed_dim=4, vocab_size=V)
  _, logits = plain.apply({"params": params}, plain.initial_carry(B), TOKENS)
  np.testing.assert_allclose(inference.outputs, logits, atol=1e-5)
  (group,) = inference.latents
  assert group.z.shape == group.posterior.mean.shape == (B, 0)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"latent_dim": -1}, "--task.model.latent_dim=-1"),
    ({"embed_dim": 0}, "--task.model.embed_dim=0"),
    ({"dropout": 1.0}, "--task.model.dropout=1.0"),
  ],
)
def test_sizes_of_nothing_are_refused(fields, said):
  with pytest.raises(UserError, match=said):
    TextVAE(**fields)
