"""Arrays under other names and in other layouts: all of them, or an error that counts what does not fit."""

import jax
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.interop.fill import Naming, block_counts, fill, take

VARIABLES = {
  "params": {"a": {"kernel": np.arange(6.0).reshape(2, 3)}, "b": {"bias": np.arange(3.0)}},
  "batch_stats": {"b": {"mean": np.ones(3)}},
}


def transposed(path, array):
  return array.T if path.endswith("kernel") else array


NAMING = Naming(
  label="theirs",
  names={
    "params/a/kernel": "theirs.a.kernel",
    "params/b/bias": "theirs.b.bias",
    "batch_stats/b/mean": "theirs.b.mean",
  },
  to_flax=transposed,
  to_other=transposed,
  spare=r"spare\..*",
  renamed=lambda name: name.replace("old.", "theirs."),
)


def test_taking_and_filling_are_inverse():
  state = take(VARIABLES, NAMING)
  assert {key: array.shape for key, array in state.items()} == {
    "theirs.a.kernel": (3, 2),
    "theirs.b.bias": (3,),
    "theirs.b.mean": (3,),
  }
  back = fill(VARIABLES, state, NAMING)
  np.testing.assert_equal(back, VARIABLES)


def unfit():
  state = take(VARIABLES, NAMING)
  del state["theirs.b.mean"]
  return state | {
    "theirs.b.bias": np.zeros(4),
    "more": np.zeros(1),
    "again": np.zeros(1),
    "spare.1": np.zeros(1),
  }


REPORT = (
  "1 missing, the first 'theirs.b.mean'; 2 that the model has no place for, the first 'more'; "
  "1 of another shape, the first 'theirs.b.bias' (4,) where the model has (3,)"
)


def test_everything_that_does_not_fit_is_counted_and_the_first_is_named():
  with pytest.raises(UserError) as refused:
    fill(VARIABLES, unfit(), NAMING)
  assert str(refused.value) == f"these weights are not those of the model: {REPORT}"


def test_what_fits_is_taken_on_request_and_the_rest_is_told_once(caplog):
  state = unfit() | {"theirs.a.kernel": np.full((3, 2), 7.0)}
  filled = fill(VARIABLES, state, NAMING, strict=False, source="w.pth")
  assert (filled["params"]["a"]["kernel"] == 7).all()
  np.testing.assert_equal(filled["params"]["b"], VARIABLES["params"]["b"])
  np.testing.assert_equal(filled["batch_stats"], VARIABLES["batch_stats"])
  (said,) = [record.getMessage() for record in caplog.records]
  assert said == f"w.pth: only what fits of these weights was taken: {REPORT}"


def test_a_layer_that_stays_needs_nothing_and_takes_nothing():
  state = {"theirs.a.kernel": np.full((3, 2), 7.0), "theirs.b.bias": np.zeros(9)}
  filled = fill(VARIABLES, state, NAMING, without=["b"])
  assert (filled["params"]["a"]["kernel"] == 7).all()
  np.testing.assert_equal(filled["params"]["b"], VARIABLES["params"]["b"])
  with pytest.raises(UserError, match="unknown layer 'c'; there are: a, b"):
    fill(VARIABLES, state, NAMING, without=["c"])


def test_arrays_keep_the_type_that_they_have_in_the_model():
  half = {name: array.astype(np.float16) for name, array in take(VARIABLES, NAMING).items()}
  filled = fill(VARIABLES, half, NAMING)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(filled)} == {"float64"}
  np.testing.assert_equal(filled, VARIABLES)


def test_names_of_old_files_stand_for_todays_and_not_beside_them():
  state = take(VARIABLES, NAMING)
  old = {name.replace("theirs.", "old."): array for name, array in state.items()}
  np.testing.assert_equal(fill(VARIABLES, old, NAMING), VARIABLES)
  with pytest.raises(UserError, match=r"'old.a.kernel' is another name for 'theirs.a.kernel'"):
    fill(VARIABLES, state | old, NAMING)


def test_blocks_are_counted_by_stage():
  layers = ["conv1", "conv2_reduce", "stage1_1", "stage2_1", "stage2_10", "stage2_9", "inception_3a"]
  assert block_counts({"params": {layer: {"kernel": np.zeros(1)} for layer in layers}}) == (1, 10)


@pytest.mark.parametrize(("number", "kind"), [(np.nan, np.float32), (np.inf, np.float32), (1e300, np.float64)])
def test_what_is_no_number_is_refused_or_left_out(number, kind):
  variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), VARIABLES)
  state = take(variables, NAMING) | {"theirs.b.bias": np.array([1, number, 2], kind)}
  with pytest.raises(UserError, match=r"1 with NaN or infinity, the first 'theirs.b.bias'"):
    fill(variables, state, NAMING)
  filled = fill(variables, state, NAMING, strict=False)
  np.testing.assert_array_equal(filled["params"]["b"]["bias"], variables["params"]["b"]["bias"])
