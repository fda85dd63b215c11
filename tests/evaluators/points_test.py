import jax
import numpy as np
import pytest

from dlcourse.data.points import Gaussians, centres
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.points import ModeCoverage

DATA = Gaussians("ring", batch_size=64, points=2_000).build()


class Plays:
  """A task that generates these points."""

  conditional = False

  def __init__(self, points):
    self.points = points

  def generate(self, state, key, request):
    return {"point": self.points[: len(request["index"])]}


def scored(points):
  return ModeCoverage(len(points))(Plays(points), None, DATA, jax.random.key(0))


def test_the_mixture_itself_covers_all_modes_and_lies_within_three_deviations():
  report = scored(DATA.batch(5, 0)["point"].repeat(1, axis=0))
  assert report.scalars["modes"] == 8
  assert report.scalars["high_quality"] == pytest.approx(1 - np.exp(-4.5), abs=0.05)
  assert [row["mode"] for row in report.tables["modes"]] == list(DATA.spec.classes)


def test_a_collapsed_generator_is_found_out():
  points = np.concatenate([np.tile(centres("ring")[3], (30, 1)), np.zeros((10, 2))])
  report = scored(points)
  assert report.scalars == {"modes": 1, "high_quality": 0.75}
  assert [row["samples"] for row in report.tables["modes"]] == [0, 0, 0, 30, 0, 0, 0, 0]


def test_pictures_are_not_judged_as_points():
  with pytest.raises(UserError, match="ModeCoverage judges points; this data has image"):
    ModeCoverage()(None, None, Data(Spec({"image": None}), None, None, {}, "", ""), None)


def test_no_samples_are_refused():
  with pytest.raises(UserError, match="samples=0 is too small"):
    ModeCoverage(samples=0)
