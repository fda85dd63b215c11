import pytest

from dlcourse.errors import UserError, check_at_least, unknown


def test_unknown_names_the_nearest_name():
  error = unknown("data set", "minst", ["digits", "mnist"])
  assert isinstance(error, UserError)
  assert str(error) == "unknown data set 'minst'; perhaps you meant 'mnist'"


def test_unknown_lists_every_name_in_order_where_none_is_near():
  assert str(unknown("split", "xyz", iter(["train", "test"]))) == "unknown split 'xyz'; there are: test, train"


def test_check_at_least_names_the_flag_and_the_bound():
  check_at_least(1, {"steps": 1})
  with pytest.raises(UserError, match=r"--data\.size=0 is too small; it has to be at least 1"):
    check_at_least(1, {"steps": 5, "data.size": 0})
