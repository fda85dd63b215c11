"""The code on toy networks, whose probabilities are known, and on tiny VAEs with random weights."""

import jax
import numpy as np
import pytest
from constriction import stream
from scipy.stats import logistic, norm

from dlcourse import bits_back
from dlcourse.bits_back import STEPS, Networks, decode, encode, initial_words, most_initial_words, networks_of
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.models.vae import MLPVAE
from dlcourse.optim import Adam
from dlcourse.tasks.variational import Autoencode

RNG = np.random.default_rng(0)
SHAPE = (4, 4, 1)
MODEL = MLPVAE(hidden_dim=8, latent_dim=3)


def spec_of(shape=SHAPE):
  def prepare(key, batch):
    return {**batch, "image": batch["image"] / np.float32(255)}

  shapes = {
    "image": jax.ShapeDtypeStruct((2, *shape), np.uint8),
    "label": jax.ShapeDtypeStruct((2,), np.int32),
    "mask": jax.ShapeDtypeStruct((2,), np.float32),
  }
  return Spec(shapes, ("a", "b"), prepare=prepare)


def built(model=MODEL, shape=SHAPE, **fields):
  spec = spec_of(shape)
  return Autoencode(model, Adam(learning_rate=0.1), **fields).build(spec, 1), spec


def vae(**fields):
  task, spec = built(**fields)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(spec.batch))
  return task, jax.jit(task.init)(jax.random.key(1), zeros), spec


def images_of(count, shape=SHAPE):
  return RNG.integers(0, 256, (count, *shape)).astype(np.uint8)


def as_bits(masses):
  return -np.log2(masses).sum()


@pytest.fixture(scope="module", params=["logistic", "bernoulli"])
def any_vae(request):
  """A VAE of either likelihood, its networks and images as they see them.

  Weights are small, so that nothing is so unlikely that the coder's precision makes it cheaper.
  """
  binarise = {"binarise": "threshold"} if request.param == "bernoulli" else {}
  shape = SHAPE if binarise else (4, 4, 3)
  task, state, spec = vae(shape=shape, likelihood=request.param, **binarise)
  params = jax.tree.map(lambda x: 0.5 * x, state.params)
  state = state.replace(params=params | ({} if binarise else {"scale": {"log_scale": np.float32(0)}}))
  networks = networks_of(task, state, spec)
  return task, state, networks, networks.seen(images_of(150, shape))


def test_images_come_back_and_nothing_else_is_left(any_vae):
  _, _, networks, images = any_vae
  coded = encode(networks, images[:20])
  np.testing.assert_array_equal(decode(networks, coded.words, coded.untouched, 20), images[:20])
  assert coded.words[0] != initial_words(coded.untouched + 1)[-1]
  assert 0 < coded.initial_bits <= 32 * (networks.latents + 2)
  assert len(coded.words) * 32 == coded.net_bits + coded.initial_bits


def test_an_image_costs_its_negative_elbo(any_vae):
  task, state, networks, images = any_vae
  coded = encode(networks, images)
  batch = {"image": images, "mask": np.ones(len(images))}
  log_weight = jax.jit(task.latents.log_weight)
  draws = np.array(
    [-log_weight(state, jax.random.key(i), batch).sum() for i in range(50)], np.float64
  ) / np.log(2)
  assert draws.std() < 0.03 * draws.mean()
  assert coded.net_bits == pytest.approx(draws.mean(), abs=3 * draws.std())


def test_the_masses_are_those_of_the_likelihood(any_vae):
  _, state, networks, _ = any_vae
  z = np.array([0.3, -1.2, 2.0])
  masses = networks.masses(z)
  np.testing.assert_allclose(masses.sum(axis=1), 1, atol=1e-4)
  model = MODEL.clone(image_shape=networks.shape)
  outputs = model.apply({"params": state.params["model"]}, z[None], method="decode").reshape(-1, 1)
  if networks.levels == 2:
    np.testing.assert_allclose(masses[:, 1:], logistic.cdf(outputs), atol=1e-6)
  else:
    ends = logistic.cdf((np.arange(1, 256) - 0.5) / 255, outputs, np.exp(state.params["scale"]["log_scale"]))
    expected = np.diff(ends, axis=1, prepend=0, append=1)  # the first and the last level have the tails
    np.testing.assert_allclose(masses, expected, atol=1e-5)


def test_grey_becomes_black_and_white_where_the_task_makes_it_so(any_vae):
  networks = any_vae[2]
  if networks.levels == 256:
    np.testing.assert_array_equal(
      networks.seen(np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)).ravel(), range(48)
    )
    return
  grey = np.array([0, 127, 128, 255], np.uint8).repeat(4).reshape(1, *SHAPE)
  np.testing.assert_array_equal(np.unique(networks.seen(grey[:, :2])), [0])
  np.testing.assert_array_equal(np.unique(networks.seen(grey[:, 2:])), [255])


