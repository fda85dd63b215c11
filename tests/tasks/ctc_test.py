"""CTC against the enumeration of all paths."""

import itertools

import jax
import numpy as np
import pytest

from dlcourse.tasks.ctc import best_path, ctc_nll, prefix_beam_search

B, T, C = 6, 5, 3
RNG = np.random.default_rng(0)
LOGITS = 1.5 * RNG.normal(size=(B, T, C)).astype(np.float32)
LENGTHS = np.array([5, 5, 4, 3, 1, 0], np.int32)


def log_softmax(x):
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def collapsed(path):
  return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != 0)


def all_labels(row):
  """{labels: probability}, every path counted."""
  shares = np.exp(log_softmax(LOGITS[row, : LENGTHS[row]].astype(np.float64)))
  found = {}
  for path in itertools.product(range(C), repeat=int(LENGTHS[row])):
    share = np.prod([shares[t, symbol] for t, symbol in enumerate(path)])
    found[collapsed(path)] = found.get(collapsed(path), 0.0) + share
  return found


def padded(labels, width=T):
  return np.array([[*labels, *[0] * (width - len(labels))]], np.int32), np.array([len(labels)], np.int32)


def strings(found):
  return [tuple(row[:length].tolist()) for row, length in zip(found.labels, found.lengths, strict=True)]


@pytest.mark.parametrize("row", range(B))
def test_the_loss_sums_over_all_paths(row):
  expected = all_labels(row)
  labels, sizes = (np.concatenate(part) for part in zip(*map(padded, expected), strict=True))
  count = len(labels)
  logits, lengths = np.repeat(LOGITS[row : row + 1], count, axis=0), np.full(count, LENGTHS[row])
  nats = ctc_nll(logits, lengths, labels, sizes)
  np.testing.assert_allclose(nats, [-np.log(share) for share in expected.values()], rtol=1e-4, atol=1e-5)


def test_labels_that_no_path_stands_for_cost_almost_infinitely_much():
  labels, sizes = padded((1, 1, 2))  # 1, blank, 1, 2 take four steps
  for steps, possible in ((3, False), (4, True)):
    nats = ctc_nll(LOGITS[:1], np.array([steps]), labels, sizes)
    assert (nats[0] < 100) == possible
    assert possible or nats[0] > 9e4


def test_padding_changes_neither_loss_nor_gradient():
  labels, sizes = np.array([[1, 2], [2, 0], [1, 1]], np.int32), np.array([2, 1, 2], np.int32)
  lengths = LENGTHS[1:4]
  wider = np.pad(labels, [(0, 0), (0, 2)], constant_values=2)
  wider[1, 1] = 1  # after the end
  longer = np.pad(LOGITS[1:4], [(0, 0), (0, 3), (0, 0)], constant_values=7.0)
  longer[2, 3:] = -3.0

  def loss(logits, labels):
    return ctc_nll(logits, lengths, labels, sizes).sum()

  a, of_a = jax.value_and_grad(loss)(LOGITS[1:4], labels)
  b, of_b = jax.value_and_grad(loss)(longer, wider)
  assert a == pytest.approx(float(b), rel=1e-6)
  for row, length in enumerate(lengths):
    np.testing.assert_allclose(of_b[row, :length], of_a[row, :length], atol=1e-6)
    assert not np.any(of_b[row, length:])


@pytest.mark.parametrize(
  ("path", "length", "expected"),
  [
    ([1, 1, 2, 2, 1], 5, (1, 2, 1)),
    ([1, 0, 1, 1, 0], 5, (1, 1)),
    ([0, 0, 0, 0, 0], 5, ()),
    ([0, 2, 2, 0, 2], 5, (2, 2)),
    ([2, 2, 0, 2, 1], 3, (2,)),
    ([2, 1, 2, 1, 2], 5, (2, 1, 2, 1, 2)),
    ([1, 1, 1, 1, 1], 0, ()),
  ],
)
def test_the_best_path_is_merged_and_freed_of_blanks(path, length, expected):
  found = best_path(3.0 * np.eye(C, dtype=np.float32)[None, path], np.array([length]))
  assert strings(found) == [expected]
  assert not np.any(found.labels[0, len(expected) :])
  assert found.scores[0] == pytest.approx(length * log_softmax(np.array([3.0, 0, 0]))[0], abs=1e-5)


def test_a_beam_that_holds_all_prefixes_finds_the_likeliest_labels():
  found = prefix_beam_search(LOGITS, LENGTHS, 70)  # 63 strings of at most 5 labels out of 2, and more than them
  for row in range(B):
    best, share = max(all_labels(row).items(), key=lambda pair: pair[1])
    assert strings(found)[row] == best
    assert found.scores[row] == pytest.approx(np.log(share), abs=1e-4)


def test_a_narrow_beam_finds_less_probability_and_never_too_much():
  narrow, wide = (prefix_beam_search(LOGITS, LENGTHS, beams) for beams in (2, 70))
  for row, labels in enumerate(strings(narrow)):
    assert narrow.scores[row] <= np.log(all_labels(row)[labels]) + 1e-5
    assert narrow.scores[row] <= wide.scores[row] + 1e-5


def test_paths_that_only_together_are_likely_are_found_by_the_beam():
  """Graves et al., 2006, figure: the best path is blank, blank, and yet 1 is the likeliest label string."""
  logits = np.log(np.array([[[0.6, 0.4], [0.6, 0.4]]], np.float32))
  assert strings(best_path(logits, np.array([2]))) == [()]
  found = prefix_beam_search(logits, np.array([2]), 2)
  assert strings(found) == [(1,)]
  assert found.scores[0] == pytest.approx(np.log(0.64), abs=1e-5)


def test_what_lies_after_the_end_changes_no_answer():
  longer = np.pad(LOGITS, [(0, 0), (0, 2), (0, 0)], constant_values=5.0)
  for search in (best_path, lambda logits, lengths: prefix_beam_search(logits, lengths, 4)):
    assert strings(search(longer, LENGTHS)) == strings(search(LOGITS, LENGTHS))
