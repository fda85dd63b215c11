"""ResNet: published counts, shapes of the maps, plain networks, selectable parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.models.resnet import KERAS_RESNET50, RESNET

PUBLISHED = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
TINY = RESNET[18].clone(width=4, stem="small", num_classes=10)


def shapes(model, side, channels=3):
  return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, channels))))


def count(tree):
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameters_are_the_published_ones(depth):
  assert count(shapes(RESNET[depth].clone(num_classes=1000), 224)["params"]) == PUBLISHED[depth]


def test_the_variant_of_keras_has_biases():
  assert count(shapes(KERAS_RESNET50.clone(num_classes=1000), 224)) == 25_636_712


def test_maps_of_an_imagenet_image_have_the_sides_of_table_1():
  model = RESNET[50].clone(num_classes=1000)
  maps = jax.eval_shape(
    lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, 224, 224, 3)), features=True)[0]
  )
  sides = {name: leaf.shape[1:] for name, leaf in maps.items()}
  assert sides == {
    "conv1": (112, 112, 64),
    "conv2": (56, 56, 256),
    "conv3": (28, 28, 512),
    "conv4": (14, 14, 1024),
    "conv5": (7, 7, 2048),
    "pool": (2048,),
  }


def test_a_small_image_keeps_its_side_in_the_stem():
  maps = jax.eval_shape(
    lambda: TINY.init_with_output(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), features=True)[0]
  )
  assert [maps[f"conv{i}"].shape[1] for i in range(1, 6)] == [32, 32, 16, 8, 4]


def test_a_plain_network_has_no_shortcut():
  with_, without = shapes(TINY, 32)["params"], shapes(TINY.clone(residual=False), 32)["params"]
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
  x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
  variables = model.init(jax.random.key(0), x)

  def loss(params):
    rest = {name: value for name, value in variables.items() if name != "params"}
    logits, _ = model.apply({"params": params, **rest}, x, train=True, mutable=list(rest))
    return (logits**2).mean()

  gradient = jax.grad(loss)(variables["params"])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient["conv1"]))
