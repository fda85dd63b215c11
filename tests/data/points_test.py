import numpy as np
import pytest

from dlcourse.data.points import Gaussians, centres
from dlcourse.errors import UserError


@pytest.mark.parametrize(("shape", "modes", "nearest"), [("ring", 8, 2 * np.sin(np.pi / 8)), ("grid", 25, 0.5)])
def test_the_modes_are_those_of_the_papers_in_units_of_the_largest(shape, modes, nearest):
  found = centres(shape)
  assert found.shape == (modes, 2)
  assert np.abs(found).max() == pytest.approx(1)
  np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
  apart = np.linalg.norm(found[:, None] - found, axis=-1) + 9 * np.eye(modes)
  np.testing.assert_allclose(apart.min(axis=1), nearest)


@pytest.mark.parametrize(("shape", "deviation"), [("ring", 0.01), ("grid", 0.0125)])
def test_every_point_is_drawn_around_the_mode_that_its_label_names(shape, deviation):
  data = Gaussians(shape, batch_size=20_000).build()
  batch = data.batch(0, 0)
  from_mode = batch["point"] - centres(shape)[batch["label"]]
  np.testing.assert_allclose(from_mode.std(axis=0), deviation, rtol=0.02)
  np.testing.assert_allclose(from_mode.mean(axis=0), 0, atol=4e-4)
  counts = np.bincount(batch["label"], minlength=len(centres(shape)))
  assert counts.min() > 0.8 * counts.mean()
  assert data.spec.num_classes == len(counts)


def test_batches_are_a_function_of_seed_and_step_and_splits_differ():
  data = Gaussians(batch_size=8, points=30).build()
  np.testing.assert_array_equal(data.batch(1, 2)["point"], Gaussians(batch_size=8).build().batch(1, 2)["point"])
  assert (data.batch(1, 2)["point"] != data.batch(1, 3)["point"]).any()
  splits = [np.concatenate([b["point"] for b in data.eval_batches(name)]) for name in ("validation", "test")]
  assert (splits[0] != splits[1]).any()
  assert sum(batch["mask"].sum() for batch in data.eval_batches("test")) == 30


@pytest.mark.parametrize("field", ["batch_size", "points"])
def test_data_without_points_is_refused(field):
  with pytest.raises(UserError, match=f"data.{field}=0 is too small"):
    Gaussians(**{field: 0})
