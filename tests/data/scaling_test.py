import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.augment import Flip, Shift
from dlcourse.data.scaling import preparation, scaling
from dlcourse.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3)).astype(np.uint8)
SHAPES = {"image": jax.ShapeDtypeStruct(PIXELS.shape, np.uint8)}


@pytest.mark.parametrize(
  ("how", "expected"),
  [
    ("unit", PIXELS / 255),
    ("symmetric", PIXELS / 127.5 - 1),
    ("efficientnet_lite", (PIXELS - 127.0) / 128),
    ("imagenet", (PIXELS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
    ("standard", (PIXELS - PIXELS.mean((0, 1, 2))) / PIXELS.std((0, 1, 2))),
  ],
)
def test_scales_follow_their_formulas_and_unscale_undoes_them(how, expected):
  scale = scaling(how, PIXELS)
  scaled = scale.scale(jnp.asarray(PIXELS / 255))
  assert scaled.dtype == np.float32
  np.testing.assert_allclose(scaled, expected, atol=1e-5)
  np.testing.assert_allclose(scale.unscale(scaled), PIXELS / 255, atol=1e-6)


def test_a_scale_that_is_fixed_needs_no_images():
  scale = scaling("imagenet")
  np.testing.assert_allclose(scale.scale(np.float32([0.485, 0.456, 0.406])), 0, atol=1e-7)


def test_a_scale_by_colours_is_refused_for_grey_images():
  with pytest.raises(UserError, match=r"--data.scale=imagenet is for colour images; these have 1"):
    scaling("imagenet", PIXELS[..., :1])


def test_images_without_any_contrast_stay_finite():
  scale = scaling("standard", np.full_like(PIXELS, 7))
  assert np.all(np.isfinite(scale.scale(PIXELS / 255)))


def test_augmentation_acts_before_the_scale_and_only_with_a_key():
  prepare = preparation(lambda x: 2 * x - 1, (Shift(4), Flip()), SHAPES)
  batch = {"image": PIXELS, "label": np.arange(4)}
  plain, changed = prepare(None, batch), prepare(jax.random.key(0), batch)
  np.testing.assert_allclose(plain["image"], PIXELS / 127.5 - 1, atol=1e-6)
  assert np.any(changed["image"] != plain["image"])
  assert changed["image"].min() == -1  # what comes in from outside is black, not grey
  assert changed["label"] is batch["label"]


def test_an_augmentation_that_does_not_fit_is_refused():
  with pytest.raises(UserError, match="pixels=5 leaves nothing of an image of 5x5"):
    preparation(lambda x: x, (Shift(5),), SHAPES)
