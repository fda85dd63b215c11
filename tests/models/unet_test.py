import functools

import jax
import numpy as np
import pytest
from networks import count, once, variables_of

from dlcourse.errors import UserError
from dlcourse.models.unet import PatchDiscriminator, UNet


def shapes(model, side, channels):
  return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, side, side, channels), np.float32))


@pytest.mark.parametrize(("side", "published"), [(256, 54_413_955), (128, 41_828_995)])
def test_the_u_net_has_the_parameters_of_the_authors_code(side, published):
  assert count(shapes(UNet(image_shape=(side, side, 3)), side, 3)["params"]) == published


@pytest.mark.parametrize(("depth", "published"), [(3, 2_768_705), (1, 139_585)])
def test_the_judge_of_patches_of_70_and_16_pixels_has_the_parameters_of_the_authors_code(depth, published):
  assert count(shapes(PatchDiscriminator(depth=depth), 256, 6)["params"]) == published


def test_maps_double_up_to_eight_times_and_halve_down_to_a_pixel():
  params = shapes(UNet(width=2, image_shape=(64, 64, 1)), 64, 3)["params"]
  kernels = {name: layer["kernel"].shape[2:] for name, layer in params.items() if "kernel" in layer}
  down = [kernels[f"down_{i}"] for i in range(6)]
  assert down == [(3, 2), (2, 4), (4, 8), (8, 16), (16, 16), (16, 16)]
  up = [kernels[f"up_{i}"] for i in range(5)]
  assert up == [(8, 2), (16, 4), (32, 8), (32, 16), (16, 16)]
  assert kernels["output"] == (4, 1)
  fewer = shapes(UNet(width=2, depth=2, image_shape=(28, 28, 1)), 28, 3)["params"]
  assert set(fewer) == {"down_0", "down_1", "up_0", "up_norm_0", "output"}


@functools.cache
def u_net():
  model = UNet(width=2, image_shape=(16, 16, 3))
  x = np.random.default_rng(1).normal(size=(3, 16, 16, 1)).astype(np.float32)
  return model, jax.device_get(variables_of(model, x)), x


def test_images_have_the_shape_of_the_data_and_lie_in_minus_one_to_one():
  model, variables, x = u_net()
  images = once(model.apply)(variables, 100 * x)
  assert images.shape == (3, 16, 16, 3)
  assert np.all(np.abs(images) <= 1)
  assert images.max() > 0.99
  assert images.min() < -0.99


def test_each_side_of_the_encoder_reaches_the_image_past_what_is_further_in():
  model, variables, x = u_net()
  apply = once(model.apply)
  other = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
  decoder = ("output", "up_0", "up_1")
  for open_side in (None, *decoder):
    params = dict(variables["params"]) | {"up_2": {"kernel": 0 * variables["params"]["up_2"]["kernel"]}}
    for name in decoder:
      if name != open_side:
        kernel = params[name]["kernel"].copy()
        kernel[:, :, : kernel.shape[2] // 2] = 0  # maps of the encoder come before those of the decoder
        params[name] = {**params[name], "kernel": kernel}
    trees = {**variables, "params": params}
    assert (np.abs(apply(trees, x) - apply(trees, other)).max() > 1e-4) == (open_side is not None)


def test_dropout_draws_from_the_stream_noise_in_training_only():
  model, variables, x = u_net()

  @once
  def train(seed):
    rngs = {"noise": jax.random.key(seed)}
    return model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])[0]

  assert np.abs(train(0) - train(1)).max() > 1e-3
  np.testing.assert_array_equal(train(0), train(0))
  model.apply(variables, x)  # without a stream


@functools.cache
def judge(norm):
  model = PatchDiscriminator(width=2, depth=1, norm=norm)
  x = np.random.default_rng(0).normal(size=(4, 24, 24, 2)).astype(np.float32)
  variables = jax.device_get(once(functools.partial(model.init, train=True))(jax.random.key(1), x))
  mutable = ["intermediates", "batch_stats"]
  apply = once(lambda v, x, mask: model.apply(v, x, train=True, mask=mask, mutable=mutable))
  return variables, x, lambda v, x, mask=None: apply(v, x, np.ones(4, np.float32) if mask is None else mask)


def test_a_logit_is_the_mean_over_patches_of_16_pixels():
  variables, x, apply = judge("none")
  model = PatchDiscriminator(width=2, depth=1, norm="none")

  def patches(x):
    _, kept = model.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
    return kept["intermediates"]["output"]["__call__"][0]

  logits, kept = apply(variables, x)
  found = once(patches)(x)
  assert found.shape == (4, 10, 10, 1)
  np.testing.assert_allclose(logits, np.asarray(found).mean((1, 2, 3)), rtol=1e-5)
  (features,) = kept["intermediates"]["features"]
  assert features.shape == (4, 11, 11, 4)
  slope = once(jax.grad(lambda x: patches(x)[0, 5, 5, 0]))(x)
  rows, columns = np.nonzero(np.abs(slope).sum((0, 3)))
  assert rows.max() - rows.min() + 1 == 16
  assert columns.max() - columns.min() + 1 == 16


def test_layer_norm_sees_one_image_and_batch_norm_the_images_that_count():
  for norm, independent in (("layer", True), ("batch", False)):
    variables, x, apply = judge(norm)
    changed = np.concatenate([x[:3], 3 * x[3:]])
    difference = np.abs(apply(variables, x)[0] - apply(variables, changed)[0])
    assert (difference[0] < 1e-6) == independent
    assert difference[3] > 1e-6
    mask = np.array([1, 1, 1, 0], np.float32)
    masked = np.abs(apply(variables, x, mask)[0] - apply(variables, changed, mask)[0])
    assert np.all(masked[:3] < 1e-6)


def test_spectral_norm_takes_the_scale_of_every_kernel():
  variables, x, apply = judge("spectral")
  assert set(variables["spectral"]) == {"conv_0", "conv_1", "output"}
  larger = jax.tree.map(lambda leaf: leaf * (10 if leaf.ndim > 1 else 1), variables["params"])
  np.testing.assert_allclose(
    apply(variables | {"params": larger}, x)[0], apply(variables, x)[0], rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize(
  ("model", "field", "value"),
  [
    (UNet, "generator.width", 0),
    (UNet, "generator.depth", 1),
    (UNet, "generator.dropout", 1.0),
    (PatchDiscriminator, "discriminator.width", 0),
    (PatchDiscriminator, "discriminator.depth", 0),
  ],
)
def test_a_number_that_makes_no_network_is_refused(model, field, value):
  with pytest.raises(UserError, match=f"--task.{field}={value}"):
    model(**{field.split(".")[1]: value})


@pytest.mark.parametrize(
  ("model", "source", "said"),
  [
    (UNet(image_shape=(28, 28, 1)), 28, "16, 32, 64 …, not 28"),
    (UNet(image_shape=(8, 8, 1)), 8, "not 8"),
    (UNet(depth=3, image_shape=(28, 28, 1)), 28, "depth=3 needs images whose side 8 divides, not 28"),
    (UNet(image_shape=(32, 32, 1)), 8, "source, 8, and the image's is 32; SRResNet enlarges"),
    (PatchDiscriminator(), 16, "depth=3 needs images of side 24 or more, not 16"),
  ],
)
def test_sides_that_do_not_fit_are_refused(model, source, said):
  with pytest.raises(UserError, match=said):
    shapes(model, source, 1)