def test_what_the_code_grows_by_is_what_the_model_says_of_what_it_chose():
  """One pixel row of known masses, latents of a known posterior: -log2 p(x, z) + log2 q(z | x), bit by bit."""
  mean, deviation = np.array([0.4, -2.0]), np.array([0.05, 0.7])
  chosen = []

  def masses(z):
    chosen.append(np.rint(z * STEPS))
    p = 1 / (1 + np.exp(-z.sum() - np.arange(16)))
    return np.stack([1 - p, p], axis=1).astype(np.float32)

  networks = Networks(SHAPE, 2, 2, lambda x: x, lambda image: (mean, deviation), masses)
  images = np.zeros((1, *SHAPE), np.uint8)
  images[0, :2] = 255
  coded = encode(networks, images)
  (code,) = chosen
  q = norm.cdf(code + 0.5, mean * STEPS, deviation * STEPS) - norm.cdf(
    code - 0.5, mean * STEPS, deviation * STEPS
  )
  prior = norm.cdf(code + 0.5, 0, STEPS) - norm.cdf(code - 0.5, 0, STEPS)
  table = masses(code / STEPS)
  pixels = table[np.arange(16), (images.reshape(-1) > 0).astype(int)]
  assert coded.net_bits == pytest.approx(as_bits(pixels) + as_bits(prior) - as_bits(q), abs=2)


@pytest.mark.parametrize(
  ("mean", "deviation"), [(0.3, 0.1), (7.9, 0.5), (-40.0, 0.01), (0.0, 30.0), (1.0, 0.0)]
)
def test_whatever_a_posterior_draws_can_be_put_back(mean, deviation):
  """Its masses add up to one: what is popped from any bits restores them when it is pushed."""
  models = bits_back.posteriors(np.full(50, mean), np.full(50, deviation))
  before = RNG.integers(1, 2**32, 100, dtype=np.uint32)
  stack = stream.stack.AnsCoder(before)
  codes = [stack.decode(model) for model in models]
  for code, model in zip(reversed(codes), reversed(models), strict=True):
    stack.encode_reverse(code, model)
  np.testing.assert_array_equal(stack.get_compressed(), before)
  nearest = np.clip(mean, -bits_back.REACH, bits_back.REACH)
  far = bits_back.TAILS * deviation + 1 / STEPS
  assert np.abs(np.array(codes) / STEPS - nearest).max() <= far


def test_draws_follow_the_posterior():
  models = bits_back.posteriors(np.full(4_000, 0.3), np.full(4_000, 0.2))
  stack = stream.stack.AnsCoder(initial_words(10_000))
  z = np.array([stack.decode(model) for model in models]) / STEPS
  assert z.mean() == pytest.approx(0.3, abs=0.015)
  assert z.std() == pytest.approx(0.2, abs=0.01)


def test_initial_words_are_a_prefix_of_longer_ones_and_enough_for_the_dearest_latents():
  np.testing.assert_array_equal(initial_words(1_000)[:10], initial_words(10))
  assert 32 * (most_initial_words(7, 3) - 2) >= 7 * 3 * bits_back.PRECISION


def test_networks_that_compute_other_bits_are_noticed(any_vae):
  _, _, networks, images = any_vae
  coded = encode(networks, images[:5])

  def nearly(image):
    mean, deviation = networks.posterior(image)
    return np.nextafter(mean.astype(np.float32), np.float32(9)) + 1e-3, deviation

  for other in (
    networks._replace(posterior=nearly),
    networks._replace(masses=lambda z: networks.masses(z + 1e-3)),
    networks._replace(posterior=lambda image: (np.full(3, 6.0), np.full(3, 1e-3))),
  ):
    with pytest.raises(UserError, match="do not compute the same here"):
      decode(other, coded.words, coded.untouched, 5)


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"likelihood": "gaussian"},
    {"model": MODEL.clone(posterior="full"), "binarise": "threshold"},
    {"model": MODEL.clone(conditional=True), "binarise": "threshold"},
    {"model": MODEL.clone(posterior="none"), "likelihood": "squared"},
  ],
)
def test_a_model_that_codes_no_pixels_is_refused_with_one_that_does(fields):
  with pytest.raises(UserError, match=r"task.likelihood=logistic, or bernoulli with --task.binarise"):
    networks_of(built(**fields)[0], None, spec_of())


def test_nan_is_refused(any_vae):
  task, state, networks, images = any_vae
  broken = state.replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
  with pytest.raises(UserError, match="training has diverged"):
    encode(networks_of(task, broken, spec_of(networks.shape)), images[:1])
