"""AlexNet: published counts, sides of the maps, response normalisation, groups, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_reach, count, gradients_of, maps_of, once, shapes_of

from dlcourse.errors import UserError
from dlcourse.models.alexnet import ALEXNET
from dlcourse.models.layers import adaptive_avg_pool, local_response_norm

PUBLISHED = {"one_tower": 61_100_840, "two_towers": 60_965_224}
TINY = ALEXNET["one_tower"].clone(filters=(4, 8, 8, 8, 4), stem="small", dense_dim=8, num_classes=3)


@pytest.mark.parametrize("side", [224, 227])
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name, side):
  model = ALEXNET[name].clone(num_classes=1000)
  assert count(shapes_of(model, side)["params"]) == PUBLISHED[name]


def test_maps_of_an_imagenet_image_are_those_of_figure_2():
  assert maps_of(ALEXNET["two_towers"], 224) == {
    "conv1": (55, 55, 96),
    "conv2": (27, 27, 256),
    "conv3": (13, 13, 384),
    "conv4": (13, 13, 384),
    "conv5": (13, 13, 256),
    "pool": (6 * 6 * 256,),
    "fc6": (4096,),
    "fc7": (4096,),
  }


def test_larger_images_give_fc6_the_same_size():
  assert maps_of(ALEXNET["one_tower"], 300)["pool"] == (6 * 6 * 256,)


def test_a_small_image_keeps_its_side_in_conv1():
  shapes = maps_of(TINY, 32)
  assert [shapes[f"conv{i}"][0] for i in range(1, 6)] == [32, 15, 7, 7, 7]
  assert shapes["pool"] == (3 * 3 * 4,)


@pytest.mark.parametrize(("stem", "least"), [("large", 63), ("small", 15)])
def test_images_that_would_vanish_are_refused(stem, least):
  model = TINY.clone(stem=stem)
  assert maps_of(model, least)["fc7"] == (8,)
  with pytest.raises(UserError, match=f"too small for this network, which takes {least}x{least} and more"):
    maps_of(model, least - 1)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"dropout": 1.0}, "task.model.dropout=1.0"),
    ({"filters": (4, 4, 0, 4, 4)}, "task.model.filters=0"),
    ({"dense_dim": 0}, "task.model.dense_dim=0"),
    ({"groups": 0}, "task.model.groups=0"),
    ({"groups": 3}, "task.model.groups=3 has to divide"),
  ],
)
def test_fields_that_cannot_work_are_refused(fields, message):
  with pytest.raises(UserError, match=message):
    ALEXNET["one_tower"].clone(**fields)


def test_with_two_groups_only_conv3_and_the_dense_layers_join_the_halves():
  model = TINY.clone(groups=2)
  x = jax.random.normal(jax.random.key(1), (1, 15, 15, 3))
  variables = once(model.init)(jax.random.key(0), x)
  moved = jax.tree.map(jnp.copy, variables)
  moved["params"]["conv1"]["bias"] = moved["params"]["conv1"]["bias"].at[:2].add(1.0)  # of the first half
  maps_of_both = once(lambda v: model.apply(v, x, features=True))
  before, after = maps_of_both(variables), maps_of_both(moved)
  changed = {name: np.any(before[name] != after[name], axis=(0, 1, 2)) for name in ("conv1", "conv2", "conv3")}
  assert changed["conv1"].tolist() == [True] * 2 + [False] * 2
  assert changed["conv2"][:4].any()
  assert not changed["conv2"][4:].any()
  assert changed["conv3"][4:].any()


def test_response_normalisation_is_the_formula_of_the_paper():
  k, n, alpha, beta = 2.0, 5, 1e-4, 0.75
  a = 100 * np.random.default_rng(0).normal(size=(2, 2, 3, 9))
  expected = np.zeros_like(a)
  channels = a.shape[-1]
  for i in range(channels):
    total = sum(a[..., j] ** 2 for j in range(max(0, i - n // 2), min(channels - 1, i + n // 2) + 1))
    expected[..., i] = a[..., i] / (k + alpha * total) ** beta
  np.testing.assert_allclose(local_response_norm(jnp.asarray(a, jnp.float32)), expected, rtol=1e-5)


def test_the_two_towers_normalise_conv1_and_conv2():
  model = TINY.clone(response_norm=True)
  x = 100 * jax.random.normal(jax.random.key(1), (1, 15, 15, 3))
  variables = once(TINY.init)(jax.random.key(0), x)
  plain, normalised = (once(lambda v, m=m: m.apply(v, x, features=True))(variables) for m in (TINY, model))
  np.testing.assert_array_equal(plain["conv1"], normalised["conv1"])
  assert np.any(plain["conv2"] != normalised["conv2"])


@pytest.mark.parametrize("size", [4, 6, 7, 13, 15])
def test_adaptive_pooling_takes_the_means_of_overlapping_fields(size):
  x = np.random.default_rng(0).normal(size=(2, size, size + 3, 2)).astype(np.float32)
  expected = np.zeros((2, 6, 6, 2))

  def field(i, full):
    return slice(int(np.floor(i * full / 6)), int(np.ceil((i + 1) * full / 6)))

  for i in range(6):
    for j in range(6):
      expected[:, i, j] = x[:, field(i, size), field(j, size + 3)].mean((1, 2))
  np.testing.assert_allclose(adaptive_avg_pool(x, 6), expected, atol=1e-5)


def test_units_are_dropped_only_in_training():
  x = jax.random.normal(jax.random.key(1), (2, 15, 15, 3))
  variables = once(TINY.init)(jax.random.key(0), x)
  train = once(lambda key: TINY.apply(variables, x, train=True, rngs={"dropout": key}))
  assert np.any(train(jax.random.key(0)) != train(jax.random.key(1)))
  evaluated = [once(model.apply)(variables, x) for model in (TINY, TINY.clone(dropout=0.9))]
  np.testing.assert_array_equal(*evaluated)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_every_norm_trains(norm):
  model = TINY.clone(norm=norm, groups=2, response_norm=True, activation="gelu")
  gradients = gradients_of(model, jax.random.normal(jax.random.key(1), (2, 32, 32, 3)))
  assert_reach(gradients, ["conv1"])
  assert ("bias" in gradients["conv1"]) == (norm == "none")
