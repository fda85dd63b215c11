import dataclasses
import json

import pytest

from dlcourse.data.images import Images
from dlcourse.errors import UserError
from dlcourse.experiment import (
  Best,
  Experiment,
  Study,
  catalogue,
  differences,
  find,
  load,
  resolved,
  with_value,
)
from dlcourse.models.lenet import LeNet5

OWN_FILE = '''
"""An experiment of one's own."""

from dlcourse.data.images import Images
from dlcourse.experiment import Experiment
from dlcourse.models.mlp import MLP
from dlcourse.optim import Sgd
from dlcourse.tasks.supervised import Classify


def net() -> Experiment:
  """Mine."""
  return Experiment(
    data=Images("digits", size=8), task=Classify(MLP(hidden_dims=(4,)), Sgd(learning_rate=0.1)), steps=7)


def helper(x):
  return x
'''


def test_a_better_value_is_strictly_better_and_never_nan():
  assert Best(mode="min").improves(1.0, 2.0)
  assert not Best(mode="min").improves(2.0, 2.0)
  assert Best(mode="max").improves(2.0, 1.0)
  assert not Best(mode="max").improves(1.0, 2.0)
  assert Best().improves(5.0, None)
  assert not Best().improves(float("nan"), None)
  assert not Best().improves(float("nan"), 1.0)


def test_the_catalogue_has_experiments_and_studies_apart():
  assert {"cnn.lenet5", "cnn.mlp", "gan.dcgan", "recurrent.char_lstm", "vae.mlp"} <= set(catalogue())
  assert "cnn.lenet5_seeds" in catalogue(Study)
  assert not set(catalogue()) & set(catalogue(Study))


def test_overrides_reach_fields_at_any_depth():
  changed = load(
    "cnn.lenet5",
    [
      "--steps=3",
      "--data.source=digits",
      "--task.model.activation=relu",
      "--task.optimizer.nesterov=True",
      "--evaluators.0.pictures=2",
      "--best.patience=None",
    ],
  )
  assert isinstance(changed.task.model, LeNet5)
  assert changed.task.model.activation == "relu"
  assert (changed.steps, changed.data.source, changed.task.optimizer.nesterov) == (3, "digits", True)
  assert (changed.evaluators[0].pictures, changed.best.patience) == (2, None)
  paths = set(differences(resolved(load("cnn.lenet5")), resolved(changed)))
  assert paths == {
    "steps",
    "data.source",
    "task.model.activation",
    "task.optimizer.nesterov",
    "evaluators.0.pictures",
    "best.patience",
  }


@pytest.mark.parametrize(
  ("name", "said"),
  [
    ("cnn.lenet", "perhaps you meant 'cnn.lenet5'"),
    ("lenet5", "unknown experiment 'lenet5'"),
    ("cnn.", "unknown experiment"),
    ("cnn.lenet5_seeds", "is a study"),
    ("cnn.Experiment", "unknown experiment"),
    ("os.path.join", "unknown experiment"),
  ],
)
def test_what_is_no_experiment_is_refused_with_a_hint(name, said):
  with pytest.raises(UserError, match=said):
    find(name)


def test_a_study_is_found_as_a_study():
  assert isinstance(find("cnn.lenet5_seeds", Study)(), Study)
  with pytest.raises(UserError, match="unknown study"):
    find("cnn.lenet5", Study)


@pytest.mark.parametrize("flag", ["--stepz=3", "--steps=many", "--task.model.activation=rely"])
def test_a_wrong_override_leaves_with_code_2(flag, capsys):
  with pytest.raises(SystemExit) as left:
    load("cnn.lenet5", [flag])
  assert left.value.code == 2
  assert flag.split("=")[0].lstrip("-")[:4] in capsys.readouterr().err


