"""Answers token by token: greedy, sampled, and by beam search (H3.11.1, H3.11.4).

A model is a pure function here, `step(state, token [N]) -> (state, logits [N, V])`, of which every leaf of the
state has the rows as leading axis; so recurrent networks and Transformers are decoded by the same code.

Shapes: N rows, L tokens of an answer at most, V vocabulary, K beams a row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from dlcourse.data.tokens import EOS, PAD

PyTree = Any
Step = Callable[[PyTree, jax.Array], tuple[PyTree, jax.Array]]
Choice = Callable[[jax.Array, jax.Array], jax.Array]  # (key, logits [N, V]) -> token [N]


class Decoded(NamedTuple):
  """Answers in the form of targets.

  Attributes:
    tokens: [N, L] int32, with <eos>, and <pad> after it.
    lengths: [N] int32, with <eos>; L where there is none.
    scores: [N] log-probability in nats; after a beam search, see there.
  """

  tokens: jax.Array
  lengths: jax.Array
  scores: jax.Array


class Forced(NamedTuple):
  """Tokens that an answer has to have, such as a prompt.

  Attributes:
    tokens: [N, L] int.
    given: [N, L], 1 = this token, whatever the model would say.
  """

  tokens: jax.Array
  given: jax.Array


def greedy(key: jax.Array, logits: jax.Array) -> jax.Array:
  """The likeliest token: logits [N, V] -> [N]."""
  del key
  return jnp.argmax(logits, axis=-1)


def sampled(temperature: jax.Array | float, top_k: int | None = None, top_p: float | None = None) -> Choice:
  """Draws from softmax(logits / temperature), or from the likeliest part of it, made to sum to 1.

  Args:
    temperature: [] or [N]; 1 is the model's distribution, 0 the likeliest token.
    top_k: as many of the likeliest tokens as can be drawn (Fan et al., 2018); None: all.
    top_p: the fewest likeliest tokens that together have this probability can be drawn (nucleus sampling,
      Holtzman et al., 2020, arXiv:1904.09751); None: all. After `top_k`, of what that leaves.
  """

  def choose(key, logits):
    rows = jnp.broadcast_to(jnp.asarray(temperature, logits.dtype), logits.shape[:1])
    scaled = logits / jnp.maximum(rows, 1e-6)[:, None]
    if top_k is None and top_p is None:
      drawn = jax.random.categorical(key, scaled)
    else:
      order = jnp.argsort(-scaled, axis=-1)  # [N, V], likeliest first
      ranked = jnp.take_along_axis(scaled, order, axis=-1)
      if top_k is not None:
        ranked = jnp.where(jnp.arange(logits.shape[1]) < top_k, ranked, -jnp.inf)
      if top_p is not None:
        shares = jax.nn.softmax(ranked, axis=-1)
        ranked = jnp.where(jnp.cumsum(shares, axis=-1) - shares < top_p, ranked, -jnp.inf)
      rank = jax.random.categorical(key, ranked)
      drawn = jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
    return jnp.where(rows > 0, drawn, greedy(key, logits))

  return choose


class _Line(NamedTuple):
  """What `follow` carries: answers of one row each."""

  time: jax.Array
  state: PyTree
  token: jax.Array  # [N], the last one
  tokens: jax.Array
  lengths: jax.Array
  scores: jax.Array
  done: jax.Array  # [N] bool


def follow(
  step: Step,
  state: PyTree,
  first: jax.Array,
  length: int,
  choose: Choice,
  key: jax.Array,
  eos: int | None = EOS,
  forced: Forced | None = None,
) -> Decoded:
  """One answer a row, each token chosen from what the model says after those before it.

  Args:
    step: the model.
    state: before the first token.
    first: [N] int, the token that the model is given first, <bos>; not part of the answer.
    length: L.
    choose: `greedy`, or `sampled(...)`.
    key: of all draws.
    eos: the token that ends an answer; None: none does.
    forced: what is not left to the model.
  """
  chex.assert_rank(first, 1)
  rows = first.shape[0]
  forced = forced and jax.tree.map(jnp.asarray, forced)  # a traced time does not index NumPy

  def advance(line: _Line) -> _Line:
    state, logits = step(line.state, line.token)
    token = choose(jax.random.fold_in(key, line.time), logits)
    if forced is not None:
      token = jnp.where(forced.given[:, line.time] > 0, forced.tokens[:, line.time], token)
    token = jnp.where(line.done, PAD, token).astype(jnp.int32)
    nats = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
    return _Line(
      line.time + 1,
      state,
      token,
      line.tokens.at[:, line.time].set(token),
      line.lengths + ~line.done,
      line.scores + jnp.where(line.done, 0.0, nats),
      line.done if eos is None else line.done | (token == eos),
    )

  line = _Line(
    jnp.zeros((), jnp.int32),
    state,
    first.astype(jnp.int32),
    jnp.full((rows, length), PAD, jnp.int32),
    jnp.zeros(rows, jnp.int32),
    jnp.zeros(rows),
    jnp.zeros(rows, bool),
  )
  line = jax.lax.while_loop(lambda line: (line.time < length) & ~line.done.all(), advance, line)
  return Decoded(line.tokens, line.lengths, line.scores)


def repeated(tree: PyTree, times: int) -> PyTree:
  """Every row as often, one beside the other: [N, ...] -> [N times, ...]."""
  return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), tree)


def length_penalty(lengths: jax.Array, alpha: float) -> jax.Array:
  """((5 + length) / 6)^alpha (Wu et al., 2016, arXiv:1609.08144, equation 14)."""
  return ((5.0 + lengths) / 6.0) ** alpha


class _Beams(NamedTuple):
  """What `beam_search` carries: K answers a row, the best one first."""

  time: jax.Array
  state: PyTree  # [N K, ...]
  token: jax.Array  # [N, K], the last ones
  tokens: jax.Array  # [N, K, L]
  lengths: jax.Array  # [N, K]
  nats: jax.Array  # [N, K], log-probabilities
  done: jax.Array  # [N, K] bool


def beam_search(
  step: Step,
  state: PyTree,
  first: jax.Array,
  length: int,
  beams: int,
  alpha: float = 0.0,
  eos: int = EOS,
) -> Decoded:
  """The best of K answers that are kept in view (Wu et al., 2016, arXiv:1609.08144, section 7).

  Best is log p / `length_penalty`. An answer is complete with <eos>, or with L tokens; complete ones stay in
  the beam until K better ones have pushed them out. A row is decided when no continuation of an open answer can
  become better than its best complete one.

  Args:
    step: the model; it sees N K rows, the beams of a row beside each other.
    state: before the first token, `repeated(…, beams)`, as all that `step` knows of each row has to be.
    first: [N] int, the token that the model is given first, <bos>; not part of the answer.
    length: L.
    beams: K; 1 is greedy.
    alpha: of the penalty; 0 compares log-probabilities, which favours short answers.
    eos: the token that ends an answer.

  Returns:
    The best answer of each row; `scores` are what was compared.
  """
  chex.assert_rank(first, 1)
  rows = first.shape[0]
  each = jnp.arange(rows)[:, None]

  def score(nats, lengths):
    return nats / length_penalty(lengths, alpha)

  def undecided(now: _Beams) -> jax.Array:
    best = jnp.where(now.done, score(now.nats, now.lengths), -jnp.inf).max(axis=1)
    bound = jnp.where(now.done, -jnp.inf, score(now.nats, length)).max(axis=1)
    return (now.time < length) & jnp.any(best < bound)

  def advance(now: _Beams) -> _Beams:
    state, logits = step(now.state, now.token.reshape(-1))
    nats = jax.nn.log_softmax(logits).reshape(rows, beams, -1)
    size = nats.shape[-1]
    only_pad = jnp.where(jnp.arange(size) == PAD, 0.0, -jnp.inf)
    nats = now.nats[..., None] + jnp.where(now.done[..., None], only_pad, nats)  # [N, K, V]
    lengths = now.lengths + ~now.done
    ranked = score(nats, lengths[..., None]).reshape(rows, -1)
    _, best = jax.lax.top_k(ranked, beams)  # [N, K]
    parent, token = best // size, (best % size).astype(jnp.int32)
    from_rows = (each * beams + parent).reshape(-1)
    return _Beams(
      now.time + 1,
      jax.tree.map(lambda x: x[from_rows], state),
      token,
      now.tokens[each, parent].at[:, :, now.time].set(token),
      lengths[each, parent],
      nats.reshape(rows, -1)[each, best],
      now.done[each, parent] | (token == eos),
    )

  now = _Beams(
    jnp.zeros((), jnp.int32),
    state,
    repeated(first, beams).reshape(rows, beams).astype(jnp.int32),
    jnp.full((rows, beams, length), PAD, jnp.int32),
    jnp.zeros((rows, beams), jnp.int32),
    # All beams begin alike: only the first counts, or they would stay alike.
    jnp.full((rows, beams), -jnp.inf).at[:, 0].set(0.0),
    jnp.zeros((rows, beams), bool),
  )
  now = jax.lax.while_loop(undecided, advance, now)
  return Decoded(now.tokens[:, 0], now.lengths[:, 0], score(now.nats, now.lengths)[:, 0])
