import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.tokens import BOS, EOS, PAD
from dlcourse.tasks import decoding
from dlcourse.tasks.decoding import Forced, beam_search, follow, greedy, repeated, sampled

N, V, L = 4, 5, 4  # tokens 0 … 4: <pad>, <unk>, <bos>, <eos> and one word
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(N, L + 1, V, V)).astype(np.float32) * 1.5  # what follows, by row, time and token


def markov(logits):
  """A model that knows the time and the last token; its state is the time [rows], for rows of `logits`."""

  def step(time, token):
    return time + 1, jnp.asarray(logits)[jnp.arange(len(token)), time, token]

  return step


def begin(rows=N):
  return jnp.zeros(rows, jnp.int32), jnp.full(rows, BOS)


def log_softmax(x):
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def score_of(row, answer):
  nats = log_softmax(LOGITS[row].astype(np.float64))
  return sum(nats[t, a, b] for t, (a, b) in enumerate(itertools.pairwise((BOS, *answer))))


def all_answers():
  """Everything that ends with <eos>, or has L tokens."""
  for length in range(1, L + 1):
    for answer in itertools.product(range(V), repeat=length):
      if EOS not in answer[:-1] and (answer[-1] == EOS or length == L):
        yield answer


def search(beams, alpha):
  state, first = begin()
  step = markov(np.repeat(LOGITS, beams, axis=0))
  run = jax.jit(lambda state, first: beam_search(step, state, first, L, beams, alpha))
  return run(repeated(state, beams), first)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_that_holds_everything_finds_what_exhaustive_search_finds(alpha):
  found = search(V**L, alpha)
  for row in range(N):
    best, expected = max(
      ((score_of(row, a) / ((5 + len(a)) / 6) ** alpha, a) for a in all_answers()), key=lambda pair: pair[0]
    )
    length = int(found.lengths[row])
    assert tuple(found.tokens[row, :length].tolist()) == expected
    assert not np.any(found.tokens[row, length:])
    assert found.scores[row] == pytest.approx(best, abs=1e-5)


def test_a_wider_beam_and_length_matter_in_these_examples():
  answers = {(k, alpha): search(k, alpha) for k, alpha in ((1, 0.0), (V**L, 0.0), (V**L, 2.0))}
  narrow, wide = answers[1, 0.0], answers[V**L, 0.0]
  assert np.all(wide.scores >= narrow.scores - 1e-6)
  assert np.any(wide.scores > narrow.scores + 1e-3)
  assert answers[V**L, 2.0].lengths.sum() > wide.lengths.sum()


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(alpha):
  state, first = begin()
  line = follow(markov(LOGITS), state, first, L, greedy, KEY)
  beam = search(1, alpha)
  np.testing.assert_array_equal(beam.tokens, line.tokens)
  np.testing.assert_array_equal(beam.lengths, line.lengths)
  np.testing.assert_allclose(beam.scores * ((5 + line.lengths) / 6) ** alpha, line.scores, atol=1e-5)


