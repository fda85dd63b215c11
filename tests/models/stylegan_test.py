import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from networks import count, once

from dlcourse.errors import UserError
from dlcourse.models.stylegan import (
  STYLEGAN,
  Discriminator,
  Generator,
  ScaledConv,
  ScaledDense,
  blur,
  minibatch_deviation,
  mix_styles,
  modulated_convolution,
  upsample,
)

NHWC = ("NHWC", "HWIO", "NHWC")
FIR = np.outer((1, 3, 3, 1), (1, 3, 3, 1)) / 64
SIZES = {"latent_dim": 4, "style_dim": 6, "mapping_layers": 2, "capacity": 64, "max_width": 8}
LABELS = np.array([0, 1, 2, 2])


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


Z, X = normal(0, 4, 4), normal(1, 4, 8, 8, 2)


def filtered(x, kernel, padding, gap=1, stride=1):
  """The same kernel on every channel, by XLA's grouped convolution."""
  kernel = np.tile(kernel[:, :, None, None], (1, 1, 1, x.shape[-1])).astype(np.float32)
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), (padding, padding), (gap, gap), None, NHWC, feature_group_count=x.shape[-1]
  )


@functools.cache
def networks():
  """Conditional generator and discriminator of 8 pixels, and their variables."""
  g = Generator(**SIZES, conditional=True, num_classes=3, image_shape=(8, 8, 2))
  d = Discriminator(capacity=64, max_width=8, mapping_layers=2, condition="projection", num_classes=3)
  return g, once(g.init)(jax.random.key(0), Z, LABELS), d, once(d.init)(jax.random.key(1), X, LABELS)


@functools.cache
def drawn(train, mixing=0.0):
  """(variables, labels, noise seed, truncation) -> images and what has changed, compiled."""
  g = networks()[0].clone(mixing=mixing)

  def draw(variables, label, seed, truncation):
    rngs = {"noise": jax.random.key(seed)}
    return g.apply(variables, Z, label, train, truncation, rngs=rngs, mutable=["w_average"])

  compiled = once(draw)
  return lambda variables, label=LABELS, seed=0, truncation=1.0: compiled(variables, label, seed, truncation)


def in_params(variables, change):
  """Variables with each parameter replaced by change(path, parameter)."""
  params = jax.tree.map_with_path(
    lambda path, leaf: change(jax.tree_util.keystr(path), leaf), variables["params"]
  )
  return variables | {"params": params}


@pytest.mark.parametrize(
  ("side", "layers", "generator", "discriminator"),
  [
    (1024, 8, 30_370_060, 29_012_513),  # print_layers() of the official networks
    (1024, 2, 28_794_124, 29_012_513),
    (512, 8, 30_276_583, 28_982_849),
    (256, 8, 30_034_338, 28_864_129),
  ],
)
def test_published_parameter_counts(side, layers, generator, discriminator):
  g, d = STYLEGAN["stylegan2"]
  g = g.clone(mapping_layers=layers, image_shape=(side, side, 3))
  z, x = jax.ShapeDtypeStruct((1, 512), jnp.float32), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  assert count(jax.eval_shape(g.init, jax.random.key(0), z)["params"]) == generator
  assert count(jax.eval_shape(d.init, jax.random.key(0), x)["params"]) == discriminator


@pytest.mark.parametrize("side", [28, 32])
def test_the_small_networks_fit_28_and_32_pixels(side):
  g, d = STYLEGAN["small"]
  g = g.clone(image_shape=(side, side, 1))
  images, _ = jax.eval_shape(g.init_with_output, jax.random.key(0), normal(0, 2, g.latent_dim))
  assert images.shape == (2, side, side, 1)
  variables = jax.eval_shape(d.init, jax.random.key(0), images)
  logits, sown = jax.eval_shape(functools.partial(d.apply, mutable=["intermediates"]), variables, images)
  assert logits.shape == (2,)
  assert sown["intermediates"]["features"][0].shape == (2, 64)
  assert variables["params"]["from_image"]["kernel"].shape[-1] == 16