def test_an_experiment_of_ones_own_file(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(OWN_FILE)
  assert load(f"{path}:net").steps == 7
  assert load(f"{path}:net", ["--task.model.hidden_dims", "5", "6"]).task.model.hidden_dims == (5, 6)
  with pytest.raises(UserError, match="perhaps you meant 'net'"):
    load(f"{path}:nett")
  with pytest.raises(UserError, match="unknown function"):
    load(f"{path}:helper")


def test_a_file_that_cannot_be_imported_is_named(tmp_path):
  with pytest.raises(UserError, match=r"no such file: .*gone\.py"):
    load(f"{tmp_path}/gone.py:net")
  (tmp_path / "broken.py").write_text("def net(:\n")
  with pytest.raises(UserError, match=r"broken\.py cannot be imported: SyntaxError"):
    load(f"{tmp_path}/broken.py:net")
  (tmp_path / "lost.py").write_text("import no_such_module\n")
  with pytest.raises(UserError, match="no_such_module"):
    load(f"{tmp_path}/lost.py:net")


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("1 / 0", r"cannot be imported: \S+mine\.py:1: ZeroDivisionError: division by zero"),
    ("raise SystemExit(3)", r"cannot be imported: \S+mine\.py:1: SystemExit: 3"),
    (OWN_FILE.replace("steps=7", "steps=nope"), r"cannot be made: \S+mine\.py:\d+: NameError"),
    (OWN_FILE.replace("def net()", "def net(steps)"), "takes arguments"),
    (OWN_FILE.replace("return Experiment(", "return len("), "cannot be made"),
    (
      "from dlcourse.experiment import Experiment\n\ndef net() -> Experiment:\n  return 3",
      "returns a int, not the Experiment",
    ),
  ],
)
def test_what_goes_wrong_in_a_file_of_ones_own_is_one_line(tmp_path, text, said):
  (tmp_path / "mine.py").write_text(text)
  with pytest.raises(UserError, match=said) as refused:
    load(f"{tmp_path}/mine.py:net")
  assert "\n" not in str(refused.value)


def test_an_annotation_that_cannot_be_read_hides_no_recipe(tmp_path):
  (tmp_path / "mine.py").write_text(OWN_FILE + '\n\ndef other() -> "Nope":\n  return 1\n')
  assert load(f"{tmp_path}/mine.py:net").steps == 7


def test_best_does_not_guess_which_way_is_better():
  with pytest.raises(UserError, match=r"--best\.mode: say whether a smaller"):
    Best("accuracy")
  assert Best("g_loss").improves(0.5, 1.0)
  assert Best("elbo", mode="max").improves(-1.0, -2.0)
  with pytest.raises(UserError, match="there is none"):
    Best(None, patience=3)


@pytest.mark.parametrize(
  "name", ["cnn.lenet5_shifts", "cnn.mlp", "gan.dcgan", "recurrent.char_lstm", "vae.mlp"]
)
def test_every_field_of_the_table_can_be_put_back_after_json(name):
  experiment = load(name)
  table = json.loads(json.dumps(resolved(experiment)))
  for path, value in table.items():
    if not path.endswith("!") and value != []:
      assert differences(table, resolved(with_value(experiment, path, value))) == {}, path


@pytest.mark.parametrize(
  ("path", "value"),
  [
    ("steps", 1),
    ("data.size", 8),
    ("data.augment.0.pixels", 5),
    ("task.model.activation", "relu"),
    ("best.metric", "loss"),
  ],
)
def test_with_value_changes_one_field_and_no_other(path, value):
  experiment = load("cnn.lenet5_shifts")
  changed = with_value(experiment, path, value)
  found = differences(resolved(experiment), resolved(changed))
  assert list(found) == [path]
  assert found[path][1] == value


def test_the_table_names_types_and_lengths():
  table = resolved(load("cnn.lenet5_shifts"))
  assert table["!"] == "Experiment"
  assert (table["data!"], table["task.model!"], table["data.augment!"]) == ("Images", "LeNet5", 1)
  assert table["data.augment.0!"] == "Shift"
  assert not any("small" in path or path.endswith((".parent", ".name")) for path in table)


def test_differences_show_recorded_and_current():
  assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == {"b": (2, 3), "c": (None, 4)}


def test_recipes_are_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    Images("digits").size = 3
  assert isinstance(load("cnn.mlp"), Experiment)
