import functools

import jax
import numpy as np
import pytest
from networks import once

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


@pytest.mark.parametrize("side", [4, 7, 12, 21, 31, 33, 48])
def test_a_side_that_is_no_doubling_of_four_or_seven_is_refused(side):
  with pytest.raises((ValueError, UserError), match=f"not {side}"):
    shapes(Generator(image_shape=(side, side, 1)), 1, 100)
  with pytest.raises((ValueError, UserError), match=f"not {side}"):
    shapes(Discriminator(), 1, side, side, 1)


def test_28_pixels_start_from_maps_of_7():
  g = Generator(latent_dim=5, width=3, image_shape=(28, 28, 1))
  assert count(shapes(g, 2, 5)["params"]) == 49 * 5 * 6 + 12 + 16 * 6 * 3 + 6 + 16 * 3 + 1
  images, _ = jax.eval_shape(g.init_with_output, jax.random.key(0), np.zeros((2, 5), np.float32))
  assert images.shape == (2, 28, 28, 1)
  d = shapes(Discriminator(width=3), 2, 28, 28, 1)["params"]
  assert count(d) == 16 * 3 + 3 + 16 * 3 * 6 + 12 + 49 * 6 + 1


def test_the_names_of_the_published_network_are_those_of_old_checkpoints():
  g = shapes(Generator(image_shape=(16, 16, 1)), 1, 100)
  assert set(g["params"]) == {
    "ConvTranspose_0",
    "ConvTranspose_1",
    "ConvTranspose_2",
    "BatchNorm_0",
    "BatchNorm_1",
  }
  assert set(g) == {"params", "batch_stats"}
  d = shapes(Discriminator(), 1, 16, 16, 1)
  assert set(d["params"]) == {"Conv_0", "Conv_1", "BatchNorm_0", "output"}
  assert set(d["params"]["Conv_1"]) == {"kernel"}


@functools.cache
def critic(norm, condition="none"):
  """A discriminator of 16 pixels, its variables and its compiled application in training."""
  model = Discriminator(width=4, norm=norm, condition=condition, num_classes=3)
  x = np.random.default_rng(0).normal(size=(4, 16, 16, 2)).astype(np.float32)
  variables = once(functools.partial(model.init, train=True))(jax.random.key(1), x, LABELS)
  apply = once(
    lambda v, x, label: model.apply(v, x, label, train=True, mutable=["intermediates", "batch_stats"])
  )
  return jax.device_get(variables), x, apply


LABELS = np.array([0, 1, 2, 0])


def test_layer_norm_sees_one_image_and_batch_norm_the_batch():
  for norm, independent in (("layer", True), ("batch", False)):
    variables, x, apply = critic(norm)
    logits, _ = apply(variables, x, LABELS)
    other, _ = apply(variables, np.concatenate([x[:1], 3 * x[1:]]), LABELS)
    assert (np.abs(logits[0] - other[0]) < 1e-6) == independent


def test_a_critic_without_norm_has_kernels_and_biases_alone():
  variables, _, _ = critic("none")
  assert set(variables) == {"params"}
  assert {frozenset(layer) for layer in variables["params"].values()} == {frozenset({"kernel", "bias"})}


def test_spectral_norm_takes_the_scale_of_every_kernel():
  variables, x, apply = critic("spectral", "projection")
  larger = jax.tree.map(lambda leaf: leaf * (10 if leaf.ndim > 1 else 1), variables["params"])
  expected, _ = apply(variables, x, LABELS)
  actual, _ = apply(variables | {"params": larger}, x, LABELS)
  np.testing.assert_allclose(actual, expected, rtol=1e-4)
  assert set(variables["spectral"]) == {"SpectralConv_0", "SpectralConv_1", "output", "projection"}


def test_projection_adds_the_product_of_summed_features_and_the_vector_of_the_class():
  variables, x, apply = critic("none", "projection")
  logits, sown = apply(variables, x, LABELS)
  other, _ = apply(variables, x, (LABELS + 1) % 3)
  (features,) = sown["intermediates"]["features"]
  assert features.shape == (4, 4, 4, 8)
  vectors = variables["params"]["projection"]["kernel"]
  difference = ((vectors[LABELS] - vectors[(LABELS + 1) % 3]) * np.asarray(features).sum((1, 2))).sum(-1)
  np.testing.assert_allclose(logits - other, difference, rtol=1e-4, atol=1e-6)


def test_labels_as_input_are_further_maps():
  variables, x, apply = critic("none", "input")
  assert variables["params"]["Conv_0"]["kernel"].shape == (4, 4, 2 + 3, 4)
  logits, _ = apply(variables, x, LABELS)
  other, _ = apply(variables, x, np.array([0, 1, 2, 1]))
  np.testing.assert_allclose(logits[:3], other[:3], atol=1e-7)
  assert abs(logits[3] - other[3]) > 1e-5


def test_a_conditional_generator_draws_what_is_asked_and_the_plain_one_does_not():
  z = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
  for conditional in (True, False):
    g = Generator(latent_dim=5, width=4, image_shape=(8, 8, 1), conditional=conditional, num_classes=3)
    apply = once(g.apply)
    variables = once(g.init)(jax.random.key(0), z, LABELS[:3])
    difference = np.abs(apply(variables, z, LABELS[:3]) - apply(variables, z, np.array([0, 1, 1])))
    assert difference[:2].max() < 1e-7
    assert (difference[2].max() > 1e-6) == conditional


def test_a_conditional_network_needs_classes_and_labels():
  g = Generator(image_shape=(8, 8, 1), conditional=True)
  with pytest.raises(UserError, match="needs data with classes"):
    shapes(g, 1, 100)
  with pytest.raises(ValueError, match="needs the label"):
    shapes(g.clone(num_classes=3), 1, 100)
  with pytest.raises(UserError, match="needs data with classes"):
    shapes(Discriminator(condition="input"), 1, 8, 8, 1)
