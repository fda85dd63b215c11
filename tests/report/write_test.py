import json

import jax
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from dlcourse.data.recipe import Data, Spec
from dlcourse.evaluators import Report
from dlcourse.experiment import Best
from dlcourse.models.trace import Layer
from dlcourse.report.figures import use_every_font
from dlcourse.report.write import curve_names, markdown, parameter_table, save, write_report

PARAMS = {"dense": {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}, "scale": np.zeros(())}
LAYERS = [
  Layer("", "C1", "Conv", "Conv", *((32, 32, 1), (28, 28, 6)) * 2, 156, 117_600, 122_304, 5),
  Layer("", "output", "Dense", "Dense", *((120,), (10,)) * 2, 1_210, 1_200, 1_210, None),
]
RESULT = {
  "experiment": "cnn.mlp",
  "overrides": ["--steps=9"],
  "seed": 5,
  "steps": 9,
  "best_step": 7,
  "seconds": 1.6,
  "devices": {"count": 1, "kind": "cpu"},
  "energy": {"wh": 1.234, "co2_g": 0.5, "assumed": "2 x 10 W a core"},
  "test": {"loss": 0.123456789},
}
DATA = Data(Spec({}), None, None, {"train": 4321, "test": 5}, "", "Digits.\nLicence: MIT. Some Body, 1998")
ROWS = [
  {"step": 1, "split": "train", "loss": 1.0, "seconds": 1.0},
  {"step": 2, "split": "validation", "loss": 1.0, "score": 2.0},
]


def test_the_parameter_table_counts_arrays_and_shapes_alike():
  rows = parameter_table(PARAMS)
  assert {row["path"]: (row["shape"], row["count"]) for row in rows} == {
    "dense/bias": ([4], 4),
    "dense/kernel": ([3, 4], 12),
    "scale": ([], 1),
  }
  assert parameter_table(jax.eval_shape(lambda: PARAMS)) == rows
  json.dumps(rows)


def test_figures_are_saved_as_pictures_and_tables_as_json(tmp_path):
  save(Report(tables={"t": [{"a": 1}]}, figures={"f": Figure(figsize=(1, 2))}), tmp_path / "x" / "y")
  assert json.loads((tmp_path / "x/y/t.json").read_text()) == [{"a": 1}]
  assert Image.open(tmp_path / "x/y/f.png").size == (156, 286)  # 130 dots an inch, 0.1 inch around


def test_the_report_names_what_was_run_and_shows_every_picture(tmp_path):
  report = Report(tables={"samples": [{"text": "hello"}]}, figures={"samples": Figure(figsize=(1, 1))})
  write_report(tmp_path, ROWS, RESULT, {"TextSamples": report}, PARAMS, LAYERS, Best("score", mode="max"), DATA)
  index = (tmp_path / "report/index.md").read_text()
  for part in (
    "# cnn.mlp",
    "`--steps=9`",
    "Seed 5, 9 steps, 2 s on 1 × cpu",
    "step 7. About 1.2 Wh and 0.5 g of CO2 (2 x 10 W a core).\n",
    "| loss | 0.123457 |",
  ):
    assert part in index
  assert "| layer | kind | output | parameters | multiply-adds | connections | receptive field |" in index
  assert "| C1 | Conv | 28 × 28 × 6 | 156 | 117,600 | 122,304 | 5 |\n" in index
  assert "| output | Dense | 10 | 1,210 | 1,200 | 1,210 |  |\n" in index
  assert "| **all** |  |  | **1,366** | **118,800** | **123,514** |  |\n" in index
  assert "\nDigits. Licence: MIT. Some Body, 1998\n" in index
  assert "| split | examples |\n| --- | ---: |\n| train | 4,321 |\n| test | 5 |\n" in index
  pictures = {line[2 : line.index("]")] for line in index.splitlines() if line.startswith("![")}
  assert pictures == {"learning_curves", "architecture", "samples"}
  assert {file.name for file in (tmp_path / "report").iterdir()} == {
    "index.md",
    "learning_curves.png",
    "architecture.png",
    "samples.png",
    "samples.json",
    "parameters.json",
    "summary.json",
  }
  first = json.loads((tmp_path / "report/summary.json").read_text())[0]
  assert (first["path"], first["output"], first["connections"]) == ("C1", [28, 28, 6], 122_304)


