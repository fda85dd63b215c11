import pathlib

import pytest

from dlcourse import console
from dlcourse.errors import UserError
from dlcourse.evaluators import Report
from dlcourse.experiment import Experiment, Run, Study, catalogue


def test_values_are_shown_with_four_digits(capsys):
  console.show_values({"accuracy": 0.98765, "count": 3}, title="test")
  shown = capsys.readouterr().out
  assert "accuracy" in shown
  assert "0.9877" in shown
  assert "│ 3 " in shown


def test_a_study_shows_its_tables_with_every_column(capsys):
  rows = [{"run": "plain", "loss": 0.5}, {"run": "shifts", "accuracy": 0.25}]
  console.show_study(pathlib.Path("runs/x"), Report(tables={"summary": rows}))
  shown = capsys.readouterr().out
  assert all(
    word in shown for word in ("summary", "run", "loss", "accuracy", "plain", "shifts", "0.25", "runs/x")
  )


def test_sampled_text_is_shown_as_it_is(capsys, tmp_path):
  files = [tmp_path / "0000.txt", tmp_path / "0001.txt"]
  for file in files:
    file.write_text("[bold] To be, or not", encoding="utf-8")
  console.show_samples(files)
  shown = capsys.readouterr().out
  assert shown.count("[bold] To be, or not") == 2
  assert "2 files in" in shown


def test_the_runs_of_a_study_are_listed(capsys):
  study = Study((Run("plain", "cnn.lenet5", ("--data.fold=3",), seed=7),), summarise=None)
  console.show_runs(study)
  shown = capsys.readouterr().out
  assert all(word in shown for word in ("plain", "cnn.lenet5", "--data.fold=3", "7"))


def test_the_result_says_where_the_report_is(capsys):
  console.show_result(pathlib.Path("runs/x"), {"test": {"loss": 1.5}, "best_step": 7, "seconds": 12.34})
  shown = capsys.readouterr().out
  assert "test, step 7" in shown
  assert "12.3 s of training; report: runs/x/report/index.md" in shown


def test_the_catalogue_shows_every_name(capsys):
  console.show_catalogue()
  shown = capsys.readouterr().out
  for name in [*catalogue(Experiment), *catalogue(Study)]:
    assert f" {name} " in shown


@pytest.mark.data
def test_the_summary_of_an_experiment_shows_its_layers_and_sums(capsys):
  console.show_summary("cnn.lenet5")
  shown = capsys.readouterr().out
  row = ["C3", "TableConv", "10 × 10 × 16", "1,516", "150,000", "151,600", "14"]
  assert any([cell.strip() for cell in line.split("│")[1:-1]] == row for line in shown.splitlines())
  assert "340,918" in shown


@pytest.mark.data
def test_an_experiment_whose_data_cannot_be_had_says_so_among_the_others(capsys, monkeypatch):
  def layers(name):
    if name == "cnn.mlp":
      raise UserError("no such data set here")
    return original(name)

  original = console._layers
  monkeypatch.setattr(console, "_layers", layers)
  monkeypatch.setattr(console, "catalogue", lambda: ["cnn.mlp", "cnn.lenet5"])
  console.show_summaries()
  rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
  assert ["cnn.mlp", "", "", "", "no such data set here"] in rows
  assert ["cnn.lenet5", "60,850", "326,520", "7", ""] in rows


def with_result():
  """One line.

  Result: accuracy 0.99,
  in 30 s

  More.
  """


@pytest.mark.parametrize(("recipe", "said"), [(with_result, "accuracy 0.99, in 30 s"), (len, "not run yet")])
def test_the_result_of_a_docstring_is_joined_to_one_line(recipe, said):
  assert console._run(recipe) == said
