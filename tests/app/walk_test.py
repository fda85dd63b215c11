"""Moving through latents by hand."""

import numpy as np
import pytest

from dlcourse.app.walk import STEPS, between, can_walk, moved_to, walk_of
from dlcourse.trained import open_trained


@pytest.fixture(scope="module", params=["vae", "gan"])
def walk(request):
  trained = open_trained(request.getfixturevalue(request.param), devices=1)
  assert can_walk(trained)
  return walk_of(trained)


def test_a_draw_comes_again_and_another_is_another(walk):
  first = walk.ends(2, seed=3)
  np.testing.assert_array_equal(first, walk.ends(2, seed=3))
  assert not np.allclose(first, walk.ends(2, seed=4))
  assert (walk.low < walk.high).all()


def test_only_the_latents_of_the_sliders_are_moved(walk):
  seen = []

  def images(codes, labels):
    seen.append(codes)
    return np.zeros((len(codes), 8, 8, 1), np.float32)

  picture = moved_to(walk._replace(images=images), 3, 0, walk.high)
  (code,) = seen[0]
  np.testing.assert_allclose(code[walk.moved], walk.high, rtol=1e-6)
  others = np.delete(np.arange(len(code)), walk.moved)
  np.testing.assert_array_equal(code[others], walk.ends(1, 3)[0][others])
  assert picture.shape[2] == 3
  assert min(picture.shape[:2]) >= 320


def test_a_walk_begins_at_one_draw_and_ends_at_the_other(walk):
  seen = []

  def images(codes, labels):
    seen.append(codes)
    return walk.images(codes, labels)

  pictures = between(walk._replace(images=images), 5, 0)
  ends = walk.ends(2, 5)
  for codes, picture in zip(seen, pictures, strict=True):
    assert len(codes) == STEPS
    np.testing.assert_allclose(codes[[0, -1]], ends, atol=1e-5)
    assert picture.shape[1] > 8 * picture.shape[0]
    assert picture.dtype == np.uint8
  np.testing.assert_allclose(seen[0][STEPS // 2], ends.mean(axis=0), atol=1e-5)


def test_a_classifier_has_no_latents_to_walk_through(lenet):
  assert not can_walk(open_trained(lenet, devices=1))
