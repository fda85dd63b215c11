"""The loop: resumes exactly, stops early, logs once, moves nothing but metrics to the host."""

import json

import jax
import numpy as np
import pytest

from dlcourse.assembly import assemble, data_of
from dlcourse.checkpoint import Progress
from dlcourse.errors import UserError
from dlcourse.experiment import Best, Options, load
from dlcourse.train import advance, gave_up, judge, shared_overrides, train
from dlcourse.trained import evaluate, open_trained, report

NAME = "cnn.mlp"
OVERRIDES = ["--data.source=digits", "--data.size=8", "--data.batch_size=32", "--task.model.hidden_dims", "16"]
EVERY = ["--steps=30", "--eval_every=10", "--log_every=5"]


def run(path, *more, **options):
  overrides = [*OVERRIDES, *EVERY, *more]
  train(NAME, overrides, load(NAME, overrides), path, Options(**{"devices": 1, **options}))


def state_of(path, which="last"):
  return jax.device_get(open_trained(path, which, devices=1).state)


def lines(path):
  return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


class Killed(BaseException):
  """Stands in for a kill: nothing of the program catches it."""


@pytest.fixture
def killed_at(monkeypatch):
  """Makes training die in the middle of a step."""

  def arm(step):
    from dlcourse.data import batches

    original = batches.shuffled

    def dying(arrays, batch_size):
      batch = original(arrays, batch_size)

      def die(seed, at):
        if at == step:
          raise Killed
        return batch(seed, at)

      return die

    monkeypatch.setattr("dlcourse.data.images.shuffled", dying)
    data_of.cache_clear()

  yield arm
  monkeypatch.undo()


def test_a_killed_run_ends_bit_identical_and_logs_every_step_once(tmp_path, killed_at, monkeypatch):
  run(tmp_path / "alone")
  killed_at(17)
  with pytest.raises(Killed):
    run(tmp_path / "killed")
  assert max(row["step"] for row in lines(tmp_path / "killed")) == 15
  monkeypatch.undo()
  data_of.cache_clear()
  run(tmp_path / "killed")
  alone, killed = state_of(tmp_path / "alone"), state_of(tmp_path / "killed")
  jax.tree.map(np.testing.assert_array_equal, alone, killed)

  def without_time(path):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in lines(path)]

  assert without_time(tmp_path / "alone") == without_time(tmp_path / "killed")


def test_two_seeds_differ_and_one_seed_repeats(tmp_path):
  for name, seed in (("a", 0), ("b", 0), ("c", 1)):
    run(tmp_path / name, seed=seed)
  a, b, c = (jax.tree.leaves(state_of(tmp_path / name).params) for name in "abc")
  assert all((x == y).all() for x, y in zip(a, b, strict=True))
  assert any((x != y).any() for x, y in zip(a, c, strict=True))


def test_several_steps_per_dispatch_train_the_same(tmp_path):
  run(tmp_path / "one")
  run(tmp_path / "five", steps_per_dispatch=5)
  one, five = state_of(tmp_path / "one"), state_of(tmp_path / "five")
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), one.params, five.params)


def test_batches_of_several_lengths_train_the_same_however_they_are_dispatched(tmp_path):
  overrides = [
    *("--data.expressions=80", "--data.held_out=10", "--data.batch_size=8", "--task.model.hidden_dim=4"),
    *("--steps=8", "--eval_every=8", "--log_every=8"),
  ]
  experiment = load("recurrent.expressions", overrides)
  batch = experiment.data.build().batch
  assert len({batch(0, step)["nodes"].shape for step in range(8)}) > 1
  for count in (1, 2):
    options = Options(devices=1, steps_per_dispatch=count)
    train("recurrent.expressions", overrides, experiment, tmp_path / str(count), options)
  one, two = (open_trained(tmp_path / str(count), "last", devices=1).state for count in (1, 2))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), one.params, two.params)


def test_early_stopping_keeps_the_best_checkpoint(tmp_path):
  # A rate of 0 improves nothing after the first evaluation, so patience runs out two evaluations later.
  run(
    tmp_path, "--task.optimizer.learning_rate=0", "--best.patience=2", "--steps=100", "--task.model.norm=False"
  )
  trained = open_trained(tmp_path, "last", devices=1)
  assert int(trained.state.step) == 30
  assert trained.progress == Progress(best_step=10, best_value=trained.progress.best_value, waited=2)
  assert int(state_of(tmp_path, "best").step) == 10


