import numpy as np
import pytest

from dlcourse.data.sprites import FACTORS, SHAPES, Sprites, drawn
from dlcourse.errors import UserError

EVERY = drawn(32)
IMAGES = EVERY["image"][..., 0].astype(float)


def test_every_combination_of_factors_comes_once_and_the_label_is_the_shape():
  assert len(EVERY["image"]) == np.prod(list(FACTORS.values())) == 13_824
  assert len(np.unique(EVERY["factors"], axis=0)) == 13_824
  np.testing.assert_array_equal(EVERY["label"], EVERY["factors"][:, 0])
  assert tuple(EVERY["factors"].max(axis=0) + 1) == tuple(FACTORS.values())


def test_factors_say_where_how_large_and_how_turned_a_shape_is():
  mass = IMAGES.sum(axis=(1, 2))
  row = (IMAGES.sum(axis=2) @ np.arange(32)) / mass
  column = (IMAGES.sum(axis=1) @ np.arange(32)) / mass
  _, scale, _, x, y = EVERY["factors"].T
  first = (x == 0) & (y == 0)
  for places, k in ((column, 3), (row, 4)):  # each shape moves by the same pixels, and nothing else moves it
    others = np.delete(EVERY["factors"], k, axis=1)
    of_rest = np.lexsort((EVERY["factors"][:, k], *others.T))
    steps = np.diff(places[of_rest].reshape(-1, 8), axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-9)
    assert (steps > 0.99).all()
  assert (np.ptp(mass.reshape(-1, 64), axis=1) == 0).all()  # nothing is cut off
  means = [mass[first & (scale == s)].mean() for s in range(6)]
  assert (np.diff(means) > 0).all()


def test_a_half_turn_is_the_picture_upside_down():
  pictures = EVERY["image"].reshape(3, 6, 12, 64, 32, 32)
  for shape in range(len(SHAPES)):
    one, other = (_cut_out(pictures[shape, 5, turn, 0]) for turn in (2, 8))
    np.testing.assert_array_equal(one[::-1, ::-1], other)


def _cut_out(picture):
  """What is not black."""
  at = np.argwhere(picture)
  (top, left), (bottom, right) = at.min(axis=0), at.max(axis=0) + 1
  return picture[top:bottom, left:right]


def test_splits_are_stratified_and_batches_a_function_of_seed_and_step():
  data = Sprites(batch_size=16).build()
  assert sum(data.sizes.values()) == 13_824
  labels = np.concatenate([batch["label"][batch["mask"] > 0] for batch in data.eval_batches("test")])
  assert set(np.bincount(labels)) == {data.sizes["test"] // 3}
  np.testing.assert_array_equal(data.batch(3, 4)["image"], Sprites(batch_size=16).build().batch(3, 4)["image"])
  assert (data.batch(3, 4)["image"] != data.batch(3, 5)["image"]).any()
  prepared = data.spec.prepare(None, data.batch(0, 0))["image"]
  assert prepared.min() == 0
  assert prepared.max() == 1


@pytest.mark.parametrize("fields", [{"batch_size": 0}, {"size": 8}])
def test_what_shows_nothing_is_refused(fields):
  with pytest.raises(UserError, match="at least"):
    Sprites(**fields)