def test_modulated_convolution_is_a_kernel_of_its_own_for_each_image():
  x, kernel, style = normal(0, 3, 5, 5, 4), normal(1, 3, 3, 4, 6), normal(2, 3, 4)
  kernels = kernel * style[:, None, None, :, None]
  kernels /= np.sqrt((kernels**2).sum((1, 2, 3), keepdims=True))
  for up in (False, True):
    options = {"padding": ((2, 2),) * 2, "lhs_dilation": (2, 2)} if up else {"padding": "SAME"}
    own = [
      lax.conv_general_dilated(image[None], k, (1, 1), dimension_numbers=NHWC, **options)
      for image, k in zip(x, kernels, strict=True)
    ]
    expected = jnp.concatenate(own)
    if up:
      expected = filtered(expected, 4 * FIR, (1, 1))
    actual = once(functools.partial(modulated_convolution, up=up))(x, kernel, style)
    assert actual.shape == ((3, 10, 10, 6) if up else (3, 5, 5, 6))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_demodulated_outputs_have_unit_variance():
  x, kernel = normal(0, 8, 34, 34, 5), 3 * normal(1, 3, 3, 5, 4)
  style = np.random.default_rng(2).uniform(0.1, 10, (8, 5)).astype(np.float32)
  y = once(modulated_convolution)(x, kernel, style)[:, 1:-1, 1:-1]  # zeros lie around the rest
  np.testing.assert_allclose(y.std((1, 2)), 1, atol=0.1)
  assert y.std() == pytest.approx(1, abs=0.02)


