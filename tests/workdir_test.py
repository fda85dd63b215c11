import json
import logging
import os

import pytest

from dlcourse import workdir
from dlcourse.errors import UserError
from dlcourse.experiment import Options, load

OWN_FILE = """
from dlcourse.data.images import Images
from dlcourse.experiment import Best, Experiment
from dlcourse.models.mlp import MLP
from dlcourse.optim import Sgd
from dlcourse.tasks.supervised import Classify


def net() -> Experiment:
  return Experiment(
    data=Images("digits", size=8),
    task=Classify(MLP(hidden_dims=(4, 3)), Sgd(learning_rate={rate})), steps=7{more})
"""


def record(overrides=(), seed=0, name="cnn.mlp"):
  experiment = load(name, list(overrides))
  return workdir.new_record(name, overrides, experiment, Options(seed=seed), 1, {"train": 30, "digest": "ab"})


def create(path, record):
  with workdir.claimed(path, record):
    pass


def test_a_new_folder_gets_the_record(tmp_path):
  path = tmp_path / "a" / "b"
  create(path, record(["--steps=5"]))
  written = workdir.read_json(path / "experiment.json")
  assert written["experiment"] == "cnn.mlp"
  assert written["overrides"] == ["--steps=5"]
  assert written["resolved"]["steps"] == 5
  assert {"jax", "flax", "optax", "dlcourse"} <= set(written["versions"])
  assert sorted(os.listdir(path)) == [".lock", "experiment.json"]


def test_the_same_run_may_go_on(tmp_path):
  create(tmp_path, record(["--steps=2000", "--task.model.hidden_dims", "4", "5"]))
  before = (tmp_path / "experiment.json").read_bytes()
  create(tmp_path, record(["--task.model.hidden_dims", "4", "5"]))  # 2,000 is the default: the same run
  assert (tmp_path / "experiment.json").read_bytes() == before


@pytest.mark.parametrize(
  ("other", "said"),
  [
    ({"overrides": ["--task.model.dropout=0.5"]}, "task.model.dropout was 0.3 and is now 0.5"),
    ({"seed": 3}, "seed was 0 and is now 3"),
    ({"name": "cnn.lenet5"}, "more"),
    ({"overrides": ["--steps=1", "--log_every=2"]}, r"log_every was 50 and is now 2 \(and 1 more\)"),
  ],
)
def test_another_run_is_refused_and_the_field_named(tmp_path, other, said):
  create(tmp_path, record())
  with pytest.raises(UserError, match=said):
    create(tmp_path, record(**other))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("")
  with pytest.raises(UserError, match=r"has files but no experiment\.json"):
    create(tmp_path, record())
  assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
  (tmp_path / "run").write_text("")
  with pytest.raises(UserError, match="cannot be used"):
    create(tmp_path / "run", record())


@pytest.mark.parametrize("damage", ["{", "", "[]", "{}", "3", '{"experiment": "cnn.mlp"}', "\udc80"])
def test_a_damaged_record_is_reported(tmp_path, damage):
  (tmp_path / "experiment.json").write_bytes(damage.encode(errors="surrogateescape"))
  with pytest.raises(UserError, match="damaged"):
    workdir.rebuild(tmp_path)
  with pytest.raises(UserError, match="damaged"):
    create(tmp_path, record())


def test_a_folder_without_a_record_is_no_workdir(tmp_path):
  with pytest.raises(UserError, match="is not a workdir"):
    workdir.rebuild(tmp_path)


def test_written_json_is_whole_and_leaves_nothing_behind(tmp_path):
  workdir.write_json(tmp_path / "x.json", {"a": [1, None]})
  assert workdir.read_json(tmp_path / "x.json") == {"a": [1, None]}
  with pytest.raises(TypeError):
    workdir.write_json(tmp_path / "x.json", {"a": object()})
  assert workdir.read_json(tmp_path / "x.json") == {"a": [1, None]}
  assert os.listdir(tmp_path) == ["x.json"]


def own(tmp_path, rate, more=""):
  """(name of an experiment in a file of one's own with these defaults, a workdir)."""
  path = tmp_path / "mine.py"
  path.write_text(OWN_FILE.format(rate=rate, more=more))
  return f"{path}:net", tmp_path / "run"


def test_rebuild_gives_what_was_trained(tmp_path):
  name, path = own(tmp_path, 0.1)
  made = record(["--steps=3"], 4, name)
  create(path, made)
  experiment, found = workdir.rebuild(path)
  assert experiment == load(name, ["--steps=3"])
  assert found == json.loads(json.dumps(made))


def test_rebuild_names_changed_defaults_and_uses_the_recorded_values(tmp_path, caplog):
  name, path = own(tmp_path, 0.1)
  create(path, record(["--steps=3"], 0, name))
  own(tmp_path, 0.25, more=", log_every=10, best=Best('accuracy', 'max')")
  with caplog.at_level(logging.WARNING):
    experiment, _ = workdir.rebuild(path)
  assert experiment.task.optimizer.learning_rate == 0.1
  assert (experiment.steps, experiment.log_every, experiment.best.metric) == (3, 50, "loss")
  assert "task.optimizer.learning_rate has changed from 0.1 to 0.25" in caplog.text
  assert "log_every" in caplog.text
  assert "best.metric" in caplog.text
  assert "steps has changed" not in caplog.text


def test_rebuild_puts_back_a_tuple(tmp_path):
  name, path = own(tmp_path, 0.1)
  create(path, record([], 0, name))
  (tmp_path / "mine.py").write_text(OWN_FILE.format(rate=0.1, more="").replace("(4, 3)", "(16, 16, 16)"))
  assert workdir.rebuild(path)[0].task.model.hidden_dims == (4, 3)


