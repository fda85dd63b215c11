import jax
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.dcgan import Discriminator, Generator


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(model, *shape):
  return jax.eval_shape(model.init, jax.random.key(0), np.zeros(shape, np.float32))


@pytest.mark.parametrize(
  ("side", "channels", "generator", "discriminator"),
  [
    # 4x4 kernels; F filters of a hidden layer have 2F of batch norm; biases only where there is no norm
    (8, 1, 16 * 5 * 3 + 6 + 16 * 3 * 1 + 1, 16 * 1 * 3 + 3 + 16 * 3 * 1 + 1),
    (
      32,
      3,
      16 * 5 * 12 + 24 + 16 * 12 * 6 + 12 + 16 * 6 * 3 + 6 + 16 * 3 * 3 + 3,
      16 * 3 * 3 + 3 + 16 * 3 * 6 + 12 + 16 * 6 * 12 + 24 + 16 * 12 * 1 + 1,
    ),
  ],
)
def test_parameters_are_counted_by_hand(side, channels, generator, discriminator):
  g = Generator(latent_dim=5, width=3, image_shape=(side, side, channels))
  assert count(shapes(g, 2, 5)["params"]) == generator
  assert count(shapes(Discriminator(width=3), 2, side, side, channels)["params"]) == discriminator


def test_the_paper_has_1024_maps_of_4x4_at_side_64():
  params = shapes(Generator(latent_dim=100, width=128, image_shape=(64, 64, 3)), 1, 100)["params"]
  kernels = sorted((x.shape for x in jax.tree.leaves(params) if x.ndim == 4), key=lambda s: -s[-1])
  assert kernels == [(4, 4, 100, 1024), (4, 4, 1024, 512), (4, 4, 512, 256), (4, 4, 256, 128), (4, 4, 128, 3)]


def test_images_have_the_shape_of_the_data_and_lie_in_minus_one_to_one():
  g = Generator(latent_dim=5, width=4, image_shape=(8, 8, 3))
  z = 1e3 * np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
  variables = jax.jit(g.init)(jax.random.key(1), z)
  params = jax.tree.map(lambda x: 100 * np.asarray(x), variables["params"])
  images = jax.jit(g.apply)({"params": params, "batch_stats": variables["batch_stats"]}, z)
  assert images.shape == (4, 8, 8, 3)
  assert images.min() < -0.99
  assert images.max() > 0.99
  assert np.all(np.abs(images) <= 1)


def test_the_discriminator_gives_one_unbounded_logit_an_image():
  d = Discriminator(width=4)
  x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
  variables = jax.jit(d.init)(jax.random.key(1), x)
  apply = jax.jit(d.apply)
  logits = apply(variables, x)
  assert logits.shape == (4,)
  assert len(set(logits.tolist())) == 4
  large = jax.tree.map(lambda v: 30 * np.asarray(v), variables)
  assert np.abs(apply(large, x)).max() > 1


def test_weights_start_with_deviation_two_hundredths():
  init = jax.jit(Discriminator(width=32).init)
  params = jax.device_get(init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"])
  kernels = np.concatenate([x.ravel() for x in jax.tree.leaves(params) if x.ndim == 4])
  assert kernels.std() == pytest.approx(0.02, rel=0.05)
  assert kernels.mean() == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
  ("model", "field"),
  [(Generator, "generator.latent_dim"), (Generator, "generator.width"), (Discriminator, "discriminator.width")],
)
def test_a_layer_without_a_unit_is_refused(model, field):
  with pytest.raises(UserError, match=f"--task.{field}=0 is too small"):
    model(**{field.split(".")[1]: 0})


@pytest.mark.parametrize("side", [4, 12, 28, 31, 33, 48])
def test_a_side_that_is_no_doubling_of_four_is_refused(side):
  with pytest.raises((ValueError, UserError), match=f"not {side}"):
    shapes(Generator(image_shape=(side, side, 1)), 1, 100)
  with pytest.raises((ValueError, UserError), match=f"not {side}"):
    shapes(Discriminator(), 1, side, side, 1)
