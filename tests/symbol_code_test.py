"""The code on a toy prior, whose probabilities are known, and on tiny networks with random weights."""

import jax
import numpy as np
import pytest

from dlcourse import symbol_code
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.models.sequence import LanguageModel
from dlcourse.models.transformer import Layer, Transformer
from dlcourse.models.vq_vae import VQVAE
from dlcourse.optim import Adam
from dlcourse.symbol_code import ROWS, Networks, decode, encode, image_code, networks_of
from dlcourse.tasks.code_prior import CodePrior
from dlcourse.tasks.variational import Autoencode
from dlcourse.theory.image_similarity import psnr

RNG = np.random.default_rng(0)
SHAPE = (8, 8, 1)
TABLE = RNG.dirichlet(np.ones(3), size=(2, 4)).astype(np.float32)  # p(next | class, last)
VQ = VQVAE(num_codes=3, code_dim=2, width=4)
PRIOR = LanguageModel(Transformer(Layer(8, 2), 1, causal=True, positions="learned"), 8)


def toy(table=TABLE):
  """Two classes, three symbols at four places, of which each hangs on the one before it."""

  def after(carry, last, labels):
    assert last.shape == labels.shape == (ROWS,)
    return carry + 1, table[labels, last]

  def nats(symbols):
    before = np.concatenate([np.full((len(symbols), 1), 3), symbols[:, :-1]], axis=1)
    return -np.log(table[:, before, symbols]).sum(axis=-1)

  return Networks(SHAPE, 3, 4, 2, None, nats, lambda: 0, after, None)


def drawn(count, labels):
  symbols = np.full((count, 4), 3)
  for place in range(4):
    p = TABLE[labels, symbols[:, place - 1]].astype(np.float64)
    p = p.cumsum(axis=1)
    symbols[:, place] = (RNG.random((count, 1)) * p[:, -1:] > p).sum(axis=1)
  return symbols.astype(np.int32)


@pytest.mark.parametrize("count", [1, ROWS, 2 * ROWS + 3])
def test_symbols_come_back_and_cost_what_the_prior_says(count):
  labels = RNG.integers(0, 2, count).astype(np.int32)
  symbols = drawn(count, labels)
  words = encode(toy(), symbols, labels)
  np.testing.assert_array_equal(decode(toy(), words, count), symbols)
  nats = toy().nats(symbols)[labels, np.arange(count)].sum()
  assert 32 * len(words) == pytest.approx(nats / np.log(2) + count, abs=64)  # a bit says the class


def test_another_prior_gives_other_symbols():
  labels = RNG.integers(0, 2, 100).astype(np.int32)
  symbols = drawn(100, labels)
  words = encode(toy(), symbols, labels)
  assert not np.array_equal(decode(toy(TABLE[:, :, ::-1]), words, 100), symbols)


def spec_of(shape=SHAPE, classes=("a", "b")):
  shapes = {
    "image": jax.ShapeDtypeStruct((2, *shape), np.uint8),
    "label": jax.ShapeDtypeStruct((2,), np.int32),
    "mask": jax.ShapeDtypeStruct((2,), np.float32),
  }
  return Spec(shapes, classes, prepare=lambda key, batch: {**batch, "image": batch["image"] / np.float32(255)})


def prior(**fields):
  """A task with a state whose codebook has the encodings of three images, so that symbols differ."""
  spec = spec_of()
  task = CodePrior(VQ, PRIOR, Adam(), **fields).build(spec, 1)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(spec.batch))
  state = jax.jit(task.init)(jax.random.key(1), zeros)
  variables = task.network.variables(state)
  vectors = variables["codebook"]["backbone"]["codebook"]["vectors"]
  spread = 0.3 * np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32)
  variables["codebook"]["backbone"]["codebook"]["vectors"] = spread
  return task, task.network.with_variables(state, variables), spec


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "conditional"])
def any_prior(request):
  """A tiny prior, its networks, images and their code."""
  task, state, spec = prior(conditional=request.param)
  networks = networks_of(task, state, spec)
  images = RNG.integers(0, 256, (ROWS + 5, *SHAPE)).astype(np.uint8)
  return task, state, networks, images, image_code(networks).encode(images, iter)


def test_what_comes_back_is_what_the_task_makes_of_the_images(any_prior):
  task, state, networks, images, coded = any_prior
  made = image_code(networks).decode(coded.words, coded.numbers, len(images), iter)
  batch = {"image": images, "label": np.zeros(len(images), np.int32), "mask": np.ones(len(images))}
  predicted = 255 * np.asarray(task.predict(state, jax.random.key(0), batch)["image"])
  assert np.abs(made - predicted).max() < 0.51
  assert made.std(axis=0).max() > 0
  pooled = (x.reshape(1, -1, 8, 1) for x in (made, images))
  assert coded.rates["psnr"] == pytest.approx(float(psnr(*pooled, 255)[0]))
  assert coded.rates["net_bits_per_dim"] * images.size == 32 * len(coded.words)


def test_a_grid_costs_what_the_best_class_of_the_prior_says(any_prior):
  task, state, _, images, coded = any_prior
  symbols = np.asarray(task.codes.read(state, {"image": images, "mask": np.ones(len(images))}))
  symbols = symbols.reshape(len(images), -1)
  assert len(np.unique(symbols)) > 1
  tokens = np.concatenate([np.full((len(images), 1), 3), symbols[:, :-1]], axis=1)

  def nats(labels):
    model, variables = task.network.model, task.network.variables(state)
    _, logits = model.apply(variables, (), tokens, labels, method="after")
    return -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), symbols[..., None], axis=2).sum(
      axis=(1, 2)
    )

  if task.conditional:
    expected = np.minimum(*(nats(np.full(len(images), label)) for label in (0, 1))) + np.log(2)
  else:
    expected = nats(None)
  assert 32 * len(coded.words) == pytest.approx(expected.sum() / np.log(2), abs=64)


def test_a_prior_that_computes_other_bits_is_noticed(any_prior):
  _, _, networks, images, coded = any_prior
  for other in (
    networks._replace(begin=lambda: jax.tree.map(lambda x: x + 1, networks.begin())),
    networks._replace(count=0),  # of which a grid would begin with another symbol
  ):
    with pytest.raises(UserError, match="do not compute the same here"):
      image_code(other).decode(coded.words, coded.numbers, len(images), iter)
  with pytest.raises(UserError, match="do not compute the same here"):
    image_code(networks).decode(coded.words[:1], coded.numbers, len(images), iter)


def test_a_code_without_a_prior_is_refused():
  spec = spec_of()
  with pytest.raises(UserError, match=r"prior of a VQ-VAE: train one like vae.vq_prior"):
    networks_of(Autoencode(VQ, Adam()).build(spec, 1), None, spec)


def test_nan_is_refused():
  task, state, spec = prior()
  broken = state.replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
  images = np.zeros((2, *SHAPE), np.uint8)
  with pytest.raises(UserError, match="training has diverged"):
    image_code(networks_of(task, broken, spec)).encode(images, iter)


def test_rows_are_filled_and_cut_again():
  seen = []

  def twice(x):
    seen.append(len(x))
    return 2 * x

  x = np.arange(ROWS + 1)[:, None]
  np.testing.assert_array_equal(symbol_code._row_by_row(twice, x), 2 * x)
  assert seen == [ROWS, ROWS]
