import pytest

from dlcourse.errors import (
  UserError,
  check_at_least,
  check_below_one,
  check_between,
  first_line,
  own_line,
  unknown,
)


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


def test_check_at_least_refuses_nan():
  with pytest.raises(UserError, match=r"--rate=nan"):
    check_at_least(0, {"rate": float("nan")})


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_check_between_names_both_bounds(value):
  check_between(0, 1, {"low": 0.0, "high": 1.0})
  with pytest.raises(UserError, match=r"--dropout=\S+ has to be between 0 and 1"):
    check_between(0, 1, {"dropout": value})


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_check_below_one_takes_zero_and_refuses_one(value):
  check_below_one({"b1": 0.0, "b2": 0.999})
  with pytest.raises(UserError, match=rf"--b2={value} has to be at least 0 and below 1"):
    check_below_one({"b1": 0.9, "b2": value})


def test_first_line_is_short_and_never_empty():
  assert first_line(ValueError("\n a \n b")) == "a"
  assert first_line(ValueError()) == "no message"
  assert len(first_line(ValueError("x" * 999))) == 200


def test_own_line_is_the_last_one_of_a_file_that_is_not_installed(tmp_path):
  (tmp_path / "mine.py").write_text("import json\n\n\ndef f():\n  json.loads('{')\n")
  scope = {}
  exec(compile((tmp_path / "mine.py").read_text(), str(tmp_path / "mine.py"), "exec"), scope)
  with pytest.raises(ValueError) as raised:  # noqa: PT011
    scope["f"]()
  assert own_line(raised.value) == f"{tmp_path}/mine.py:5: "


def test_own_line_is_empty_where_an_error_is_not_a_persons_own():
  assert own_line(ValueError("never raised")) == ""
