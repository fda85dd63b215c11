"""What has been tried, counted and written."""

import csv
import io

import numpy as np

from dlcourse.app.tried import COLUMNS, Tried, as_csv, confusion, rows, score, with_truth

TRIED = (
  Tried("a.png", "cat", 0.9, "cat"),
  Tried('of, "two".png', "dog", 0.6, "cat"),
  Tried("b.png", "cow", 1 / 3),
  Tried("broken.jpg", problem="no image"),
)


def test_only_what_is_known_counts():
  assert score(TRIED) == (1, 2)
  assert score(()) == (0, 0)
  assert [one.right for one in TRIED] == [True, False, None, None]


def test_rows_of_the_matrix_are_correct_classes_and_columns_predictions():
  counts, names = confusion(TRIED, ("ant", "cow", "dog", "cat"))
  assert names == ["dog", "cat"]  # as the model orders them; no cow has been judged
  np.testing.assert_array_equal(counts, [[0, 0], [1, 1]])


def test_a_correct_class_can_be_given_and_taken_back():
  judged = with_truth(TRIED, 2, "dog")
  assert judged[2] == Tried("b.png", "cow", 1 / 3, "dog")
  assert score(judged) == (1, 3)
  assert with_truth(judged, 2, None) == TRIED


def test_a_csv_reads_back_as_the_rows_that_are_shown():
  read = list(csv.reader(io.StringIO(as_csv(TRIED), newline="")))
  assert read == [list(COLUMNS), *rows(TRIED)]
  assert read[2][0] == 'of, "two".png'
  assert [row[4] for row in read[1:]] == ["right", "wrong", "", ""]
  assert abs(float(read[3][2]) - 1 / 3) < 1e-8
  assert read[4] == ["broken.jpg", "", "", "", "", "no image"]
