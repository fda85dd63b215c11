"""Arrays under other names and in other layouts: all of them, or an error that counts what does not fit."""

import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.interop.fill import fill, take

VARIABLES = {
  "params": {"a": {"kernel": np.arange(6.0).reshape(2, 3)}, "b": {"bias": np.arange(3.0)}},
  "batch_stats": {"b": {"mean": np.ones(3)}},
}


def name(path):
  return f"theirs.{path.replace('/', '.')}"


def transposed(path, array):
  return array.T if path.endswith("kernel") else array


def test_taking_and_filling_are_inverse():
  state = take(VARIABLES, name, transposed)
  assert {key: array.shape for key, array in state.items()} == {
    "theirs.a.kernel": (3, 2),
    "theirs.b.bias": (3,),
    "theirs.b.mean": (3,),
  }
  back = fill(VARIABLES, state, name, transposed)
  np.testing.assert_equal(back, VARIABLES)


def test_everything_that_does_not_fit_is_counted_and_the_first_is_named():
  state = take(VARIABLES, name, transposed)
  del state["theirs.b.mean"]
  state |= {"theirs.b.bias": np.zeros(4), "more": np.zeros(1), "again": np.zeros(1), "spare.1": np.zeros(1)}
  with pytest.raises(UserError) as refused:
    fill(VARIABLES, state, name, transposed, spare=r"spare\..*")
  assert str(refused.value) == (
    "these weights are not those of the model: 1 missing, the first 'theirs.b.mean'; 2 that the model has no "
    "place for, the first 'more'; 1 of another shape, the first 'theirs.b.bias' (4,) where the model has (3,)"
  )
