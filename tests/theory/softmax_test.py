import jax
import numpy as np

from dlcourse.theory.softmax import softmax

LOGITS = np.array([5.0, 2.0, -1.0])


def test_softmax_gives_the_percentages_of_the_example():
  np.testing.assert_allclose(100 * softmax(LOGITS), [95.03, 4.73, 0.24], atol=0.005)


def test_the_handbooks_0_3_percent_is_a_rounded_number_rounded_again():
  powers = np.exp(LOGITS).round(1)
  assert powers.tolist() == [148.4, 7.4, 0.4]
  assert powers.sum().round(1) == 156.2
  assert (100 * powers / 156.2).round(1).tolist() == [95.0, 4.7, 0.3]
  assert (100 * softmax(LOGITS)).round(1).tolist() == [95.0, 4.7, 0.2]


def test_softmax_equals_jax_and_survives_large_logits():
  logits = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
  np.testing.assert_allclose(softmax(logits), jax.nn.softmax(logits), rtol=1e-5)
  np.testing.assert_array_equal(softmax([1000, 0, -1000]), [1, 0, 0])


def test_softmax_of_two_is_the_sigmoid_and_a_constant_cancels():
  np.testing.assert_allclose(softmax([0.7, 0.0])[0], 1 / (1 + np.exp(-0.7)), rtol=1e-12)
  np.testing.assert_allclose(softmax(LOGITS + 3), softmax(LOGITS), rtol=1e-12)