def test_a_finished_run_is_not_trained_again(tmp_path):
  run(tmp_path)
  before = lines(tmp_path)
  run(tmp_path)
  assert lines(tmp_path) == before


def test_judge_and_patience():
  best = Best("loss", patience=2)
  progress = judge(best, Progress(), 10, {"loss": 1.0})
  progress = judge(best, progress, 20, {"loss": 1.0})
  assert progress == Progress(best_step=10, best_value=1.0, waited=1)
  assert gave_up(best, judge(best, progress, 30, {"loss": float("nan")}))
  assert judge(best, progress, 30, {"loss": 0.5}) == Progress(best_step=30, best_value=0.5)
  assert judge(Best(None), progress, 30, {}) == Progress(best_step=30)


def test_a_misspelt_metric_is_refused_before_the_first_step(tmp_path):
  with pytest.raises(UserError, match="perhaps you meant 'accuracy'"):
    run(tmp_path, "--best.metric=acuracy")
  assert not (tmp_path / "metrics.jsonl").exists()


def test_report_has_curves_parameters_and_what_the_evaluators_say(tmp_path):
  run(tmp_path)
  trained = open_trained(tmp_path, devices=1)
  result = report(trained)
  assert result["test"]["accuracy"] == evaluate(trained)["accuracy"]
  assert result["steps"] == 30
  written = {file.name for file in (tmp_path / "report").iterdir()}
  assert {"learning_curves.png", "parameters.json", "confusion_matrix.png", "roc.png", "index.md"} <= written
  counts = [row["count"] for row in json.loads((tmp_path / "report" / "parameters.json").read_text())]
  assert sum(counts) == 64 * 16 + 2 * 16 + 16 * 10 + 10
  assert json.loads((tmp_path / "evaluate_test.json").read_text())["accuracy"] == result["test"]["accuracy"]


def test_a_run_goes_on_in_another_mode_on_other_devices(tmp_path, killed_at, monkeypatch):
  run(tmp_path / "alone")
  killed_at(17)
  with pytest.raises(Killed):
    run(tmp_path / "moved", devices=8, parallel="fsdp")
  monkeypatch.undo()
  data_of.cache_clear()
  run(tmp_path / "moved", devices=2, parallel="jit")
  alone, moved = state_of(tmp_path / "alone"), state_of(tmp_path / "moved")
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=3e-4), alone.params, moved.params)


@pytest.mark.parametrize(
  ("name", "override"),
  [
    ("cnn.mlp", ["--task.model.hidden_dims", "0"]),
    ("cnn.mlp", ["--task.optimizer.learning_rate=nan"]),
    ("cnn.mlp", ["--task.model.num_classes=40"]),
    ("cnn.mlp", ["--data.split_seed=-1"]),
    ("cnn.lenet5_shifts", ["--data.augment.0.pixels=-3"]),
    ("vae.mlp", ["--task.model.latent_dim=-1"]),
    ("vae.mlp", ["--evaluators.0.samples=0"]),
    ("vae.mlp", ["--data.scale=symmetric"]),
    ("gan.dcgan", ["--task.generator.width=0"]),
  ],
)
def test_fields_that_make_no_network_are_refused_in_one_line(name, override):
  with pytest.raises(UserError) as refused:
    assemble(load(name, ["--data.source=digits", "--data.batch_size=8", *override]), Options(devices=1))
  assert "\n" not in str(refused.value)


@pytest.fixture
def poisoned_at(monkeypatch):
  """Puts a NaN into the batch of a step."""
  from dlcourse.data import batches

  original = batches.shuffled

  def arm(step):
    def poisoning(arrays, batch_size):
      batch = original(arrays, batch_size)

      def poison(seed, at):
        found = batch(seed, at)
        return found | {"mask": found["mask"] * np.float32("nan")} if at == step else found

      return poison

    monkeypatch.setattr("dlcourse.data.images.shuffled", poisoning)

  return arm


@pytest.mark.parametrize(
  ("count", "when"), [(1, "step 8 (batch 7 of"), (2, "one of the steps 8 to 9 (batches 7 to 8 of")]
)
def test_a_diverged_run_names_the_step_its_batch_and_how_to_see_it_again(tmp_path, poisoned_at, count, when):
  poisoned_at(7)
  with pytest.raises(UserError) as said:
    run(tmp_path, steps_per_dispatch=count)
  assert f"is nan at {when} seed 0): training has diverged" in str(said.value)
  assert f"dlcourse train --experiment=cnn.mlp --workdir={tmp_path} --data.source=digits" in str(said.value)
  assert str(said.value).endswith(" --debug")
  assert [row["step"] for row in lines(tmp_path)] == [5]


