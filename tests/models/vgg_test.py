"""VGG: published counts, sides of the maps, dropout."""

import jax
import numpy as np
import pytest
from networks import assert_reach, count, gradients_of, maps_of, once, shapes_of

from dlcourse.errors import UserError
from dlcourse.models.vgg import VGG

PUBLISHED = {11: 132_863_336, 13: 133_047_848, 16: 138_357_544, 19: 143_667_240}
TINY = VGG[11].clone(width=4, stem="small", dense_dim=8, num_classes=3)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameters_and_weight_layers_are_the_published_ones(depth):
  model = VGG[depth].clone(num_classes=1000)
  params = shapes_of(model, 224)["params"]
  assert count(params) == PUBLISHED[depth]
  assert len(params) == depth
  assert {"conv1_1", "conv5_1", "fc6", "fc7", "output"} < set(params)


def test_maps_of_an_imagenet_image_have_the_sides_of_the_paper():
  assert maps_of(VGG[16], 224) == {
    "conv1": (224, 224, 64),
    "conv2": (112, 112, 128),
    "conv3": (56, 56, 256),
    "conv4": (28, 28, 512),
    "conv5": (14, 14, 512),
    "pool": (7 * 7 * 512,),
    "fc6": (4096,),
    "fc7": (4096,),
  }


@pytest.mark.parametrize("side", [32, 200, 300])
def test_images_of_other_sides_give_fc6_the_same_size(side):
  assert maps_of(VGG[11], side)["pool"] == (7 * 7 * 512,)


def test_a_small_image_ends_in_one_pixel():
  shapes = maps_of(VGG[16].clone(stem="small", dense_dim=512), 32)
  assert [shapes[f"conv{i}"][0] for i in range(1, 6)] == [32, 16, 8, 4, 2]
  assert shapes["pool"] == shapes["fc6"] == (512,)
  with pytest.raises(UserError, match="31x31 are too small"):
    maps_of(TINY, 31)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"dropout": 1.0}, "task.model.dropout=1.0"),
    ({"depths": (1, 1, 0, 1, 1)}, "task.model.depths=0"),
    ({"width": 0}, "task.model.width=0"),
    ({"dense_dim": 0}, "task.model.dense_dim=0"),
  ],
)
def test_fields_that_cannot_work_are_refused(fields, message):
  with pytest.raises(UserError, match=message):
    VGG[11].clone(**fields)


def test_units_are_dropped_only_in_training():
  x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
  variables = once(TINY.init)(jax.random.key(0), x)
  train = once(lambda key: TINY.apply(variables, x, train=True, rngs={"dropout": key}))
  assert np.any(train(jax.random.key(0)) != train(jax.random.key(1)))
  evaluated = [once(model.apply)(variables, x) for model in (TINY, TINY.clone(dropout=0.9))]
  np.testing.assert_array_equal(*evaluated)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_every_norm_trains(norm):
  model = TINY.clone(norm=norm, activation="gelu")
  gradients = gradients_of(model, jax.random.normal(jax.random.key(1), (2, 32, 32, 3)))
  assert_reach(gradients, ["conv1_1"])
  assert ("bias" in gradients["conv1_1"]) == (norm == "none")
