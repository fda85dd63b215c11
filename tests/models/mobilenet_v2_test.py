"""MobileNetV2: published counts at every width, shapes of the maps, its block, every norm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_reach, count, gradients_of, maps_of, shapes_of, variables_of

from dlcourse.errors import UserError
from dlcourse.models.convolution import Conv
from dlcourse.models.layers import activate, divisible_by_8, normalisation
from dlcourse.models.mobilenet_v2 import KERAS_MOBILENET_V2, MOBILENET_V2, InvertedResidual

# Trainable parameters of keras.applications.MobileNetV2(alpha=width), counted with Keras 3.15.
PUBLISHED = {
  0.35: 1_677_128,
  0.5: 1_968_680,
  0.75: 2_636_424,
  1.0: 3_504_872,
  1.3: 5_386_792,
  1.4: 6_108_776,
}
TINY = MOBILENET_V2.clone(
  width=0.25, filters=(32, 64), depths=(1, 1), strides=(1, 2), stem="small", num_classes=3
)
X = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)


def map_sides(model, side):
  maps = maps_of(model, side)
  return [maps[name][0] for name in ("conv1", *(f"stage{s}" for s in range(1, 8)), "conv2", "pool")]


@pytest.mark.parametrize("width", PUBLISHED)
def test_parameters_are_the_published_ones(width):
  model = MOBILENET_V2.clone(width=width, num_classes=1000)
  assert count(shapes_of(model, 224)["params"]) == PUBLISHED[width]


@pytest.mark.parametrize(
  ("filters", "rounded"), [(1, 8), (11.2, 16), (12, 16), (19.9, 24), (44.8, 48), (83, 80)]
)
def test_filters_are_rounded_to_multiples_of_8_that_lose_no_tenth(filters, rounded):
  assert divisible_by_8(filters) == rounded >= 0.9 * filters


@pytest.mark.parametrize("variant", [MOBILENET_V2, KERAS_MOBILENET_V2])
def test_maps_of_an_imagenet_image_have_the_sides_of_table_2(variant):
  sides = [112, 112, 56, 28, 14, 14, 7, 7, 7, 1280]
  assert map_sides(variant.clone(num_classes=1000), 224) == sides


def test_a_small_image_keeps_its_side_up_to_the_second_stage():
  sides = [32, 32, 32, 16, 8, 8, 4, 4, 4, 1280]
  assert map_sides(MOBILENET_V2.clone(stem="small", num_classes=10), 32) == sides


@pytest.mark.parametrize(("stride", "filters"), [(1, 8), (2, 8), (1, 16)])
def test_a_block_has_a_shortcut_where_the_shape_stays_and_a_linear_end(stride, filters):
  norm, act = normalisation("none", train=False), functools.partial(activate, "relu6")
  block = InvertedResidual(filters, stride, 6, conv=functools.partial(Conv, use_bias=False), norm=norm, act=act)
  x = jax.random.normal(jax.random.key(1), (1, 6, 6, 8))
  y, variables = jax.jit(block.init_with_output)(jax.random.key(0), x)
  assert variables["params"]["depthwise"]["kernel"].shape == (3, 3, 1, 48)
  branch = y - x if y.shape == x.shape else y
  assert branch.min() < 0 < branch.max()  # a ReLU6 would leave nothing below 0
  zero = jax.tree.map(jnp.zeros_like, variables)
  expected = x if y.shape == x.shape else jnp.zeros((1, 6 // stride, 6 // stride, filters))
  np.testing.assert_array_equal(block.apply(zero, x), expected)


def test_the_two_paddings_differ_at_even_sides_only():
  around, same = (TINY.clone(padding=padding, stem="large", strides=(1, 1)) for padding in ("around", "same"))
  variables = variables_of(around, X)
  for side, equal in ((16, False), (17, True)):
    maps = jax.jit(lambda x: [model.apply(variables, x, features=True)["conv1"] for model in (around, same)])
    assert np.array_equal(*maps(X[:1, :side, :side])) == equal


def test_stages_need_all_their_numbers():
  with pytest.raises(UserError, match="one number for every stage"):
    TINY.clone(depths=(1, 1, 1))


def test_averages_that_never_move_are_refused():
  with pytest.raises(UserError, match=r"--task\.model\.momentum=1"):
    TINY.clone(momentum=1)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_every_norm_trains(norm):
  assert_reach(gradients_of(TINY.clone(norm=norm), X), ["conv1"])
