"""Files that are there whole or not at all."""

import pytest

from dlcourse.errors import UserError
from dlcourse.whole_file import whole_file


def test_the_file_appears_when_all_is_written(tmp_path):
  with whole_file(tmp_path / "w") as temporary:
    temporary.write_text("all")
    assert not (tmp_path / "w").exists()
  assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("w", "all")]


@pytest.mark.parametrize(
  "error", [OSError("no space left"), TypeError("an object\nof two lines"), UserError("mine")]
)
def test_what_fails_leaves_the_old_file_and_one_line(tmp_path, error):
  (tmp_path / "w").write_text("old")
  with pytest.raises(UserError) as refused, whole_file(tmp_path / "w") as temporary:  # noqa: PT012
    temporary.write_text("half")
    raise error
  said = "mine" if isinstance(error, UserError) else f"{tmp_path / 'w'} cannot be written: "
  assert str(refused.value).startswith(said)
  assert "\n" not in str(refused.value)
  assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("w", "old")]
