"""EfficientNet: published counts, shapes of the maps, squeeze-and-excite, stochastic depth, every norm."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_reach, count, gradients_of, maps_of, shapes_of

from dlcourse.errors import UserError
from dlcourse.models.convolution import Conv
from dlcourse.models.efficientnet import (
  EFFICIENTNET,
  EFFICIENTNET_LITE,
  RESOLUTION,
  TORCH_EFFICIENTNET_B0,
  MBConv,
)
from dlcourse.models.layers import activate, normalisation

PUBLISHED = [
  5_288_548,
  7_794_184,
  9_109_994,
  12_233_232,
  19_341_616,
  30_389_784,
  43_040_704,
  66_347_960,
]
LITE = [4_652_008, 5_416_680, 6_092_072, 8_197_096, 13_006_568]
TINY = EFFICIENTNET[0].clone(
  width=0.25, filters=(32, 64), depths=(1, 1), kernels=(3, 5), strides=(1, 2), stem="small", num_classes=3
)
X = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)


def map_sides(model, side):
  maps = maps_of(model, side)
  return [maps[name][0] for name in ("conv1", *(f"stage{s}" for s in range(1, 8)), "conv2", "pool")]


def block(drop=0.0, squeeze=0.25, norm="none"):
  conv, act = functools.partial(Conv, use_bias=False), functools.partial(activate, "swish")
  return MBConv(8, 3, 1, 2, squeeze, drop, conv=conv, norm=normalisation(norm, train=False), act=act)


@pytest.mark.parametrize("variant", EFFICIENTNET)
def test_parameters_are_the_published_ones(variant):
  assert (
    count(shapes_of(EFFICIENTNET[variant].clone(num_classes=1000), RESOLUTION[variant])["params"])
    == PUBLISHED[variant]
  )


@pytest.mark.parametrize("variant", EFFICIENTNET_LITE)
def test_parameters_of_the_lite_variants_are_the_published_ones(variant):
  assert count(shapes_of(EFFICIENTNET_LITE[variant].clone(num_classes=1000), 224)["params"]) == LITE[variant]


@pytest.mark.parametrize(
  ("model", "side", "sides"),
  [
    (EFFICIENTNET[0], 224, [112, 112, 56, 28, 14, 14, 7, 7, 7, 1280]),
    (TORCH_EFFICIENTNET_B0, 224, [112, 112, 56, 28, 14, 14, 7, 7, 7, 1280]),
    (EFFICIENTNET[2], 260, [130, 130, 65, 33, 17, 17, 9, 9, 9, 1408]),  # through odd sides
    (EFFICIENTNET[0].clone(stem="small"), 32, [32, 32, 32, 16, 8, 8, 4, 4, 4, 1280]),
  ],
)
def test_maps_have_the_sides_of_table_1(model, side, sides):
  assert map_sides(model.clone(num_classes=10), side) == sides


@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_at_stride_2_is_what_keras_pads(kernel):
  for side in range(2, 30):
    low, high = jax.lax.padtype_to_pads([side], [kernel], [2], "SAME")[0]
    assert (low, high) == (kernel // 2 - (1 - side % 2), kernel // 2)  # imagenet_utils.correct_pad


def test_squeeze_and_excite_is_a_quarter_of_the_input_wide_and_scales_each_channel():
  x = jax.random.normal(jax.random.key(1), (2, 4, 4, 8))
  with_, variables = block().init_with_output(jax.random.key(0), x, False)
  params = variables["params"]
  assert params["squeeze"]["kernel"].shape == (1, 1, 16, 2)
  closed = {**params, "excite": jax.tree.map(jnp.zeros_like, params["excite"])}  # sigmoid(0) = 1/2
  plain = block(squeeze=0.0).apply(variables, x, False)
  np.testing.assert_allclose(block().apply({"params": closed}, x, False) - x, (plain - x) / 2, atol=1e-5)
  assert not np.allclose(with_, plain, atol=1e-3)


def test_stochastic_depth_is_the_identity_at_evaluation_and_keeps_the_expectation_in_training():
  images, drop = 4000, 0.3
  x = jax.random.normal(jax.random.key(1), (1, 2, 2, 8))
  variables = block().init(jax.random.key(0), x, False)
  branch = block().apply(variables, x, False) - x
  np.testing.assert_array_equal(block(drop).apply(variables, x, False) - x, branch)
  many = jnp.broadcast_to(x, (images, 2, 2, 8))
  trained = block(drop).apply(variables, many, True, rngs={"dropout": jax.random.key(2)}) - x
  ratio = np.asarray(trained / branch)
  assert np.allclose(ratio, ratio[:, :1, :1, :1], atol=1e-2)  # a whole branch, or nothing of it
  kept = ratio[:, 0, 0, 0] > 0.5
  np.testing.assert_allclose(ratio[:, 0, 0, 0], np.where(kept, 1 / (1 - drop), 0), atol=1e-2)
  assert abs(kept.mean() - (1 - drop)) < 4 * np.sqrt(drop * (1 - drop) / images)


def test_the_probability_of_being_dropped_rises_linearly_with_depth():
  rates = {}

  def record(call, args, kwargs, context):
    if isinstance(context.module, nn.Dropout) and context.module.broadcast_dims:
      rates[context.module.path[0]] = context.module.rate
    return call(*args, **kwargs)

  model = EFFICIENTNET[0].clone(num_classes=10)
  with nn.intercept_methods(record):
    jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
  # Blocks 0 to 15 of 16; those that change the shape have no shortcut to fall back on.
  expected = {"stage2_2": 2, "stage3_2": 4, "stage4_2": 6, "stage4_3": 7, "stage5_2": 9, "stage5_3": 10}
  expected |= {"stage6_2": 12, "stage6_3": 13, "stage6_4": 14}
  assert rates == pytest.approx({name: 0.2 * index / 16 for name, index in expected.items()})


def test_stages_need_all_their_numbers():
  with pytest.raises(UserError, match="one number for every stage"):
    TINY.clone(depths=(1, 1, 1))


@pytest.mark.parametrize("field", ["dropout", "drop_connect", "momentum"])
def test_a_probability_of_one_is_refused(field):
  with pytest.raises(UserError, match=rf"--task\.model\.{field}=1"):
    TINY.clone(**{field: 1})


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_every_norm_trains(norm):
  assert_reach(gradients_of(TINY.clone(norm=norm), X), ["conv1"])