def test_rebuild_refuses_another_kind_of_part(tmp_path):
  name, path = own(tmp_path, 0.1)
  create(path, record([], 0, name))
  text = OWN_FILE.format(rate=0.1, more="").replace("Sgd", "AdamW")
  (tmp_path / "mine.py").write_text(text)
  with pytest.raises(UserError, match="another version of the code"):
    workdir.rebuild(path)


def test_a_workdir_runs_no_file_unless_it_is_named(tmp_path):
  name, path = own(tmp_path, 0.1)
  create(path, record([], 0, name))
  (tmp_path / "theirs.py").write_text("open('ran', 'w')\n" + OWN_FILE.format(rate=0.1, more=""))
  stored = json.loads((path / "experiment.json").read_text())
  (path / "experiment.json").write_text(json.dumps({**stored, "experiment": f"{tmp_path}/theirs.py:net"}))
  with pytest.raises(
    UserError, match=r"a recipe of somebody's own, .*theirs\.py:net.*--recipe=FILE\.py:FUNCTION"
  ):
    workdir.rebuild(path)
  assert not os.path.exists("ran")
  assert workdir.rebuild(path, name)[0] == load(name)


def test_a_record_without_end_is_damaged(tmp_path):
  (tmp_path / "experiment.json").write_text("[" * 100_000)
  with pytest.raises(UserError, match="damaged"):
    workdir.rebuild(tmp_path)


def test_the_lock_refuses_a_second_training_and_ends_with_the_first(tmp_path):
  with (
    workdir.claimed(tmp_path, record()),
    pytest.raises(UserError, match="another process is training"),
    workdir.claimed(tmp_path, record()),
  ):
    pass
  create(tmp_path, record())


def test_what_is_refused_is_unlocked(tmp_path):
  create(tmp_path, record())
  with pytest.raises(UserError, match="another run"):
    create(tmp_path, record(seed=1))
  create(tmp_path, record())


def test_going_on_in_another_way_is_said(tmp_path, caplog):
  create(tmp_path, record())
  other = {**record(), "how": {**record()["how"], "parallel": "pmap"}, "devices": {"count": 8}}
  with caplog.at_level(logging.WARNING):
    create(tmp_path, other)
  assert "began with parallel jit and goes on with pmap" in caplog.text
  assert "devices 1 and goes on with 8" in caplog.text


def test_other_data_are_another_run(tmp_path):
  create(tmp_path, record())
  with pytest.raises(UserError, match="data digest was 'ab' and is now 'cd'"):
    create(tmp_path, {**record(), "data": {"train": 26, "digest": "cd"}})


def test_a_field_that_is_new_is_called_new(tmp_path):
  name, path = own(tmp_path, 0.1)
  made = record([], 0, name)
  del made["resolved"]["task.optimizer.nesterov"]
  create(path, made)
  with pytest.raises(UserError, match=r"task\.optimizer\.nesterov is new \(False\)"):
    workdir.rebuild(path)


def test_a_field_that_is_gone_is_called_gone(tmp_path):
  name, path = own(tmp_path, 0.1)
  made = record([], 0, name)
  made["resolved"]["task.optimizer.warmth"] = 3
  create(path, made)
  with pytest.raises(UserError, match=r"task\.optimizer\.warmth is gone \(it was 3\)"):
    workdir.rebuild(path)


def test_a_part_of_a_recipe_is_rebuilt_whatever_the_rest_was(tmp_path):
  name, _ = own(tmp_path, 0.1)
  table = {**record([], 0, name)["resolved"], "task.optimizer.learning_rate": 0.5, "best.gone": 3, "steps": 9}
  experiment = workdir.rebuilt("model.h5", name, ["--log_every=7"], table, within="task")
  assert (experiment.task.optimizer.learning_rate, experiment.log_every) == (0.5, 7)
  assert experiment.steps == load(name).steps


def test_files_of_ones_own_are_found_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  made = record(["--data.source=folder:photos"])
  assert made["overrides"] == [f"--data.source=folder:{tmp_path}/photos"]
  assert made["resolved"]["data.source"] == f"folder:{tmp_path}/photos"


@pytest.mark.parametrize("field", ["overrides", "seed", "resolved", "devices", "versions"])
def test_a_record_that_lacks_a_field_names_it(tmp_path, field):
  create(tmp_path, record())
  kept = workdir.read_json(tmp_path / "experiment.json")
  del kept[field]
  workdir.write_json(tmp_path / "experiment.json", kept)
  for use in (workdir.rebuild, lambda path: create(path, record())):
    with pytest.raises(UserError, match=f"damaged .no '{field}'"):
      use(tmp_path)


@pytest.mark.parametrize("word", [5, ["--steps=2"], None, "--help", "-h"])
def test_what_is_no_override_is_refused(tmp_path, word):
  create(tmp_path, record())
  kept = workdir.read_json(tmp_path / "experiment.json")
  workdir.write_json(tmp_path / "experiment.json", kept | {"overrides": [word]})
  for use in (workdir.rebuild, lambda path: create(path, record())):
    with pytest.raises(UserError, match="is no override of a field"):
      use(tmp_path)


def test_what_is_no_number_is_null_in_json(tmp_path):
  workdir.write_json(tmp_path / "x.json", {"a": [float("nan"), {"b": float("inf")}, 1.5]})
  text = (tmp_path / "x.json").read_text()
  assert "".join(text.split()) == '{"a":[null,{"b":null},1.5]}'


def test_a_folder_in_place_of_a_file_is_one_line(tmp_path):
  (tmp_path / "x.json").mkdir()
  with pytest.raises(UserError, match=r"x\.json cannot be written: Is a directory"):
    workdir.write_json(tmp_path / "x.json", {})
  assert os.listdir(tmp_path) == ["x.json"]
