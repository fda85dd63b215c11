import jax
import numpy as np
import pytest
from networks import count, once, variables_of
from PIL import Image

from dlcourse.errors import UserError
from dlcourse.models.super_resolution import SRResNet, sub_pixel_shuffle


def shapes(model, *shape):
  return jax.eval_shape(model.init, jax.random.key(0), np.zeros(shape, np.float32))


def test_the_published_network_has_1_5_million_parameters():
  params = shapes(SRResNet(image_shape=(96, 96, 3)), 1, 24, 24, 3)["params"]
  assert count(params) == 1_547_350
  assert sum("prelu" in name.lower() for name in params) == 19


def test_other_sizes_are_counted_by_hand():
  model = SRResNet(width=3, blocks=2, image_shape=(16, 16, 1))
  block = 2 * (9 * 3 * 3 + 6) + 1
  ends = (81 * 3 + 3 + 1) + (81 * 3 + 1)
  up = 9 * 3 * 12 + 12 + 1
  middle = 9 * 3 * 3 + 6
  assert count(shapes(model, 1, 4, 4, 1)["params"]) == ends + 2 * block + middle + 2 * up
  assert count(shapes(model, 1, 8, 8, 1)["params"]) == ends + 2 * block + middle + up


@pytest.mark.parametrize("times", [2, 3])
def test_channels_become_the_pixels_of_a_square(times):
  x = np.random.default_rng(0).normal(size=(2, 3, 4, times**2 * 5))
  y = np.asarray(sub_pixel_shuffle(x, times))
  assert y.shape == (2, 3 * times, 4 * times, 5)
  for row in range(3 * times):
    for column in range(4 * times):
      place = (row % times) * times + column % times
      expected = x[:, row // times, column // times, 5 * place : 5 * place + 5]
      np.testing.assert_allclose(y[:, row, column], expected, rtol=1e-6)


def test_the_untrained_network_is_the_bicubic_enlargement():
  model = SRResNet(width=2, blocks=1, image_shape=(16, 16, 2))
  x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 2)).astype(np.float32)
  made, _ = once(lambda: model.init_with_output(jax.random.key(0), x, train=True))()
  for image, source in zip(np.asarray(made), x, strict=True):
    for c in range(2):
      expected = Image.fromarray(source[..., c]).resize((16, 16), Image.Resampling.BICUBIC)
      np.testing.assert_allclose(image[..., c], np.asarray(expected), atol=1e-5)


def test_the_network_adds_to_it_and_clips_where_not_in_training():
  model = SRResNet(width=2, blocks=1, image_shape=(16, 16, 1))
  x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 1)).astype(np.float32)
  variables = variables_of(model, x)
  made = np.asarray(once(model.apply)(variables, x))
  trained, _ = once(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables, x)
  assert made.shape == trained.shape == (2, 16, 16, 1)
  assert np.abs(made).max() == 1
  assert np.abs(trained).max() > 1
  assert np.abs(trained - jax.image.resize(x, trained.shape, "cubic")).min() > 0


@pytest.mark.parametrize("field", ["width", "blocks"])
def test_a_network_without_a_layer_is_refused(field):
  with pytest.raises(UserError, match=f"--task.generator.{field}=0 is too small"):
    SRResNet(**{field: 0})


@pytest.mark.parametrize("source", [(16, 16, 1), (5, 5, 1), (4, 4, 3), (4, 8, 1), (32, 32, 1)])
def test_images_that_are_no_doubled_sources_are_refused(source):
  with pytest.raises(UserError, match=r"set --data\.kind=downscaled"):
    shapes(SRResNet(image_shape=(16, 16, 1)), 1, *source)
