"""VGG: published counts, sides of the maps, dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.vgg import VGG

PUBLISHED = {11: 132_863_336, 13: 133_047_848, 16: 138_357_544, 19: 143_667_240}
TINY = VGG[11].clone(width=4, stem="small", dense_dim=8, num_classes=3)
# Programs that run once: compiling them is what takes the time.
once = functools.partial(
  jax.jit,
  compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False},
)


def maps_of(model, side):
  images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  maps, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, features=True), images)
  return {name: leaf.shape[1:] for name, leaf in maps.items()}


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameters_and_weight_layers_are_the_published_ones(depth):
  model = VGG[depth].clone(num_classes=1000)
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PUBLISHED[depth]
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
  x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
  variables = once(model.init)(jax.random.key(0), x)
  rest = {name: value for name, value in variables.items() if name != "params"}

  @once
  @jax.grad
  def gradient(params):
    rngs = {"dropout": jax.random.key(2)}
    logits, _ = model.apply({"params": params, **rest}, x, train=True, mutable=list(rest), rngs=rngs)
    return (logits**2).mean()

  leaves = gradient(variables["params"])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(leaves))
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(leaves["conv1_1"]))
  assert ("bias" in leaves["conv1_1"]) == (norm == "none")
