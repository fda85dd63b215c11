"""Studies: every run once, also after a kill; means with intervals."""

import json
import math

import numpy as np
import pytest

from dlcourse import study as study_module
from dlcourse.errors import UserError
from dlcourse.experiment import Run, Study
from dlcourse.study import along, folders, interval, mean_by_label, rank_correlation, run_study, together

TINY = (
  "--data.source=digits",
  "--data.size=8",
  "--data.batch_size=32",
  "--task.model.hidden_dims",
  "8",
  "--steps=4",
)


def result(accuracy):
  return {
    "train": {"loss": 1 - accuracy},
    "test": {"accuracy": accuracy},
    "seconds": 60.0,
    "commit": "abc",
    "devices": {"count": 1, "kind": "cpu"},
  }


def test_interval_is_students_t():
  # t(0.975, 4) = 2.776; sd of 1..5 is sqrt(2.5)
  assert interval([1, 2, 3, 4, 5]) == pytest.approx(2.7764 * math.sqrt(2.5) / math.sqrt(5), rel=1e-4)
  assert math.isnan(interval([1.0]))


def test_mean_by_label_groups_runs():
  runs = [(Run("a", "x"), result(0.5)), (Run("b", "x"), result(0.1)), (Run("a", "x"), result(0.7))]
  rows = mean_by_label("accuracy")(runs).tables["summary"]
  assert [(row["run"], row["n"]) for row in rows] == [("a", 2), ("b", 1)]
  np.testing.assert_allclose([row["accuracy"] for row in rows], [0.6, 0.1])
  assert rows[0]["minutes each"] == 1.0


def test_a_loss_that_falls_with_quality_is_told_from_one_that_does_not(tmp_path):
  rows = [(10, 900.0, 1.0, 0.5), (20, 80.0, 0.7, 0.9), (30, 7.0, 0.69, 0.6), (40, 60.0, 0.699, 0.1)]
  lines = [{"step": s, "split": "validation", "fid/x@9": f, "d": d, "g": g} for s, f, d, g in rows]
  lines.append({"step": 40, "split": "train", "d": 5.0})
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  report = rank_correlation("fid/x@9", "d", "g")([(Run("dcgan", "x", seed=3), {"workdir": tmp_path})])
  (row,) = next(iter(report.tables.values()))
  # Ranks of FID 4 3 1 2; of d 4 3 1 2; of g 2 4 3 1: 1 - 6 (4 + 1 + 4 + 1) / (4 * 15) = 0.
  assert row == {"run": "dcgan", "seed": 3, "evaluations": 4, "ρ d": 1.0, "ρ g": pytest.approx(0)}


def test_a_metric_along_a_number_has_a_line_for_each_kind():
  labels = [("plain 8", 0.5), ("plain 20", 0.6), ("residual 20", 0.9), ("plain 8", 0.7)]
  runs = [(Run(label, "x"), result(value)) for label, value in labels]
  report = together(along("layers", "train", "loss"), mean_by_label("accuracy"))(runs)
  plain, residual = report.tables["train loss"]
  assert plain["8"] == pytest.approx(0.4)
  assert plain["20"] == pytest.approx(0.4)
  assert residual == {"run": "residual", "20": pytest.approx(0.1)}
  assert "summary" in report.tables
  (axes,) = report.figures["train_loss"].axes
  assert [text.get_text() for text in axes.get_legend().get_texts()] == ["plain", "residual"]
  assert axes.get_xlabel() == "layers"


def test_every_run_has_its_own_folder():
  study = Study((Run("a b", "x"), Run("c", "x"), Run("a b", "x")), mean_by_label())
  assert [folder for _, folder in folders(study)] == ["a_b-0", "c-0", "a_b-1"]


def test_a_study_runs_what_is_missing_and_summarises_all(tmp_path, monkeypatch):
  runs = tuple(Run("mlp", "cnn.mlp", (*TINY, f"--data.fold={fold}"), seed=fold) for fold in range(2))
  study = Study(runs, mean_by_label("accuracy"))
  first = run_study(study, tmp_path).tables["summary"]
  assert first[0]["n"] == 2
  (tmp_path / "mlp-1" / "result.json").unlink()  # as if killed before its report
  trained = []
  original = study_module.train
  monkeypatch.setattr(study_module, "train", lambda *a: (trained.append(a[3].name), original(*a)))
  again = run_study(study, tmp_path).tables["summary"]
  assert trained == ["mlp-1"]
  assert again[0]["accuracy"] == first[0]["accuracy"]
  assert json.loads((tmp_path / "study.json").read_text())["tables"]["summary"] == again


def test_a_result_of_other_settings_is_not_taken_for_this_study(tmp_path):
  study = Study((Run("mlp", "cnn.mlp", TINY),), mean_by_label("accuracy"))
  run_study(study, tmp_path)
  with pytest.raises(UserError, match="holds another run: steps was 4 and is now 6"):
    run_study(study, tmp_path, ["--steps=6"])


def test_a_result_that_lacks_what_is_read_is_made_again(tmp_path):
  study = Study((Run("a", "cnn.mlp", TINY),), mean_by_label("accuracy"))
  first = run_study(study, tmp_path)
  (tmp_path / "a-0" / "result.json").write_text("{}")
  again = run_study(study, tmp_path)
  assert again.tables["summary"][0]["accuracy"] == first.tables["summary"][0]["accuracy"]


def test_a_metric_that_is_no_number_is_nan_in_the_mean():
  null = {**result(0.5), "test": {"accuracy": None}}
  summary = mean_by_label("accuracy")([(Run("a", "x"), result(0.5)), (Run("a", "x"), null)])
  assert math.isnan(summary.tables["summary"][0]["accuracy"])
