"""Every experiment and study: full size by shapes alone, and two real steps of a tiny version."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.evaluators import Report
from dlcourse.evaluators.samples import Request
from dlcourse.experiment import Experiment, Options, Study, catalogue, load
from dlcourse.train import train
from dlcourse.trained import open_trained, report, sample

pytestmark = pytest.mark.data
EXPERIMENTS, STUDIES = sorted(catalogue()), sorted(catalogue(Study))


def request_shapes(spec, conditional, count=3):
  if not spec.vocabulary:
    index = jax.ShapeDtypeStruct((count,), jnp.int32)
    asked = {"index": index, "temperature": jax.ShapeDtypeStruct((count,), jnp.float32)}
    if "source" in spec.batch:
      asked["source"] = jax.ShapeDtypeStruct((count, *spec.batch["source"].shape[1:]), jnp.float32)
    return asked | ({"label": index} if conditional else {})
  text, temperature = jax.ShapeDtypeStruct((count, 20), jnp.int32), jax.ShapeDtypeStruct((count,), jnp.float32)
  if "inputs" in spec.batch:
    lengths = jax.ShapeDtypeStruct((count,), jnp.int32)
    return {"inputs": text, "lengths": lengths, "temperature": temperature}
  condition = {"condition": jax.ShapeDtypeStruct((count, 1), jnp.int32)} if spec.classes else {}
  return {"tokens": text, "given": text, "temperature": temperature, **condition}


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_shapes_at_full_size(name):
  experiment = load(name)
  data = experiment.data.build()
  task, key = experiment.task.build(data.spec, experiment.steps), jax.random.key(0)
  batch = data.spec.batch
  state = jax.eval_shape(task.init, key, batch)
  after, metrics = jax.eval_shape(task.train_step, state, batch)
  jax.tree.map(lambda x, y: np.testing.assert_equal((x.shape, x.dtype), (y.shape, y.dtype)), state, after)
  assert all(leaf.shape == () for leaf in jax.tree.leaves(metrics))
  evaluated = jax.eval_shape(task.eval_step, state, key, batch)
  assert experiment.best.metric in (None, *evaluated) or experiment.monitors
  rows = batch["mask"].shape[0]
  predicted = jax.eval_shape(task.predict, state, key, batch)
  assert all(leaf.shape[0] == rows for leaf in jax.tree.leaves(predicted))
  if task.generate:
    made = jax.eval_shape(task.generate, state, key, request_shapes(data.spec, task.conditional))
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(made))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_two_real_steps_and_everything_after(name, tmp_path):
  overrides = list(load(name).small)
  assert "--steps=2" in overrides, f"{name} declares no `small` overrides with --steps=2"
  experiment = load(name, overrides)
  train(name, overrides, experiment, tmp_path, Options(devices=1))
  trained = open_trained(tmp_path, devices=1)
  assert int(trained.state.step) == 2
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.state.params))
  result = report(trained)
  assert all(np.isfinite(value) for value in result["test"].values())
  if trained.program.generate:
    spec = trained.data.spec
    prompt = spec.decode([5, 6]) if "inputs" in spec.batch else None  # what is to be answered
    files = sample(trained, Request(samples=2, length=10, prompt=prompt))
    assert all(file.exists() for file in files)


@pytest.mark.parametrize("name", EXPERIMENTS + STUDIES)
def test_docstring_begins_with_one_sentence(name):
  recipe = (catalogue() | catalogue(Study))[name]
  assert inspect.getdoc(recipe).split("\n")[0].endswith(".")


@pytest.mark.parametrize("name", STUDIES)
def test_runs_of_a_study_load_and_their_results_can_be_summarised(name, tmp_path):
  study = catalogue(Study)[name]()
  for run in study.runs:
    assert isinstance(load(run.experiment, run.overrides), Experiment)
  device = {"count": 1, "kind": "cpu"}
  measured = {"accuracy": 0.5, "loss": 1.0}
  result = {"train": measured, "test": measured, "seconds": 1.0, "commit": None, "devices": device}
  (tmp_path / "report").mkdir()
  (tmp_path / "report" / "answers.json").write_text('[{"reference": "a b c d", "answer": "a b c d"}]')
  result["workdir"] = tmp_path
  assert isinstance(study.summarise([(run, result) for run in study.runs]), Report)
