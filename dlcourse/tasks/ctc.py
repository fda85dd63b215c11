"""Labels without a segmentation: connectionist temporal classification (Graves et al., 2006; H3.11.2).

A network says at every step how likely each label and the blank 0 are. A path of one symbol a step stands for
what is left when repetitions are merged and blanks are dropped; the probability of labels is the sum over
all their paths.

Shapes: B batch, T steps, C classes with the blank, L labels at most, K prefixes.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

BLANK = 0


class Labelled(NamedTuple):
  """Label strings.

  Attributes:
    labels: [B, T] int32, 0 after the end.
    lengths: [B] int32.
    scores: [B] log-probability in nats: of the path, or of the labels as far as the beam has seen their paths.
  """

  labels: jax.Array
  lengths: jax.Array
  scores: jax.Array


def ctc_nll(logits: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array) -> jax.Array:
  """-log p(labels | x), summed over all paths (Graves et al., 2006, equation 14).

  Args:
    logits: [B, T, C], class 0 is the blank.
    lengths: [B] int, steps that count.
    labels: [B, L] int in 1 … C - 1.
    label_lengths: [B] int, labels that count.

  Returns:
    [B] nats; 1e5 and more where no path of that length stands for the labels.
  """
  chex.assert_rank((logits, lengths, labels, label_lengths), (3, 1, 2, 1))
  steps_out = (jnp.arange(logits.shape[1]) >= lengths[:, None]).astype(logits.dtype)
  labels_out = (jnp.arange(labels.shape[1]) >= label_lengths[:, None]).astype(logits.dtype)
  return optax.ctc_loss(logits, steps_out, labels, labels_out, blank_id=BLANK)


def best_path(logits: jax.Array, lengths: jax.Array) -> Labelled:
  """The labels of the likeliest path (Graves et al., 2006, section 3.2).

  Args:
    logits: [B, T, C], class 0 is the blank.
    lengths: [B] int, steps that count.
  """
  chex.assert_rank((logits, lengths), (3, 1))
  batch, steps, _ = logits.shape
  counts = jnp.arange(steps) < lengths[:, None]  # [B, T]
  path = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  before = jnp.pad(path[:, :-1], [(0, 0), (1, 0)], constant_values=BLANK)
  kept = counts & (path != BLANK) & (path != before)
  places = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, steps)  # beyond the end: dropped
  labels = jnp.zeros((batch, steps), jnp.int32).at[jnp.arange(batch)[:, None], places].set(path, mode="drop")
  nats = jnp.where(counts, jax.nn.log_softmax(logits).max(axis=-1), 0.0)
  return Labelled(labels, kept.sum(axis=1, dtype=jnp.int32), nats.sum(axis=1))


class _Prefixes(NamedTuple):
  """K label strings, the likeliest first; no two that are possible are alike."""

  labels: jax.Array  # [K, T]
  lengths: jax.Array  # [K]
  blank: jax.Array  # [K] log-probability of the paths that end in a blank
  label: jax.Array  # [K] of those that end in the last label

  @property
  def total(self) -> jax.Array:
    """[K] log-probability of all paths."""
    return jnp.logaddexp(self.blank, self.label)


def prefix_beam_search(logits: jax.Array, lengths: jax.Array, beams: int) -> Labelled:
  """The likeliest labels, paths summed, as far as K prefixes see them (Hannun et al., 2014, arXiv:1408.2873).

  Args:
    logits: [B, T, C], class 0 is the blank.
    lengths: [B] int, steps that count.
    beams: K.
  """
  chex.assert_rank((logits, lengths), (3, 1))
  steps = logits.shape[1]
  start = _Prefixes(
    jnp.zeros((beams, steps), jnp.int32),
    jnp.zeros(beams, jnp.int32),
    jnp.full(beams, -jnp.inf).at[0].set(0.0),
    jnp.full(beams, -jnp.inf),
  )

  def one(log_probs, length):
    def step(prefixes, inputs):
      log_prob, time = inputs
      longer = _extended(prefixes, log_prob)
      return jax.tree.map(lambda new, old: jnp.where(time < length, new, old), longer, prefixes), None

    prefixes, _ = jax.lax.scan(step, start, (log_probs, jnp.arange(steps)))
    best = jnp.argmax(prefixes.total)
    return Labelled(prefixes.labels[best], prefixes.lengths[best], prefixes.total[best])

  return jax.vmap(one)(jax.nn.log_softmax(logits), lengths)


def _extended(now: _Prefixes, log_prob: jax.Array) -> _Prefixes:
  """The K likeliest prefixes after one more step, log_prob [C]."""
  beams, steps = now.labels.shape
  rows, size = jnp.arange(beams), log_prob.shape[0]
  last = jnp.where(now.lengths > 0, now.labels[rows, now.lengths - 1], BLANK)  # [K]

  # One label more: the last one again only after a blank.
  again = jnp.arange(size) == last[:, None]
  added = jnp.where(again, now.blank[:, None], now.total[:, None]) + log_prob  # [K, C]
  added = added.at[:, BLANK].set(-jnp.inf)

  # Where prefix i with one label more is prefix j, its paths are j's.
  without_last = jnp.where(jnp.arange(steps) < now.lengths[:, None] - 1, now.labels, BLANK)
  is_j = jnp.all(now.labels[:, None] == without_last, axis=-1)  # [K, K]
  is_j &= (now.lengths[:, None] + 1 == now.lengths) & (now.total > -jnp.inf)
  from_i = jax.nn.logsumexp(jnp.where(is_j, added[:, last], -jnp.inf), axis=0)  # [K]
  moved = jnp.any(is_j[:, :, None] & (jnp.arange(size) == last[:, None]), axis=1)  # [K, C]
  added = jnp.where(moved, -jnp.inf, added)

  # The same labels: one more blank, or the last label once more.
  blank = now.total + log_prob[BLANK]
  label = jnp.logaddexp(jnp.where(now.lengths > 0, now.label + log_prob[last], -jnp.inf), from_i)

  candidates = jnp.concatenate([jnp.logaddexp(blank, label), added.reshape(-1)])
  _, best = jax.lax.top_k(candidates, beams)
  grows = best >= beams
  parent = jnp.where(grows, (best - beams) // size, best)
  symbol = (best - beams) % size
  end = now.lengths[parent]
  labels = now.labels[parent]
  labels = labels.at[rows, end].set(jnp.where(grows, symbol, labels[rows, end]).astype(jnp.int32), mode="drop")
  return _Prefixes(
    labels,
    end + grows,
    jnp.where(grows, -jnp.inf, blank[parent]),
    jnp.where(grows, candidates[best], label[parent]),
  )
