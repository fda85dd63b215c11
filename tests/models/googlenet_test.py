"""GoogLeNet: published counts, sides of the maps, auxiliary classifiers, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_reach, count, gradients_of, once, variables_of

from dlcourse.errors import UserError
from dlcourse.models import googlenet
from dlcourse.models.googlenet import GOOGLENET, INCEPTIONS

# Without and with the auxiliary classifiers.
PUBLISHED = {"paper": (6_998_552, 13_378_280), "torchvision": (6_624_904, 13_004_888)}
TINY = GOOGLENET["paper"].clone(width=8, stem="small", num_classes=3)


@pytest.fixture
def few(monkeypatch):
  """The first inception modules of each stage, and those with an auxiliary classifier."""
  few = {name: INCEPTIONS[name] for name in ("3a", "4a", "4d", "5a")}
  monkeypatch.setattr(googlenet, "INCEPTIONS", few)


def shapes(model, side, **options):
  images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, **options), images)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
  model = GOOGLENET[name].clone(num_classes=1000)
  assert count(shapes(model, 224)[1]["params"]) == PUBLISHED[name][0]
  assert count(shapes(model.clone(aux=True), 224)[1]["params"]) == PUBLISHED[name][1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_maps_of_an_imagenet_image_are_those_of_table_1(name):
  maps = {key: leaf.shape[1:] for key, leaf in shapes(GOOGLENET[name], 224, features=True)[0].items()}
  assert maps == {
    "conv1": (112, 112, 64),
    "conv2": (56, 56, 192),
    "inception_3a": (28, 28, 256),
    "inception_3b": (28, 28, 480),
    "inception_4a": (14, 14, 512),
    "inception_4b": (14, 14, 512),
    "inception_4c": (14, 14, 512),
    "inception_4d": (14, 14, 528),
    "inception_4e": (14, 14, 832),
    "inception_5a": (7, 7, 832),
    "inception_5b": (7, 7, 1024),
    "pool": (1024,),
  }


def test_only_the_paper_has_5x5_kernels_and_biases():
  kernels = {}
  for name, model in GOOGLENET.items():
    params = shapes(model.clone(num_classes=3), 64)[1]["params"]
    kernels[name] = {params[f"inception_{i}"]["5x5"]["conv"]["kernel"].shape[0] for i in INCEPTIONS}
    assert ("bias" in params["conv1"]["conv"]) == (name == "paper")
  assert kernels == {"paper": {5}, "torchvision": {3}}


def test_a_small_image_keeps_its_side_up_to_inception_3b():
  maps, _ = shapes(TINY, 32, features=True)
  sides = {name: leaf.shape[1] for name, leaf in maps.items() if name != "pool"}
  assert [sides[name] for name in ("conv1", "conv2", "inception_3a", "inception_3b")] == [32] * 4
  assert [sides[name] for name in ("inception_4a", "inception_4e", "inception_5a", "inception_5b")] == [
    16,
    16,
    8,
    8,
  ]


@pytest.mark.parametrize(
  ("stem", "aux", "least"),
  [
    *(("large", False, 31), ("large", True, 79), ("small", False, 4), ("small", True, 10)),
  ],
)
@pytest.mark.parametrize("name", PUBLISHED)
def test_images_that_would_vanish_are_refused(few, name, stem, aux, least):
  model = GOOGLENET[name].clone(width=4, stem=stem, aux=aux, num_classes=3)
  maps, _ = shapes(model, least, features=True)
  assert min(min(leaf.shape) for leaf in maps.values()) > 0
  with pytest.raises(UserError, match="are too small for this network"):
    shapes(model, least - 1)


@pytest.mark.parametrize("fields", [{"dropout": 1.0}, {"width": 3}])
def test_fields_that_cannot_work_are_refused(fields):
  with pytest.raises(UserError, match=next(iter(fields))):
    TINY.clone(**fields)


def test_auxiliary_logits_are_sown_where_they_are_asked_for_and_are_no_variables(few):
  model = TINY.clone(aux=True)
  x = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
  variables = variables_of(model, x)
  assert set(variables) == {"params"}
  logits, state = once(lambda v, x: model.apply(v, x, mutable=["aux"]))(variables, x)
  assert jax.tree.map(jnp.shape, state) == {
    "aux": {"aux1": {"logits": ((2, 3),)}, "aux2": {"logits": ((2, 3),)}},
  }
  without = once(TINY.apply)({"params": {k: v for k, v in variables["params"].items() if k[:3] != "aux"}}, x)
  np.testing.assert_allclose(logits, without, atol=1e-5)


def test_units_are_dropped_only_in_training(few):
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  variables = variables_of(TINY, x)
  train = once(lambda key: TINY.apply(variables, x, train=True, rngs={"dropout": key}))
  assert np.any(train(jax.random.key(0)) != train(jax.random.key(1)))
  evaluate = [once(model.apply)(variables, x) for model in (TINY, TINY.clone(dropout=0.9))]
  np.testing.assert_array_equal(*evaluate)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_every_norm_trains_with_the_loss_of_the_paper(few, norm):
  model = TINY.clone(norm=norm, aux=True, response_norm=norm == "none", activation="gelu")
  x = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
  gradients = gradients_of(model, x, auxiliary_weight=0.3)
  assert_reach(gradients, [])
  for name in ("conv1", "aux1", "aux2", "output"):
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients[name])), name
