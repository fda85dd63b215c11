"""ResNet: published counts, shapes of the maps, plain networks, selectable parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_reach, count, gradients_of, maps_of, shapes_of

from dlcourse.models.resnet import KERAS_RESNET50, RESNET

PUBLISHED = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
TINY = RESNET[18].clone(width=4, stem="small", num_classes=10)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameters_are_the_published_ones(depth):
  assert count(shapes_of(RESNET[depth].clone(num_classes=1000), 224)["params"]) == PUBLISHED[depth]


def test_the_variant_of_keras_has_biases():
  assert count(shapes_of(KERAS_RESNET50.clone(num_classes=1000), 224)) == 25_636_712


def test_maps_of_an_imagenet_image_have_the_sides_of_table_1():
  model = RESNET[50].clone(num_classes=1000)
  assert maps_of(model, 224) == {
    "conv1": (112, 112, 64),
    "conv2": (56, 56, 256),
    "conv3": (28, 28, 512),
    "conv4": (14, 14, 1024),
    "conv5": (7, 7, 2048),
    "pool": (2048,),
  }


def test_a_small_image_keeps_its_side_in_the_stem():
  maps = maps_of(TINY, 32)
  assert [maps[f"conv{i}"][0] for i in range(1, 6)] == [32, 32, 16, 8, 4]


def test_a_plain_network_has_no_shortcut():
  with_, without = shapes_of(TINY, 32)["params"], shapes_of(TINY.clone(residual=False), 32)["params"]
  projections = sum(
    count([block["project"], block["norm_project"]]) for block in with_.values() if "project" in block
  )
  assert count(with_) - count(without) == projections > 0


def test_a_block_of_zero_weights_is_the_identity_only_with_a_shortcut():
  x = jnp.abs(jax.random.normal(jax.random.key(1), (2, 8, 8, 4)))  # a ReLU leaves it alone
  for residual, expected in ((True, x), (False, jnp.zeros_like(x))):
    model = RESNET[18].clone(depths=(1,), width=4, stem="small", residual=residual, num_classes=2)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    eye = jnp.zeros((3, 3, 4, 4)).at[1, 1].set(jnp.eye(4))
    params["conv1"]["kernel"], params["norm1"]["scale"] = eye, jnp.full(4, jnp.sqrt(1 + 1e-5))
    maps = model.apply({**variables, "params": params}, x, features=True)
    np.testing.assert_allclose(maps["conv2"], expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_every_norm_trains(norm):
  model = TINY.clone(depths=(1, 1), norm=norm, activation="gelu")
  assert_reach(gradients_of(model, jax.random.normal(jax.random.key(1), (4, 8, 8, 3))), ["conv1"])
