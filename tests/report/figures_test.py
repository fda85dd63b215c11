import numpy as np
import pytest
from PIL import Image

from dlcourse.report.figures import (
  confusion_figure,
  grid_columns,
  image_grid,
  labelled_images,
  learning_curves,
  roc_figure,
  save_image_grid,
  text_page,
  tile,
)


def test_tiles_stand_in_reading_order_with_a_frame():
  images = np.linspace(0, 1, 5)[:, None, None, None] * np.ones((5, 2, 3, 1))
  picture = tile(images, columns=2)
  assert picture.shape == (3 * 4, 2 * 5, 1)
  assert picture.dtype == np.uint8
  for index, value in enumerate([0, 64, 128, 191, 255]):
    row, column = divmod(index, 2)
    block = picture[row * 4 : row * 4 + 4, column * 5 : column * 5 + 5, 0]
    assert np.all(block[1:-1, 1:-1] == value)
    assert np.all(block[[0, -1]] == 64)
    assert np.all(block[:, [0, -1]] == 64)
  assert np.all(picture[8:, 5:] == 64)  # the sixth place is empty


def test_values_outside_the_range_are_clipped():
  assert set(np.unique(tile(np.array([-3.0, 7.0]).reshape(2, 1, 1, 1), 2)).tolist()) == {0, 64, 255}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_saved_image_is_the_array(tmp_path, channels):
  image = np.random.default_rng(0).uniform(size=(1, 4, 5, channels))
  _, file = save_image_grid(image, tmp_path)
  expected = np.round(image[0] * 255).astype(np.uint8)
  np.testing.assert_array_equal(np.asarray(Image.open(file)).reshape(4, 5, channels), expected)


def test_a_grid_is_no_wider_than_it_has_images():
  (axes,) = image_grid(np.zeros((3, 4, 4, 1)), columns=8).axes
  assert axes.get_images()[0].get_array().shape == (6, 18)


@pytest.mark.parametrize(
  ("count", "columns"),
  [(1, 1), (2, 2), (5, 5), (7, 3), (10, 5), (12, 4), (13, 4), (14, 7), (16, 4), (50, 10), (64, 8)],
)
def test_a_grid_is_about_square_without_empty_places_where_that_can_be(count, columns):
  assert grid_columns(count) == columns
  (axes,) = image_grid(np.ones((count, 2, 2, 1))).axes
  assert axes.get_images()[0].get_array().shape == (-(-count // columns) * 4, columns * 4)


@pytest.mark.parametrize(
  ("count", "shape", "size"), [(16, (28, 28, 1), (480, 480)), (10, (32, 32, 3), (1020, 408))]
)
def test_a_saved_grid_is_enlarged_until_it_can_be_seen(tmp_path, count, shape, size):
  images = np.random.default_rng(0).uniform(size=(count, *shape))
  grid = Image.open(save_image_grid(images, tmp_path)[0])
  assert grid.size == size
  small = tile(images, grid_columns(count))
  times = size[1] // small.shape[0]
  np.testing.assert_array_equal(np.asarray(grid)[times // 2 :: times, times // 2 :: times], small.squeeze())


def test_a_saved_grid_is_never_shrunk(tmp_path):
  assert Image.open(save_image_grid(np.zeros((1, 500, 600, 3)), tmp_path)[0]).size == (602, 502)


def test_curves_have_a_panel_a_metric_a_line_a_split_and_the_best_step():
  rows = [
    {"step": 1, "split": "train", "loss": 3.0},
    {"step": 2, "split": "train", "loss": 2.0},
    {"step": 2, "split": "validation", "loss": 2.5, "accuracy": 0.5},
  ]
  loss, accuracy = learning_curves(rows, ["loss", "accuracy"], best_step=2).axes
  lines = {line.get_label(): line.get_xydata().tolist() for line in loss.get_lines()}
  assert lines["train"] == [[1, 3.0], [2, 2.0]]
  assert lines["validation"] == [[2, 2.5]]
  assert lines["best, step 2"][0][0] == 2
  assert "train" not in [line.get_label() for line in accuracy.get_lines()]
  assert len(learning_curves(rows, ["loss"], best_step=None).axes[0].get_lines()) == 2


def test_a_single_measurement_is_visible():
  rows = [{"step": 1, "split": "train", "loss": 3.0}, {"step": 1, "split": "train", "accuracy": 0.1}]
  rows.append({"step": 2, "split": "train", "accuracy": 0.2})
  loss, accuracy = learning_curves(rows, ["loss", "accuracy"], best_step=None).axes
  assert loss.get_lines()[0].get_marker() == "o"
  assert accuracy.get_lines()[0].get_marker() == "None"
  assert [tick for tick in loss.get_xticks() if tick != round(tick)] == []


def test_the_confusion_figure_writes_the_counts_and_colours_by_share():
  axes = confusion_figure(np.array([[8, 2], [0, 0]]), ["a", "b"]).axes[0]
  assert {(text.get_position(), text.get_text()) for text in axes.texts} == {((0, 0), "8"), ((1, 0), "2")}
  np.testing.assert_allclose(axes.get_images()[0].get_array(), [[0.8, 0.2], [0, 0]])


def test_roc_draws_each_class_and_the_diagonal():
  (axes,) = roc_figure({"a": (np.array([0, 1]), np.array([0.5, 1]), 0.75)}).axes
  curve, _ = axes.get_lines()
  assert curve.get_label() == "a (0.7500)"


def test_of_many_curves_the_legend_names_those_with_the_least_area(tmp_path):
  curve = np.array([0, 1]), np.array([0.5, 1])
  figure = roc_figure({f"{n:02d}" + "x" * 30: (*curve, 0.5 + n / 100) for n in reversed(range(40))})
  figure.savefig(tmp_path / "roc.png")
  (axes,) = figure.axes
  assert len(axes.get_lines()) == 41
  names = [text.get_text() for text in axes.get_legend().get_texts()]
  assert sorted(names) == [f"{n:02d}{'x' * 21}… ({0.5 + n / 100:.4f})" for n in range(10)]
  assert axes.get_window_extent().height > 0.7 * figure.bbox.height


def test_labelled_images_have_a_title_each_and_empty_places_nothing():
  figure = labelled_images(np.zeros((7, 2, 2, 1), np.uint8), [str(i) for i in range(7)], columns=3)
  assert [axes.get_title() for axes in figure.axes] == ["0", "1", "2", "3", "4", "5", "6", "", ""]


def test_a_page_wraps_long_lines_keeps_empty_ones_and_takes_dollars_literally(tmp_path):
  figure = text_page(["x" * 100 + "\n\n$5 and $6", ""])
  lines = figure.texts[0].get_text().split("\n")
  assert [len(line) for line in lines[1:3]] == [72, 28]
  assert lines[3:5] == ["", r"\$5 and \$6"]
  assert lines[5].startswith("── 2 ")
  figure.savefig(tmp_path / "page.png")


def test_names_that_matplotlib_would_read_otherwise_are_drawn_as_they_are(tmp_path):
  names = [r"$\frac$", "_hidden", "a $b$ c"]
  confusion_figure(np.eye(3, dtype=int), names).savefig(tmp_path / "confusion.png")
  line = np.linspace(0, 1, 3)
  figure = roc_figure(dict.fromkeys(names, (line, line, 0.5)))
  figure.savefig(tmp_path / "roc.png")
  shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
  assert shown == [r"\$\frac\$ (0.5000)", " _hidden (0.5000)", r"a \$b\$ c (0.5000)"]