def test_what_has_diverged_before_the_log_says_so_is_found(tmp_path):
  with pytest.raises(UserError, match=r"at step [23] \(batch [12] of seed 0\): training has"):
    run(tmp_path, "--task.optimizer.learning_rate=1e30", "--task.model.norm=False")


def test_a_run_may_skip_batches_that_are_not_finite(tmp_path, poisoned_at):
  poisoned_at(7)
  run(tmp_path, nonfinite="skip")
  rows = {row["step"]: row for row in lines(tmp_path) if row["split"] == "train"}
  assert [rows[step]["skipped"] for step in (5, 10, 15)] == [0, 0.2, 0]
  assert rows[10]["loss"] < rows[5]["loss"]
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state_of(tmp_path).params))


def test_debugging_says_in_which_step_and_operation_a_nan_arises(tmp_path, poisoned_at):
  poisoned_at(7)
  with pytest.raises(FloatingPointError, match="nan") as said:
    run(tmp_path, debug=True)
  assert "batch 7 of seed 0" in "".join(said.value.__notes__)
  assert any(frame.path.name == "supervised.py" for frame in said.traceback)


def test_debugging_finds_a_state_that_is_infinite(tmp_path, monkeypatch):
  def overflowing(session, state, step):
    state, measured, step = advance(session, state, step)
    rest = state.params if step < 3 else jax.tree.map(lambda x: x + np.float32("inf"), state.params)
    return state.replace(params=rest), measured, step

  monkeypatch.setattr("dlcourse.train.advance", overflowing)
  with pytest.raises(AssertionError, match="non-finite") as said:
    run(tmp_path, debug=True)
  assert said.value.__notes__ == ["in step 3 (batch 2 of seed 0)"]


@pytest.mark.parametrize(
  ("overrides", "shared"),
  [
    (["--data.size=8", "--steps=4", "--task.model.width=2"], ["--data.size=8", "--task.model.width=2"]),
    (["--data.size", "8", "--steps", "4"], ["--data.size", "8"]),
    (["--task.model.depths", "1", "-1", "--best.mode", "max"], ["--task.model.depths", "1", "-1"]),
    (["--data.augment.0.pixels=2", "--data.augment.0.pixels", "3", "--task.hidden_dim=4"], []),
  ],
)
def test_overrides_of_data_and_model_are_shared_with_their_values(overrides, shared):
  assert shared_overrides(overrides) == shared


MONITORED = """
import dataclasses

from dlcourse.evaluators import Evaluator, Report
from dlcourse.experiment import Best, Experiment
from dlcourse.experiments import cnn
from dlcourse.report.figures import new_figure


@dataclasses.dataclass(frozen=True)
class Twenty(Evaluator):
  def __call__(self, task, state, data, key):
    seen = sum(int(batch["mask"].sum()) for batch in data.eval_batches("test"))
    assert seen == data.sizes["test"]
    scalars = {"near_twenty": -abs(int(state.step) - 20.0), "seen": float(seen)}
    return Report(scalars, figures={"empty": new_figure(1, 1)})


def net() -> Experiment:
  return dataclasses.replace(cnn.mlp(), monitors=(Twenty(),), best=Best("near_twenty", mode="max"))
"""


def test_a_monitor_measures_the_validation_split_and_chooses_the_best_checkpoint(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(MONITORED)
  overrides = [*OVERRIDES, *EVERY]
  path, name = tmp_path / "run", f"{file}:net"
  train(name, overrides, load(name, overrides), path, Options(devices=1))
  assert int(state_of(path, "best").step) == 20
  rows = [row for row in lines(path) if row["split"] == "validation"]
  assert [row["near_twenty"] for row in rows] == [-10, 0, -10]
  sizes = open_trained(path, devices=1).data.sizes
  assert rows[0]["seen"] == sizes["validation"] != sizes["test"]
  assert sorted(figure.name for figure in (path / "progress").iterdir()) == [
    f"00000{step}_empty.png" for step in (10, 20, 30)
  ]
  with pytest.raises(UserError, match=r"metric of --best\.metric"):
    train(
      name,
      [*overrides, "--best.metric=far"],
      load(name, [*overrides, "--best.metric=far"]),
      tmp_path / "no",
      Options(devices=1),
    )
