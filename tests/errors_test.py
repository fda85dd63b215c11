from dlcourse.errors import UserError, unknown


def test_unknown_names_the_nearest_name():
  error = unknown("data set", "minst", ["digits", "mnist"])
  assert isinstance(error, UserError)
  assert str(error) == "unknown data set 'minst'; perhaps you meant 'mnist'"


def test_unknown_lists_every_name_in_order_where_none_is_near():
  assert str(unknown("split", "xyz", iter(["train", "test"]))) == "unknown split 'xyz'; there are: test, train"
