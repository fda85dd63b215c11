import itertools

import numpy as np
import pytest

from dlcourse.theory.perceptron import AND, INPUTS, XOR, impossible, learn, sign, two_layer_xor

START = ((-0.2, 0.1), -0.2, 0.1)


@pytest.mark.parametrize(
  ("rule", "threshold", "expected", "updates"),
  [("error", False, (0.2, 0.1, -0.2), 2), ("target", False, (0.1, 0.2, -0.1), 3)],
)
def test_the_exercise_ends_as_by_hand(rule, threshold, expected, updates):
  trace = learn(AND, *START, rule, threshold)
  assert trace.separates
  assert len(trace.updates) == updates
  last = trace.updates[-1]
  np.testing.assert_allclose([*last.weights, last.bias], expected, atol=1e-12)


@pytest.mark.parametrize("threshold", [False, True])
@pytest.mark.parametrize("rule", ["error", "target"])
def test_every_table_that_a_line_separates_is_learnt_by_every_rule(rule, threshold):
  for targets in itertools.product([-1, 1], repeat=4):
    trace = learn(targets, *START, rule, threshold)
    if trace.separates and trace.updates:
      last = trace.updates[-1]
      np.testing.assert_array_equal(sign(INPUTS @ last.weights + (-1 if threshold else 1) * last.bias), targets)
    both = len(set(targets)) == 2
    assert trace.separates == (not both or impossible(INPUTS, targets) is None)


def test_only_xor_and_its_opposite_cannot_be_separated_and_the_proof_holds():
  tables = [np.array(t) for t in itertools.product([-1, 1], repeat=4) if len(set(t)) == 2]
  proofs = {tuple(targets.tolist()): impossible(INPUTS, targets) for targets in tables}
  cannot = {table for table, proof in proofs.items() if proof is not None}
  assert cannot == {tuple(XOR.tolist()), tuple((-XOR).tolist())}
  shares = proofs[tuple(XOR.tolist())]
  assert shares.min() >= 0
  np.testing.assert_allclose([shares @ (XOR == 1), shares @ (XOR == -1)], 1)
  np.testing.assert_allclose((shares * XOR) @ INPUTS, 0, atol=1e-12)


def test_three_perceptrons_make_xor():
  hidden, answers = two_layer_xor(INPUTS)
  np.testing.assert_array_equal(answers, XOR)
  np.testing.assert_array_equal(hidden[:, 0], [1, 1, -1, 1])
  np.testing.assert_array_equal(hidden[:, 1], -AND)