def test_a_run_that_has_logged_nothing_has_a_report_without_curves(tmp_path):
  write_report(tmp_path, [], RESULT | {"best_step": None}, {}, PARAMS, LAYERS, Best(), DATA)
  assert not (tmp_path / "report/learning_curves.png").exists()
  assert (tmp_path / "report/index.md").exists()


def test_a_report_replaces_the_last_one_and_leaves_other_files(tmp_path):
  many = Report(tables={"roc": [], "my table": []}, figures={"roc": Figure(figsize=(1, 1))})
  write_report(tmp_path, ROWS, RESULT, {"A": many}, PARAMS, LAYERS, Best(), DATA)
  others = {"mine.png", "mine.json", "notes.md"}
  for name in others:
    (tmp_path / "report" / name).touch()
  write_report(tmp_path, [], RESULT, {"B": Report(tables={"recall": []})}, PARAMS, LAYERS, Best(), DATA)
  left = {file.name for file in (tmp_path / "report").iterdir()}
  assert left == others | {"index.md", "architecture.png", "parameters.json", "summary.json", "recall.json"}


def test_the_sizes_of_text_are_symbols(tmp_path):
  text = DATA._replace(spec=Spec({"reset": None}, vocabulary=("a", "β")))
  write_report(tmp_path, [], RESULT, {}, PARAMS, LAYERS, Best(), text)
  assert "| split | symbols |" in (tmp_path / "report/index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
  ("rows", "best", "names"),
  [
    ([{"loss": 2.0, "elbo": -2.0}, {"loss": 1.0, "elbo": -1.0}], Best("elbo", mode="max"), ["loss"]),
    ([{"loss": 2.0, "elbo": -2.0}, {"loss": 1.0, "elbo": -0.5}], Best(), ["loss", "elbo"]),  # β = 2
    ([{"loss": 2.0, "elbo": -2.0}, {"loss": 1.0}], Best(), ["loss", "elbo"]),
    (
      [{"loss": 2.0}, {"accuracy": 0.5, "score": 1.0}],
      Best("score", mode="max"),
      ["loss", "accuracy", "score"],
    ),
    ([{"loss": 2.0, "rate": 1.0}], Best(None), ["loss"]),
  ],
)
def test_a_curve_is_not_drawn_again_upside_down(rows, best, names):
  assert curve_names([{"step": 1, "split": "train", **row} for row in rows], best) == names


def test_markdown_has_every_column_and_empty_cells():
  text = markdown([{"run": "a", "loss": 0.123456}, {"run": "b", "n": 3}])
  assert text == "| run | loss | n |\n| --- | --- | --- |\n| a | 0.1235 |  |\n| b |  | 3 |\n"


def test_the_report_says_what_a_step_multiplies_and_the_utilisation_where_it_is_known(tmp_path):
  for more, said in (({}, ""), ({"mfu": 0.1234}, ", 12.3% of the devices' peak (MFU)")):
    result = {**RESULT, "step_flops": 1_234_567, **more}
    write_report(tmp_path, [], result, {}, PARAMS, LAYERS, Best("score", mode="max"), DATA)
    index = (tmp_path / "report/index.md").read_text()
    assert f"step 7. A step is 1.23e+06 FLOPs{said}. About " in index


def test_letters_that_no_font_has_are_said(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(font_manager, "get_font_names", list)
  figure = Figure()
  figure.text(0.1, 0.5, "class \u65e5")
  save(Report(figures={"names": figure}), tmp_path)
  assert "names.png shows boxes for 1 letters, which no font here has" in caplog.text


def test_letters_of_other_continents_come_from_a_font_that_is_here(monkeypatch):
  figure = Figure()
  plain, wide = figure.text(0.1, 0.5, "Überblick"), figure.text(0.1, 0.8, "\u65e5\u672c")
  family = plain.get_fontfamily()
  monkeypatch.setattr(font_manager, "get_font_names", lambda: ["DejaVu Sans", "IPAGothic"])
  use_every_font(figure)
  assert plain.get_fontfamily() == family
  assert wide.get_fontfamily() == [*family, "IPAGothic"]