def test_greedy_takes_the_likeliest_and_stops_at_the_end():
  state, first = begin()
  found = follow(markov(LOGITS), state, first, L, greedy, KEY)
  for row in range(N):
    answer, last = [], BOS
    while len(answer) < L and last != EOS:
      last = int(LOGITS[row, len(answer), last].argmax())
      answer.append(last)
    assert found.tokens[row].tolist() == answer + [PAD] * (L - len(answer))
    assert found.lengths[row] == len(answer)
    assert found.scores[row] == pytest.approx(score_of(row, answer), abs=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_state_follows_its_answer(beams):
  """A step that reads its whole past, kept in the state, equals one that knows the last token only."""

  def recomputed(state, token):
    past, time = state
    rows = jnp.arange(len(token))
    past = past.at[rows, time].set(token)  # the whole past, as a cache would hold it
    logits = jnp.asarray(np.repeat(LOGITS, beams, axis=0))[rows, time, past[rows, time]]
    weights = jnp.cos(jnp.arange(L + 1) + 1.0)
    return (past, time + 1), logits + jnp.sin(past @ weights)[:, None] * jnp.arange(V)

  start = (jnp.zeros((N * beams, L + 1), jnp.int32), jnp.zeros(N * beams, jnp.int32))
  found = beam_search(recomputed, start, jnp.full(N, BOS), L, beams)
  weights = np.cos(np.arange(L + 1) + 1.0)
  for row in range(N):
    total, past = 0.0, np.zeros(L + 1)
    for t, (a, b) in enumerate(itertools.pairwise([BOS, *found.tokens[row, : found.lengths[row]].tolist()])):
      past[t] = a
      total += log_softmax(LOGITS[row, t, a] + np.sin(past @ weights) * np.arange(V))[b]
    assert found.scores[row] == pytest.approx(total, abs=1e-4)


def draws(choose, logits, count=2000):
  keys = jax.random.split(KEY, count)
  return np.asarray(jax.jit(jax.vmap(choose, in_axes=(0, None)))(keys, logits))  # [count, rows]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_distribution(temperature):
  logits = LOGITS[:, 0, 0]
  tokens = draws(sampled(temperature), logits)
  shares = np.stack([(tokens == token).mean(axis=0) for token in range(V)], axis=-1)
  np.testing.assert_allclose(shares, np.exp(log_softmax(logits / temperature)), atol=0.05)


def test_temperature_0_is_greedy_row_by_row():
  logits, temperature = LOGITS[:2, 0, 0], jnp.array([0.0, 1.0])
  tokens = draws(sampled(temperature), logits)
  assert (tokens[:, 0] == logits[0].argmax()).all()
  assert len(set(tokens[:, 1])) > 1
  tokens = draws(sampled(temperature, top_k=3), logits)
  assert (tokens[:, 0] == logits[0].argmax()).all()


@pytest.mark.parametrize("top_k", [1, 2, V])
def test_top_k_leaves_the_k_likeliest_in_their_proportion(top_k):
  logits = LOGITS[:, 1, 2]
  tokens = draws(sampled(1.0, top_k=top_k), logits)
  for row in range(N):
    likeliest = np.argsort(-logits[row])[:top_k]
    assert set(tokens[:, row]) <= set(likeliest.tolist())
    share = np.exp(logits[row, likeliest]) / np.exp(logits[row, likeliest]).sum()
    np.testing.assert_allclose([(tokens[:, row] == token).mean() for token in likeliest], share, atol=0.05)


def test_top_k_of_equal_logits_is_still_k():
  assert len(set(draws(sampled(1.0, top_k=2), jnp.zeros((1, V)))[:, 0])) == 2


def test_a_nucleus_is_the_fewest_tokens_with_that_probability():
  logits = jnp.log(jnp.array([[0.1, 0.5, 0.0625, 0.3, 0.0375]]))
  for top_p, expected in ((0.45, {1}), (0.55, {1, 3}), (0.85, {0, 1, 3}), (1.0, set(range(5)))):
    assert set(draws(sampled(1.0, top_p=top_p), logits)[:, 0]) == expected
  # Of the two that top-k leaves, 0.5 and 0.3, the first has 0.625.
  assert set(draws(sampled(1.0, top_k=2, top_p=0.6), logits)[:, 0]) == {1}


def test_forced_tokens_are_kept_and_the_rest_goes_on_from_them():
  tokens = np.array([[1, 4, 0, 0]] * N)
  given = np.array([[1, 1, 0, 0]] * N)
  state, first = begin()
  found = follow(markov(LOGITS), state, first, L, greedy, KEY, eos=None, forced=Forced(tokens, given))
  assert (found.tokens[:, :2] == jnp.array([1, 4])).all()
  np.testing.assert_array_equal(found.tokens[:, 2], LOGITS[np.arange(N), 2, 4].argmax(axis=-1))
  assert (found.lengths == L).all()


def test_a_search_stops_when_all_answers_are_decided():
  asked = []

  def step(state, token):
    jax.debug.callback(lambda: asked.append(1))
    return state, jnp.where(jnp.arange(V) == EOS, 5.0, 0.0) + jnp.zeros((len(token), 1))

  state, first = begin()
  follow(step, state, first, 50, greedy, KEY)
  jax.effects_barrier()
  assert len(asked) == 1
  asked.clear()
  found = beam_search(step, repeated(state, 3), first, 50, 3, alpha=1.0)
  jax.effects_barrier()
  assert found.lengths.tolist() == [1] * N
  assert len(asked) < 10


def test_the_penalty_is_that_of_the_paper():
  np.testing.assert_allclose(decoding.length_penalty(jnp.array([1, 7]), 0.5), [1.0, 2**0.5], rtol=1e-6)
