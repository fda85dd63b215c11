import pytest

from dlcourse.energy import GRAMS_PER_KWH, estimate

CPU = {"kind": "Some Processor, 4 cores", "count": 1}


def test_an_hour_of_four_cores():
  said = estimate(3600, CPU)
  assert said["watts"] == 40
  assert said["wh"] == 40
  assert said["co2_g"] == pytest.approx(0.04 * GRAMS_PER_KWH)
  assert "4 x 10 W a core" in said["assumed"]


def test_boards_count_and_twice_the_time_is_twice_the_energy():
  boards = {"kind": "NVIDIA H100 80GB HBM3", "count": 8}
  assert estimate(10, boards)["watts"] == 5600
  assert estimate(20, boards)["wh"] == pytest.approx(2 * estimate(10, boards)["wh"], rel=1e-3)
  assert estimate(1, {**boards, "kind": "something new"})["watts"] == 8 * 250
