import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.recipe import Scaling, Spec
from dlcourse.errors import UserError
from dlcourse.initial import from_network
from dlcourse.models.sequence import LanguageModel
from dlcourse.models.transformer import Layer, Transformer
from dlcourse.models.vq_vae import VQVAE
from dlcourse.optim import Adam
from dlcourse.tasks.code_prior import CodePrior, draw
from dlcourse.tasks.variational import Autoencode

RNG, KEY = np.random.default_rng(0), jax.random.key(5)
BATCH = {
  "image": RNG.integers(0, 256, size=(6, 8, 8, 1)).astype(np.uint8),
  "label": np.array([0, 1, 2, 0, 1, 2], np.int32),
  "mask": np.array([1, 1, 1, 1, 0, 0], np.float32),
}
VQ = VQVAE(num_codes=3, code_dim=2, width=4)
PRIOR = LanguageModel(Transformer(Layer(8, 2), 1, causal=True, positions="learned"), 8)


def prepare(key, batch):
  return {**batch, "image": batch["image"].astype(jnp.float32) / 255}


SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), BATCH)
SPEC = Spec(SHAPES, classes=("a", "b", "c"), prepare=prepare)


def build(**fields):
  task = CodePrior(VQ, PRIOR, Adam(learning_rate=0.01), **fields).build(SPEC, 10)
  return task, jax.jit(task.init)(jax.random.key(0), BATCH)


@pytest.fixture(scope="module")
def autoencoder():
  """One whose codes are not all the same: it begins with encodings of the batch."""
  task = Autoencode(VQ, Adam(learning_rate=0.01)).build(SPEC, 10)
  state = jax.jit(task.init)(jax.random.key(1), BATCH)
  return task, jax.jit(task.train_step)(state, BATCH)[0]


def filled(task, state, autoencoder):
  """The state as `--init_from` gives it."""
  other, trained = autoencoder
  variables = from_network(task.network.variables(state), other.network.variables(trained), "elsewhere")
  return task.network.with_variables(state, variables)


@pytest.fixture(scope="module")
def prior(autoencoder):
  task, state = build()
  return task, filled(task, state, autoencoder)


def log_probs(task, state, grids, label=None):
  """log p of grids [N, T], from the logits after each code."""
  tokens = np.concatenate([np.full((len(grids), 1), 3), grids[:, :-1]], axis=1)
  _, logits = task.network.model.apply(task.network.variables(state), (), tokens, label, method="after")
  nats = jax.nn.log_softmax(logits)
  return np.take_along_axis(np.asarray(nats), grids[..., None], axis=2)[..., 0].sum(axis=1)


def test_a_prior_begins_with_the_trained_autoencoder(prior, autoencoder):
  (task, state), (other, trained) = prior, autoencoder
  codes = task.codes.read(state, BATCH)
  np.testing.assert_array_equal(codes, other.codes.read(trained, BATCH))
  assert len(np.unique(codes)) > 1
  images = task.codes.images(state, codes)
  np.testing.assert_allclose(images, other.codes.images(trained, codes), atol=1e-6)
  np.testing.assert_allclose(task.predict(state, KEY, BATCH)["image"], images, atol=1e-6)
  np.testing.assert_allclose(images, other.predict(trained, KEY, BATCH)["image"], atol=1e-6)


def test_the_probabilities_of_all_grids_sum_to_one(prior):
  grids = np.array(list(itertools.product(range(3), repeat=4)), np.int32)
  assert np.exp(log_probs(*prior, grids)).sum() == pytest.approx(1, abs=1e-5)


def test_the_loss_is_of_the_codes_of_the_images_that_count(prior):
  task, state = prior
  codes = np.asarray(task.codes.read(state, BATCH)).reshape(6, 4)
  nats = -log_probs(task, state, codes)[:4].mean()
  measured = {name: metric.value() for name, metric in task.eval_step(state, KEY, BATCH).items()}
  assert measured["loss"] == pytest.approx(nats / 4, rel=1e-5)
  assert measured["bits_per_pixel"] == pytest.approx(nats / np.log(2) / 64, rel=1e-5)


