import numpy as np

from dlcourse.data.token_batches import teacher_forced


def test_a_decoder_gets_the_answer_one_step_late():
  out = teacher_forced(np.array([[7, 8, 9], [7, 0, 0], [0, 0, 0]], np.int32))
  np.testing.assert_array_equal(out["tokens"], [[2, 7, 8, 9], [2, 7, 0, 0], [2, 0, 0, 0]])
  np.testing.assert_array_equal(out["targets"], [[7, 8, 9, 3], [7, 3, 0, 0], [3, 0, 0, 0]])
  np.testing.assert_array_equal(out["mask"], [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
  np.testing.assert_array_equal(out["target_lengths"], [4, 2, 1])
  assert {x.dtype for x in out.values()} == {np.dtype(np.int32), np.dtype(np.float32)}
