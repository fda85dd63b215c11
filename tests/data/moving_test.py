import numpy as np
import pytest

from dlcourse.data import images
from dlcourse.data.moving import DIGIT, SPEED, MovingDigits, paths, videos
from dlcourse.data.source import ImageSet
from dlcourse.errors import UserError


@pytest.fixture
def digits(monkeypatch):
  """40 pictures of which each has a brightness of its own, so that it can be known again."""

  def stand_in(channels):
    levels = np.arange(1, 41, dtype=np.uint8)[:, None, None, None]
    part = {
      "image": np.broadcast_to(levels, (40, DIGIT, DIGIT, channels)).copy(),
      "label": (np.arange(40) % 2).astype(np.int32),
    }
    source = ImageSet({"all": part}, ("a", "b"), "levels", "none", "none")
    monkeypatch.setattr(images, "load_once", lambda name, size: source)

  stand_in(1)
  return stand_in


def of(**fields):
  return MovingDigits(**{"source": "levels", "batch_size": 16, "videos": 64} | fields).build()


def test_between_walls_a_path_is_straight_and_at_a_wall_its_direction_is_random_and_away_from_it():
  places = paths(4_000, 12, 16.0, np.random.default_rng(0))
  assert places.min() >= 0
  assert places.max() <= 16
  steps = np.diff(places, axis=1)  # [N, T - 1, 2]
  inside = (places > 0).all(axis=-1) & (places < 16).all(axis=-1)  # at t: not at a wall
  free = inside[:, 1:-1] & inside[:, 2:]
  np.testing.assert_allclose(np.linalg.norm(steps[:, 1:][free], axis=-1), SPEED, rtol=1e-6)
  np.testing.assert_allclose(steps[:, 1:][free], steps[:, :-1][free], atol=1e-6)
  left = (places[:, 1:-1, 0] == 0) & inside[:, 2:]  # flew off the left wall, and met no other
  away = steps[:, 1:][left]
  assert np.all(away[:, 0] > 0)
  along = away[:, 1] / SPEED  # the cosine of a uniform angle
  assert along.mean() == pytest.approx(0, abs=0.05)
  middle = np.abs(places[:, 1:-1, 1] - 8) < 4  # where no other wall can be met in one step
  np.testing.assert_allclose(np.mean((steps[:, 1:, 1][left & middle] / SPEED) ** 2), 0.5, atol=0.05)
  before = steps[:, :-1][left & middle][:, 1]
  assert abs(np.corrcoef(before, steps[:, 1:][left & middle][:, 1])[0, 1]) < 0.1


def test_a_digit_is_at_its_place_and_nothing_else_is():
  digit = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3)
  places = np.array([[[0, 0], [2.4, 4.6]]])
  made = videos(digit, places, 8)
  assert made.shape == (1, 8, 8, 2)
  np.testing.assert_array_equal(made[0, :3, :3, 0], digit[0])
  np.testing.assert_array_equal(made[0, 2:5, 5:8, 1], digit[0])
  np.testing.assert_array_equal(made.sum(axis=(1, 2)), [[45, 45]])


def test_the_future_goes_on_where_the_past_ends(digits):
  data = of(past=3, future=4)
  test = next(data.eval_batches("test"))
  assert test["source"].shape == (16, 32, 32, 3)
  assert data.spec.image_shape == test["image"].shape[1:] == (32, 32, 4)
  frames = np.concatenate([test["source"], test["image"]], axis=-1)
  level = frames.max(axis=(1, 2))  # [N, T], of one digit
  assert np.all(level == level[:, :1])
  np.testing.assert_array_equal((frames > 0).sum(axis=(1, 2)), DIGIT**2)
  rows, columns = (np.argmax((frames > 0).any(axis=axis), axis=1) for axis in (2, 1))
  moved = np.hypot(np.diff(rows), np.diff(columns))
  assert moved.max() <= SPEED + 2**0.5  # rounded at both ends
  assert moved.mean() > 0.5 * SPEED


def test_splits_have_different_digits(digits):
  data = of()
  levels = {name: {x.max() for b in data.eval_batches(name) for x in b["image"]} for name in data.sizes}
  levels["train"] |= {x.max() for step in range(20) for x in data.batch(0, step)["image"]}
  levels = {name: {int(level) for level in found} for name, found in levels.items()}
  for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
    assert not levels[one] & levels[other]
  assert len(levels["train"]) > 20


def test_training_videos_are_functions_of_seed_and_step_and_evaluation_is_fixed(digits):
  data, again, other = of(), of(), of(split_seed=1)
  np.testing.assert_array_equal(data.batch(3, 5)["image"], again.batch(3, 5)["image"])
  assert np.any(data.batch(3, 5)["image"] != data.batch(3, 6)["image"])
  assert np.any(data.batch(3, 5)["image"] != data.batch(4, 5)["image"])
  assert data.digest == again.digest != other.digest
  prepared = data.spec.prepare(None, data.batch(0, 0))
  np.testing.assert_allclose(prepared["source"], data.batch(0, 0)["source"] / 255, atol=1e-6)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"size": 18}, r"--data\.size=18 leaves a digit of 16 pixels no room; 32 does"),
    ({"past": 1}, r"--data\.past=1 is too small"),
    ({"future": 0}, r"--data\.future=0 is too small"),
    ({"videos": 0}, r"--data\.videos=0 is too small"),
  ],
)
def test_fields_that_do_not_fit_are_refused(fields, said):
  with pytest.raises(UserError, match=said):
    MovingDigits(**fields)


def test_coloured_images_are_refused(digits):
  digits(3)
  with pytest.raises(UserError, match="digits are grey, and the images of levels have colours"):
    of()