def test_training_learns_the_prior_and_leaves_the_autoencoder_alone(prior):
  task, state = prior
  step, before = jax.jit(task.train_step), task.network.variables(state)
  first = None
  for _ in range(60):
    state, measured = step(state, BATCH)
    first = first or measured["loss"].value()
  after = task.network.variables(state)
  chex.assert_trees_all_equal(before["params"]["backbone"], after["params"]["backbone"])
  chex.assert_trees_all_equal(before["codebook"], after["codebook"])
  assert not any(path[0].key == "backbone" for path, _ in jax.tree_util.tree_leaves_with_path(state.params))
  assert measured["loss"].value() < 0.7 * first


def test_draws_come_as_often_as_the_prior_says(prior):
  task, state = prior
  variables, model = task.network.variables(state), task.network.model
  grids = np.asarray(jax.jit(lambda key: draw(model, variables, key, jnp.ones(4_000)))(KEY))
  assert grids.shape == (4_000, 4)
  every = np.array(list(itertools.product(range(3), repeat=4)), np.int32)
  expected = np.exp(log_probs(task, state, every))
  found = np.bincount(grids @ 3 ** np.arange(4)[::-1], minlength=81) / 4_000
  assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected / 4_000) + 1e-3)


def test_a_cold_draw_is_the_likeliest_and_becomes_an_image(prior):
  task, state = prior
  asked = {"index": np.arange(3), "temperature": np.zeros(3, np.float32)}
  one, other = (np.asarray(task.generate(state, key, asked)["image"]) for key in jax.random.split(KEY))
  assert one.shape == (3, 8, 8, 1)
  np.testing.assert_array_equal(one, other)
  np.testing.assert_array_equal(one[0], one[1])
  warm = task.generate(state, KEY, {"index": np.arange(3), "temperature": np.ones(3, np.float32)})["image"]
  assert not np.allclose(warm[0], warm[1])


def test_a_conditional_prior_is_told_the_class(autoencoder):
  task, state = build(conditional=True)
  state = filled(task, state, autoencoder)
  assert task.conditional
  grids, labels = np.zeros((3, 4), np.int32), np.arange(3)
  assert len(np.unique(np.round(log_probs(task, state, grids, labels), 4))) == 3
  asked = {"index": np.arange(3), "label": labels, "temperature": np.zeros(3, np.float32)}
  assert task.generate(state, KEY, asked)["image"].shape == (3, 8, 8, 1)
  other = {**BATCH, "label": (BATCH["label"] + 1) % 3}
  losses = [task.eval_step(state, KEY, batch)["loss"].value() for batch in (BATCH, other)]
  assert losses[0] != losses[1]


def test_thresholded_pixels_are_what_is_read(prior, autoencoder):
  task, state = build(binarise="threshold")
  state = filled(task, state, autoencoder)
  black_and_white = {**BATCH, "image": (255 * (BATCH["image"] > 127)).astype(np.uint8)}
  codes = task.codes.read(state, BATCH)
  np.testing.assert_array_equal(codes, prior[0].codes.read(state, black_and_white))


def test_data_without_images_or_classes_is_refused():
  recipe = CodePrior(VQ, PRIOR, Adam(), conditional=True)
  with pytest.raises(UserError, match="needs data with classes"):
    recipe.build(Spec(SHAPES, prepare=prepare), 10)
  with pytest.raises(UserError, match="needs images"):
    recipe.build(Spec({"mask": SHAPES["mask"]}), 10)


def test_pixels_on_another_scale_are_refused():
  spec = Spec(SHAPES, prepare=prepare, scaling=Scaling(np.float32(0.5), np.float32(0.5)))
  with pytest.raises(UserError, match=r"numbers in \[0, 1\]; set --data.scale=unit"):
    CodePrior(VQ, PRIOR, Adam()).build(spec, 10)
