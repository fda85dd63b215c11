import types

import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.errors import UserError
from dlcourse.evaluators.latents import Interpolations, LatentMap, Traversals, coded, linear, spherical
from dlcourse.task import Latents

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, size=(10, 4, 4, 1), dtype=np.uint8)
LABELS = np.arange(10, dtype=np.int32) % 2
KEY = np.array([0, 0], np.uint32)


def data(batch_size=4):
  return types.SimpleNamespace(
    eval_batches=lambda split: in_order({"image": IMAGES, "label": LABELS}, batch_size),
    spec=types.SimpleNamespace(classes=("a", "b"), unscale=lambda x: x),
  )


def halves(batch):
  """Two latents: the mean of the upper and of the lower half."""
  return batch["image"].astype(jnp.float32).reshape(-1, 2, 8).mean(axis=2) / 255


def painted(state, z):
  return jnp.repeat(z, 8, axis=1).reshape(-1, 4, 4, 1)


def task(encode=lambda state, batch: halves(batch), images=painted, conditional=False):
  return types.SimpleNamespace(latents=Latents(2, images, encode=encode), conditional=conditional)


def test_codes_are_of_the_real_images_in_their_order():
  found = coded(task(), None, data(), "test", "x", most=7)
  np.testing.assert_allclose(found.codes, halves({"image": IMAGES})[:7], rtol=1e-6)
  np.testing.assert_array_equal(found.facts["label"], LABELS[:7])


def test_the_ways_begin_and_end_at_the_codes_and_the_circle_keeps_the_length():
  first, second = RNG.normal(size=(2, 3, 5))
  shares = np.linspace(0, 1, 7)
  for path in (linear, spherical):
    way = path(first, second, shares)
    np.testing.assert_allclose(way[:, 0], first, atol=1e-12)
    np.testing.assert_allclose(way[:, -1], second, atol=1e-12)
  np.testing.assert_allclose(linear(first, second, shares)[:, 3], (first + second) / 2)
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
  way = spherical(*unit, shares)
  np.testing.assert_allclose(np.linalg.norm(way, axis=2), 1)
  steps = np.linalg.norm(np.diff(way, axis=1), axis=2)
  np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape))
  np.testing.assert_allclose(spherical(first, 2 * first, shares), linear(first, 2 * first, shares))


def test_a_linear_decoder_interpolates_evenly():
  report = Interpolations(pairs=3, steps=5)(task(), None, data(), KEY)
  assert report.scalars["interpolation_jump_linear"] == pytest.approx(1, abs=1e-4)
  codes = np.array(halves({"image": IMAGES}))
  distance = np.sqrt(np.square(codes[3:6] - codes[:3]).mean(axis=1)) / 4
  assert report.scalars["interpolation_step_linear"] == pytest.approx(distance.mean(), rel=1e-4)
  assert set(report.figures) == {"interpolation_linear", "interpolation_spherical"}


def test_a_gan_is_interpolated_between_draws():
  report = Interpolations(pairs=2, steps=3)(task(encode=None), None, data(), KEY)
  assert report.scalars["interpolation_step_linear"] > 0


def test_a_traversal_moves_one_latent_only_the_most_varied_first():
  seen = []

  def images(state, z):
    seen.append(z.shape)
    return painted(state, z)

  report = Traversals(latents=2, steps=3)(task(images=images), None, data(), KEY)
  assert seen == [(6, 2)]
  assert set(report.figures) == {"traversals"}


def test_conditional_models_are_told_the_label():
  told = []

  def images(state, z, label):
    told.append(label.shape)
    return painted(state, z)

  Interpolations(pairs=2, steps=3)(task(images=images, conditional=True), None, data(), KEY)
  Traversals(latents=1, steps=5)(task(images=images, conditional=True), None, data(), KEY)
  assert told == [(6,), (5,)]


def test_the_plane_has_the_image_of_every_place():
  made = []

  def images(state, z):
    made.append(z.shape)
    return painted(state, z)

  report = LatentMap(side=3)(task(images=images), None, data(), KEY)
  assert set(report.figures) == {"latent_map", "latent_plane"}
  assert made == [(9, 2)]


def test_what_has_no_latents_is_refused():
  without = types.SimpleNamespace(latents=None, conditional=False)
  with pytest.raises(UserError, match="Interpolations needs a model whose images come from latents"):
    Interpolations()(without, None, data(), KEY)
  with pytest.raises(UserError, match="Traversals needs an autoencoder"):
    Traversals()(task(encode=None), None, data(), KEY)
  with pytest.raises(UserError, match="two latents or more"):
    LatentMap()(task(encode=lambda s, b: halves(b)[:, :1]), None, data(), KEY)
  with pytest.raises(UserError, match="at least"):
    Interpolations(steps=1)