def test_blur_and_upsample_are_filters_of_the_paper():
  x = normal(0, 2, 6, 6, 3)
  np.testing.assert_allclose(blur(x, (2, 1)), filtered(x, FIR, (2, 1)), atol=1e-6)
  np.testing.assert_allclose(blur(x, (1, 1), stride=2), filtered(x, FIR, (1, 1), stride=2), atol=1e-6)
  np.testing.assert_allclose(upsample(x), filtered(x, 4 * FIR, (2, 2), gap=2), atol=1e-6)
  np.testing.assert_allclose(upsample(np.ones((1, 4, 4, 1)))[:, 1:-1, 1:-1], 1, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_halving_blurs_before_it_strides(size):
  layer, x = ScaledConv(4, size, down=True), normal(0, 2, 8, 8, 3)
  variables = layer.init(jax.random.key(0), x)
  kernel = variables["params"]["kernel"] / np.sqrt(size * size * 3)
  blurred = filtered(x, FIR, (1 + size // 2,) * 2)
  expected = lax.conv_general_dilated(blurred, kernel, (2, 2), "VALID", dimension_numbers=NHWC)
  assert expected.shape == (2, 4, 4, 4)
  np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


def test_weights_are_scaled_where_they_are_used():
  x = normal(0, 200, 50)
  for rate in (1.0, 0.01):
    layer = ScaledDense(30, start=1.0, rate=rate)
    variables = layer.init(jax.random.key(0), x)
    assert variables["params"]["kernel"].std() * rate == pytest.approx(1, rel=0.05)
    assert (layer.apply(variables, x) - rate).std() == pytest.approx(1, rel=0.05)
    gradient = jax.grad(lambda v, layer=layer: layer.apply(v, x).sum())(variables)["params"]["kernel"]
    np.testing.assert_allclose(gradient[:, 0], rate * x.sum(0) / np.sqrt(50), rtol=1e-3, atol=1e-5)


def test_mixed_styles_change_once_at_a_random_layer():
  first, second = np.zeros((4000, 1), np.float32), np.ones((4000, 1), np.float32)
  styles = np.asarray(mix_styles(jax.random.key(0), first, second, 5, 0.8))[:, :, 0]  # [L, B]
  assert np.all(np.diff(styles, axis=0) >= 0)
  shares = np.bincount(styles.sum(0).astype(int), minlength=5) / 4000
  np.testing.assert_allclose(shares, [0.2, 0.2, 0.2, 0.2, 0.2], atol=0.03)


def test_mixing_changes_images_unless_there_is_one_style():
  variables = networks()[1]
  images = [drawn(True, mixing)(variables)[0] for mixing in (0.0, 1.0)]
  assert np.abs(images[0] - images[1]).max() > 1e-3
  one = in_params(variables, lambda path, leaf: leaf * ("mapping" not in path or "kernel" not in path))
  one = in_params(one, lambda path, leaf: leaf + ("mapping" in path and "bias" in path))
  images = [drawn(True, mixing)(one)[0] for mixing in (0.0, 1.0)]
  np.testing.assert_allclose(images[0], images[1], atol=1e-5)


def style_of(variables):
  """The mapping network by hand: w [B, W] of `Z` and `LABELS`."""
  params = jax.device_get(variables["params"]["mapping"])
  embedded = np.eye(3)[LABELS] @ params["embed"]["kernel"] / np.sqrt(3) + params["embed"]["bias"]
  parts = [x / np.sqrt((x**2).mean(1, keepdims=True)) for x in (Z, embedded)]
  x = np.concatenate(parts, axis=1)
  for name in ("layer1", "layer2"):
    x = 0.01 * (x @ params[name]["kernel"] / np.sqrt(x.shape[1]) + params[name]["bias"])
    x = np.sqrt(2) * np.where(x > 0, x, 0.2 * x)
  return x.astype(np.float32)


def test_the_mean_style_is_followed_in_training_and_its_image_has_truncation_zero():
  variables = networks()[1]
  w = style_of(variables)
  _, changed = drawn(True)(variables)
  np.testing.assert_allclose(changed["w_average"]["mean"], 0.005 * w.mean(0), rtol=1e-4, atol=1e-7)

  at = variables | {"w_average": {"mean": w[2]}}
  images, same = drawn(False)(at, truncation=0.0)
  np.testing.assert_array_equal(same["w_average"]["mean"], w[2])
  np.testing.assert_allclose(images, np.broadcast_to(images[:1], images.shape), atol=1e-5)
  plain, _ = drawn(False)(at)
  np.testing.assert_allclose(images[2], plain[2], atol=1e-5)
  assert np.abs(plain[1] - plain[2]).max() > 1e-3


def test_noise_starts_at_strength_zero_and_samples_stay_in_minus_one_to_one():
  variables, draw = networks()[1], drawn(False)
  first, second = (draw(variables, seed=seed)[0] for seed in (0, 1))
  np.testing.assert_array_equal(first, second)
  noisy = in_params(variables, lambda path, leaf: leaf + ("noise_strength" in path))
  first, second = (draw(noisy, seed=seed)[0] for seed in (0, 1))
  assert np.abs(first - second).max() > 1e-2
  large = in_params(variables, lambda path, leaf: leaf * (30 if "['image8']['kernel']" in path else 1))
  assert np.abs(draw(large)[0]).max() == 1
  assert np.abs(drawn(True)(large)[0]).max() > 1  # gradients need the overshoot


def test_labels_reach_both_conditional_networks():
  _, variables, d, d_variables = networks()
  other = np.array([0, 1, 2, 0])
  score = once(lambda label: d.apply(d_variables, X, label))
  for least, run in ((1e-3, lambda label: drawn(False)(variables, label)[0]), (1e-4, score)):
    difference = np.abs(run(LABELS) - run(other))
    assert difference[:3].max() < 1e-6
    assert difference[3].max() > least


def test_minibatch_deviation_by_hand():
  x, mask = normal(0, 8, 2, 2, 3), np.array([1, 1, 1, 1, 1, 1, 0, 1])
  y = minibatch_deviation(x, mask)
  np.testing.assert_array_equal(y[..., :3], x)
  for rows, kept in ((slice(0, 4), [0, 1, 2, 3]), (slice(4, 8), [4, 5, 7])):
    np.testing.assert_allclose(y[rows, ..., 3], x[kept].std(0).mean(), rtol=1e-5)
  np.testing.assert_array_equal(minibatch_deviation(x[:4]), y[:4])  # so that devices may share a batch
  assert minibatch_deviation(x[:3]).shape == (3, 2, 2, 4)


def test_r1_can_be_differentiated():
  _, _, d, variables = networks()

  def penalty(params):
    return jnp.square(jax.grad(lambda x: d.apply({"params": params}, x, LABELS, train=True).sum())(X)).sum()

  params = variables["params"]
  value, gradient = jax.device_get(once(jax.value_and_grad(penalty))(params))
  assert value > 1e-3
  # Without biases the logit is linear in the size of each of these kernels, so that the penalty is quadratic in
  # it: Euler's theorem on homogeneous functions.
  for name in ("from_image", "conv", "hidden", "output"):
    slope = (gradient[name]["kernel"] * params[name]["kernel"]).sum()
    assert slope == pytest.approx(2 * value, rel=1e-3)


@pytest.mark.parametrize(
  ("model", "change", "said"),
  [
    (Generator, {"mapping_layers": 0}, "generator.mapping_layers=0 is too small"),
    (Generator, {"mixing": 1.5}, "generator.mixing=1.5 has to be between"),
    (Discriminator, {"max_width": 0}, "discriminator.max_width=0 is too small"),
  ],
)
def test_impossible_values_are_refused(model, change, said):
  with pytest.raises(UserError, match=said):
    model(**change)
