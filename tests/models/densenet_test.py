"""DenseNet: published counts, shapes of the maps, what dense means, every norm."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from networks import assert_reach, count, gradients_of, maps_of, shapes_of, variables_of

from dlcourse.errors import UserError
from dlcourse.models.densenet import DENSENET, DENSENET_BC_100, KERAS_DENSENET121

PUBLISHED = {121: 7_978_856, 169: 14_149_480, 201: 20_013_928}
TINY = DENSENET[121].clone(depths=(1, 1), growth=2, stem="small", num_classes=3)
X = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("layers", PUBLISHED)
def test_parameters_are_the_published_ones(layers):
  assert count(shapes_of(DENSENET[layers].clone(num_classes=1000), 224)["params"]) == PUBLISHED[layers]


def test_the_network_for_small_images_has_the_parameters_of_table_2():
  assert (
    count(shapes_of(DENSENET_BC_100.clone(num_classes=10), 32)["params"]) == 769_162
  )  # 0.8 million in the paper


def test_maps_of_an_imagenet_image_have_the_sides_of_table_1():
  assert maps_of(KERAS_DENSENET121.clone(num_classes=1000), 224) == {
    "conv1": (112, 112, 64),
    "dense1": (56, 56, 256),
    "dense2": (28, 28, 512),
    "dense3": (14, 14, 1024),
    "dense4": (7, 7, 1024),
    "pool": (1024,),
  }


def test_a_small_image_keeps_its_side_in_the_stem():
  maps = maps_of(DENSENET[121].clone(depths=(1, 1, 1, 1), stem="small", num_classes=10), 32)
  assert [shape[0] for shape in maps.values()] == [32, 32, 16, 8, 4, maps["dense4"][2]]


def test_a_dense_block_keeps_its_input_and_a_transition_half_of_the_maps():
  variables = variables_of(TINY, X)
  maps = jax.jit(lambda: TINY.apply(variables, X, features=True))()
  np.testing.assert_array_equal(maps["dense1"][..., :4], maps["conv1"])
  assert maps["dense1"].shape == (2, 32, 32, 4 + 2)
  assert maps["dense2"].shape == (2, 16, 16, (4 + 2) // 2 + 2)


def test_no_convolution_has_a_bias():
  arrays = flatten_dict(jax.eval_shape(TINY.init, jax.random.key(0), X)["params"])
  kernels = [path[:-1] for path in arrays if path[-1] == "kernel"]
  assert [layer for layer in kernels if (*layer, "bias") in arrays] == [("output",)]


@pytest.mark.parametrize(("stem", "least"), [("large", 29), ("small", 8)])
def test_images_of_which_nothing_would_be_left_are_refused(stem, least):
  model = DENSENET[121].clone(depths=(1, 1, 1, 1), growth=2, stem=stem, num_classes=3)
  assert maps_of(model, least)["dense4"][0] == 1
  with pytest.raises(UserError, match="too small for this network"):
    maps_of(model, least - 1)


def test_layers_without_a_map_are_refused():
  with pytest.raises(UserError, match=r"--task\.model\.growth=0"):
    TINY.clone(growth=0)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_every_norm_trains(norm):
  assert_reach(gradients_of(TINY.clone(norm=norm), X), ["conv1"])
