"""DenseNet: published counts, shapes of the maps, what dense means, every norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlcourse.errors import UserError
from dlcourse.models.densenet import DENSENET, DENSENET_BC_100, KERAS_DENSENET121

PUBLISHED = {121: 7_978_856, 169: 14_149_480, 201: 20_013_928}
TINY = DENSENET[121].clone(depths=(1, 1), growth=2, stem="small", num_classes=3)
X = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)


def randomised(model):
  """Variables without compiling their initialisation."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), X)
  return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def count(model, side):
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def map_shapes(model, side):
  maps = jax.eval_shape(
    lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, side, side, 3)), features=True)[0]
  )
  return {name: leaf.shape[1:] for name, leaf in maps.items()}


@pytest.mark.parametrize("layers", PUBLISHED)
def test_parameters_are_the_published_ones(layers):
  assert count(DENSENET[layers].clone(num_classes=1000), 224) == PUBLISHED[layers]


def test_the_network_for_small_images_has_the_parameters_of_table_2():
  assert count(DENSENET_BC_100.clone(num_classes=10), 32) == 769_162  # 0.8 million in the paper


def test_maps_of_an_imagenet_image_have_the_sides_of_table_1():
  assert map_shapes(KERAS_DENSENET121.clone(num_classes=1000), 224) == {
    "conv1": (112, 112, 64),
    "dense1": (56, 56, 256),
    "dense2": (28, 28, 512),
    "dense3": (14, 14, 1024),
    "dense4": (7, 7, 1024),
    "pool": (1024,),
  }


def test_a_small_image_keeps_its_side_in_the_stem():
  maps = map_shapes(DENSENET[121].clone(depths=(1, 1, 1, 1), stem="small", num_classes=10), 32)
  assert [shape[0] for shape in maps.values()] == [32, 32, 16, 8, 4, maps["dense4"][2]]


def test_a_dense_block_keeps_its_input_and_a_transition_half_of_the_maps():
  variables = jax.tree.map(np.abs, randomised(TINY))  # variances are positive
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
  assert map_shapes(model, least)["dense4"][0] == 1
  with pytest.raises(UserError, match="too small for this network"):
    map_shapes(model, least - 1)


def test_layers_without_a_map_are_refused():
  with pytest.raises(UserError, match=r"--task\.model\.growth=0"):
    TINY.clone(growth=0)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_every_norm_trains(norm):
  model = TINY.clone(norm=norm)
  variables = randomised(model)
  rest = {name: value for name, value in variables.items() if name != "params"}

  @jax.jit
  @jax.grad
  def gradient(params):
    logits, _ = model.apply({"params": params, **rest}, X, train=True, mutable=list(rest))
    return (logits**2).mean()

  gradients = gradient(variables["params"])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients["conv1"]))
