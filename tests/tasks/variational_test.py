import dataclasses
import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from dlcourse import losses
from dlcourse.data.corruption import Masking
from dlcourse.data.recipe import Scaling, Spec
from dlcourse.errors import UserError
from dlcourse.models.vae import MLPVAE, Inference, Latent
from dlcourse.optim import Adam, Sgd
from dlcourse.parallel import compile_task, make_mesh
from dlcourse.tasks.variational import Autoencode
from dlcourse.theory.gaussians import Gaussian, kl, sample, standard_normal

RNG = np.random.default_rng(0)
BATCH = {
  "image": RNG.integers(0, 256, size=(6, 4, 4, 1)).astype(np.uint8),
  "label": np.array([0, 1, 2, 0, 1, 2], np.int32),
  "mask": np.array([1, 1, 1, 1, 0, 0], np.float32),
}
MODEL = MLPVAE(hidden_dim=16, latent_dim=3)
PLAIN = MODEL.clone(posterior="none")
KEY = jax.random.key(5)


def spec_of(batch, **fields):
  def prepare(key, batch):
    return {**batch, "image": batch["image"].astype(jnp.float32) / 255}

  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
  return Spec(shapes, prepare=prepare, **fields)


SPEC = spec_of(BATCH, classes=("a", "b", "c"))


def build(model=MODEL, optimizer=None, **fields):
  task = Autoencode(model, optimizer or Adam(learning_rate=0.01), **fields).build(SPEC, 10)
  return task, jax.jit(task.init)(jax.random.key(0), BATCH)


@pytest.fixture(scope="module")
def vae():
  return build()


def of_model(state):
  """The model's variables, and the model with the shape of the data."""
  return {"params": state.params["model"]}, MODEL.clone(image_shape=(4, 4, 1))


def read(measured):
  return {name: metric.value() for name, metric in measured.items()}


def evaluated(task, state, key=KEY, batch=BATCH):
  return read(jax.jit(task.eval_step)(state, key, batch))


def test_the_elbo_equals_its_formula_on_the_images_that_count(vae):
  task, state = vae
  measured, (variables, model) = evaluated(task, state), of_model(state)
  x = BATCH["image"] / 255
  logits, (group,), _ = model.apply(variables, x.astype(np.float32), KEY)
  logits, mean, log_var = (np.asarray(a, np.float64) for a in (logits, *group.posterior[:2]))
  distortion = (x * np.logaddexp(0, -logits) + (1 - x) * np.logaddexp(0, logits)).sum((1, 2, 3))[:4].mean()
  rate = (0.5 * (mean**2 + np.exp(log_var) - 1 - log_var)).sum(1)[:4].mean()
  assert set(measured) == {"loss", "elbo", "distortion", "rate"}  # grey pixels have no bits by this likelihood
  assert measured["distortion"] == pytest.approx(distortion, rel=1e-5)
  assert measured["rate"] == pytest.approx(rate, rel=1e-4)
  assert measured["elbo"] == pytest.approx(-distortion - rate, rel=1e-5)
  assert measured["loss"] == pytest.approx(-measured["elbo"], rel=1e-6)


def test_beta_weighs_the_rate_in_the_loss_and_not_in_the_elbo():
  measured = evaluated(*build(beta=4.0))
  assert measured["loss"] == pytest.approx(measured["distortion"] + 4 * measured["rate"], rel=1e-6)
  assert measured["elbo"] == pytest.approx(-measured["distortion"] - measured["rate"], rel=1e-6)


def test_a_warm_up_raises_the_weight_of_the_rate_in_training_and_not_at_evaluation():
  task, state = build(beta=4.0, warm_up=0.5)  # over the first 5 of 10 steps
  step = jax.jit(task.train_step)
  for at, weight in ((0, 0), (1, 0.8), (4, 3.2), (5, 4), (9, 4)):
    measured = read(step(state.replace(step=jnp.int32(at)), BATCH)[1])
    assert measured["loss"] == pytest.approx(measured["distortion"] + weight * measured["rate"], rel=1e-5)
  measured = evaluated(task, state)
  assert measured["loss"] == pytest.approx(measured["distortion"] + 4 * measured["rate"], rel=1e-6)


def test_free_bits_are_nats_of_each_dimension_in_the_mean_over_the_batch(vae):
  task, state = vae
  rates = np.asarray(task.latents.rates(state, KEY, BATCH))[:4].mean(axis=0)
  free = float(np.sort(rates)[1]) + 1e-3  # above two of three dimensions
  floored, _ = build(free_bits=free)
  measured = evaluated(floored, state)
  assert measured["rate"] == pytest.approx(rates.sum(), rel=1e-5)
  assert measured["loss"] == pytest.approx(measured["distortion"] + 2 * free + rates.max(), rel=1e-5)


def test_training_raises_the_elbo(vae):
  task, state = vae
  step, before = jax.jit(task.train_step), evaluated(task, state)["elbo"]
  for _ in range(100):
    state, _ = step(state, BATCH)
  assert int(state.step) == 100
  assert evaluated(task, state)["elbo"] > before + 0.5


def test_every_step_draws_other_noise(vae):
  task, state = vae
  step = jax.jit(task.train_step)
  later = state.replace(step=state.step + 1)
  same, other = (step(s, BATCH)[1]["distortion"].value() for s in (state, later))
  assert same == step(state, BATCH)[1]["distortion"].value()
  assert same != other


def test_what_padding_holds_changes_nothing(vae):
  task, state = vae
  other = {**BATCH, "image": np.concatenate([BATCH["image"][:4], 255 - BATCH["image"][4:]])}
  step = jax.jit(task.train_step)
  chex.assert_trees_all_equal(step(state, BATCH), step(state, other))


def test_a_step_from_logits_of_100_is_finite(vae):
  task, state = vae
  bias = np.where(np.arange(16) % 2, 100.0, -100.0).astype(np.float32)
  params = state.params["model"] | {"pixels": state.params["model"]["pixels"] | {"bias": bias}}
  after, measured = jax.jit(task.train_step)(state.replace(params={"model": params}), BATCH)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, measured)))
  assert read(measured)["distortion"] > 500


def test_reconstructions_use_the_posterior_mean(vae):
  task, state = vae
  variables, model = of_model(state)
  mean = model.apply(variables, BATCH["image"].astype(np.float32) / 255, method="encode")
  np.testing.assert_array_equal(task.latents.encode(state, BATCH), mean)
  expected = 1 / (1 + np.exp(-model.apply(variables, mean, method="decode")))
  np.testing.assert_allclose(task.latents.images(state, mean), expected, atol=1e-5)
  for key in (KEY, jax.random.key(6)):
    made = task.predict(state, key, BATCH)
    assert set(made) == {"image"}
    np.testing.assert_allclose(made["image"], expected, atol=1e-5)
  assert task.latents.dim == 3


def test_generated_images_decode_a_standard_normal_draw(vae):
  task, state = vae
  temperature = np.array([1.0] * 8 + [0.5], np.float32)
  images = task.generate(state, KEY, {"index": np.arange(9), "temperature": temperature})["image"]
  z = temperature[:, None] * jax.random.normal(KEY, (9, 3))
  variables, model = of_model(state)
  logits = model.apply(variables, z, method="decode")
  np.testing.assert_allclose(images, 1 / (1 + np.exp(-logits)), atol=1e-5)
  assert images.shape == (9, 4, 4, 1)


W = np.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.2]], np.float32)
CENTRE, SPREAD = np.array([0.2, 0.5, 0.4], np.float32), 0.3


class Exact(nn.Module):
  """x = W z + centre + noise, whose posterior can be written down; or, `off` it, some other Gaussian."""

  off: float = 0.0

  def encode(self, x, label=None):
    return (x.reshape(-1, 3) - CENTRE) @ W @ np.linalg.inv(SPREAD**2 * np.eye(2) + W.T @ W).astype(np.float32)

  def decode(self, z, label=None):
    return (z @ W.T + CENTRE).reshape(-1, 1, 3, 1)

  @nn.compact
  def __call__(self, x, key, label=None, train=False):
    self.param("unused", nn.initializers.zeros, ())
    scale = np.linalg.cholesky(np.linalg.inv(np.eye(2) + W.T @ W / SPREAD**2)).astype(np.float32)
    mean = self.encode(x) + self.off
    log_var = jnp.broadcast_to(2 * np.log(np.diag(scale)), mean.shape)
    lower = jnp.broadcast_to(np.tril(scale, -1), (len(x), 2, 2))
    posterior = Gaussian(mean, log_var, lower)
    z = sample(posterior, key)
    return Inference(self.decode(z), (Latent(z, posterior, standard_normal(z)),), z)


POINTS = {
  "image": RNG.integers(0, 256, size=(5, 1, 3, 1)).astype(np.uint8),
  "mask": np.ones(5, np.float32),
}


def linear(off=0.0, **fields):
  recipe = Autoencode(Exact(off), Sgd(), likelihood="gaussian", **fields)
  task = recipe.build(spec_of(POINTS), 10)
  state = task.init(jax.random.key(0), POINTS)
  return task, state.replace(params=state.params | {"scale": {"log_scale": jnp.log(jnp.float32(SPREAD))}})


def log_likelihood():
  x, covariance = POINTS["image"].reshape(5, 3) / 255 - CENTRE, W @ W.T + SPREAD**2 * np.eye(3)
  quadratic = (x * np.linalg.solve(covariance, x.T).T).sum(axis=1)
  return -0.5 * (quadratic + np.linalg.slogdet(covariance)[1] + 3 * np.log(2 * np.pi))


def test_with_the_exact_posterior_every_weight_and_the_elbo_are_the_likelihood():
  task, state = linear()
  for key in range(3):
    found = task.latents.log_weight(state, jax.random.key(key), POINTS)
    np.testing.assert_allclose(found, log_likelihood(), rtol=1e-4)
  (several, _), measured = linear(importance_samples=7), evaluated(task, state, batch=POINTS)
  bound = evaluated(several, state, batch=POINTS)
  assert bound["bound"] == pytest.approx(log_likelihood().mean(), rel=1e-4)
  assert bound["loss"] == pytest.approx(-bound["bound"], rel=1e-6)
  assert measured["rate"] - bound["rate"] == pytest.approx(0, abs=1e-4)
  keys = jax.random.split(KEY, 2_000)
  elbos = jax.jit(jax.vmap(lambda key: task.eval_step(state, key, POINTS)["elbo"].total / 5))(keys)
  assert abs(elbos.mean() - log_likelihood().mean()) < 4 * elbos.std() / 2_000**0.5


def test_the_importance_bound_rises_with_its_draws_to_the_likelihood():
  keys, bounds = jax.random.split(KEY, 400), []
  task, state = linear(off=0.2)
  for draws in (1, 4, 16, 64):
    task, _ = linear(off=0.2, importance_samples=draws)
    name = "elbo" if draws == 1 else "bound"
    found = jax.jit(jax.vmap(lambda key, n=name, t=task: t.eval_step(state, key, POINTS)[n].total / 5))(keys)
    bounds.append((float(found.mean()), float(found.std()) / 20))
  for (less, e1), (more, e2) in itertools.pairwise(bounds):
    assert more - less > 4 * (e1**2 + e2**2) ** 0.5
  assert bounds[-1][0] < log_likelihood().mean() + 4 * bounds[-1][1]
  assert log_likelihood().mean() - bounds[-1][0] < 0.2 * (log_likelihood().mean() - bounds[0][0])


def test_the_bound_is_of_the_weights_of_its_draws(vae):
  _, state = vae
  task, _ = build(importance_samples=3)
  weights = [task.latents.log_weight(state, key, BATCH) for key in jax.random.split(KEY, 3)]
  expected = losses.importance_bound(jnp.stack(weights))[:4].mean()
  measured = evaluated(task, state)
  assert measured["bound"] == pytest.approx(float(expected), rel=1e-5)
  assert measured["elbo"] < measured["bound"]
  assert measured["elbo"] == pytest.approx(-measured["distortion"] - measured["rate"], rel=1e-5)


@pytest.mark.parametrize(
  ("fields", "bits"),
  [
    ({"binarise": "threshold"}, True),
    ({"binarise": "sample", "importance_samples": 2}, True),
    ({"likelihood": "logistic"}, True),
    ({"likelihood": "gaussian"}, False),
  ],
  ids=lambda fields: str(fields),
)
def test_bits_are_those_of_the_bound_where_pixels_have_levels(fields, bits):
  measured = evaluated(*build(**fields))
  assert ("bits_per_dim" in measured) == bits
  if bits:
    bound = measured.get("bound", measured["elbo"])
    assert measured["bits_per_dim"] == pytest.approx(-bound / 16 / np.log(2), rel=1e-5)


def test_a_scale_is_learnt_beside_the_model():
  task, state = build(likelihood="gaussian", optimizer=Sgd(learning_rate=0.01))
  assert float(state.params["scale"]["log_scale"]) == pytest.approx(np.log(0.1))
  after, measured = jax.jit(task.train_step)(state, BATCH)
  squares = read(measured)["distortion"] - 16 * (np.log(0.1) + 0.5 * np.log(2 * np.pi))  # Σ e² / 2 s²
  moved = float(after.params["scale"]["log_scale"] - state.params["scale"]["log_scale"])
  assert moved == pytest.approx(-0.01 * (16 - 2 * squares), rel=1e-3)


def test_thresholded_pixels_are_what_is_shown_and_reconstructed():
  task, state = build(PLAIN, likelihood="bernoulli", binarise="threshold")
  expected = (BATCH["image"] > 127).astype(np.float32)
  np.testing.assert_array_equal(task.predict(state, KEY, BATCH)["shown"], expected)
  black_and_white = {**BATCH, "image": (255 * expected).astype(np.uint8)}
  assert evaluated(task, state) == evaluated(task, state, batch=black_and_white)


def test_sampled_pixels_are_white_as_often_as_they_are_bright_and_at_evaluation_always_the_same():
  batch = {"image": np.full((1000, 4, 4, 1), 51, np.uint8), "mask": np.ones(1000, np.float32)}
  task = Autoencode(PLAIN, Sgd(), binarise="sample").build(spec_of(batch), 10)
  state = task.init(KEY, batch)
  shown = [np.asarray(task.predict(state, key, batch)["shown"]) for key in jax.random.split(KEY, 2)]
  np.testing.assert_array_equal(*shown)
  assert np.isin(shown[0], (0, 1)).all()
  assert shown[0].mean() == pytest.approx(0.2, abs=4 * (0.16 / 16_000) ** 0.5)
  step = jax.jit(task.train_step)
  measured = [read(step(state.replace(step=jnp.int32(i)), batch)[1])["distortion"] for i in range(2)]
  assert measured[0] != measured[1]


def test_what_is_corrupted_is_shown_and_what_is_not_is_reconstructed():
  task, state = build(PLAIN, likelihood="squared", corrupt=(Masking(1.0),))
  made = task.predict(state, KEY, BATCH)
  np.testing.assert_array_equal(made["shown"], np.zeros((6, 4, 4, 1)))
  np.testing.assert_allclose(made["image"], made["image"][:1].repeat(6, axis=0), atol=1e-6)
  errors = ((made["image"] - BATCH["image"] / 255) ** 2).sum((1, 2, 3))[:4].mean()
  for measured in (evaluated(task, state), read(jax.jit(task.train_step)(state, BATCH)[1])):
    assert set(measured) == {"loss", "distortion"}
    assert measured["distortion"] == pytest.approx(float(errors), rel=1e-5)
  codes = task.latents.encode(state, BATCH)  # of what comes, as it is
  assert not np.allclose(codes[0], codes[1])
  some, _ = build(PLAIN, likelihood="squared", corrupt=(Masking(0.5),))
  first, other = (some.predict(state, key, BATCH)["shown"] for key in jax.random.split(KEY, 2))
  assert not np.array_equal(first, other)


def test_sparsity_weighs_the_absolute_code():
  task, state = build(MODEL.clone(posterior="rectified"), likelihood="squared", sparsity=0.5)
  measured = evaluated(task, state)
  codes = np.asarray(task.latents.encode(state, BATCH))
  assert measured["sparsity"] == pytest.approx(0.5 * codes.sum(axis=1)[:4].mean(), rel=1e-5)
  assert measured["loss"] == pytest.approx(measured["distortion"] + measured["sparsity"], rel=1e-6)


def test_a_deterministic_autoencoder_neither_generates_nor_weighs():
  task, state = build(PLAIN, likelihood="squared")
  assert task.generate is None
  assert task.latents.log_weight is None
  assert task.latents.rates is None
  assert task.latents.dim == task.latents.encode(state, BATCH).shape[1] == 3


def test_a_label_reaches_the_encoder_the_decoder_and_the_prior():
  task, state = build(MODEL.clone(conditional=True))
  assert task.conditional
  request = {"index": np.arange(6), "temperature": np.ones(6, np.float32), "label": BATCH["label"]}
  made = task.generate(state, KEY, request)["image"]
  z = jax.random.normal(KEY, (6, 3))
  np.testing.assert_allclose(made, task.latents.images(state, z, BATCH["label"]), atol=1e-6)
  other = {**BATCH, "label": (BATCH["label"] + 1) % 3}
  for of in (task.latents.encode, lambda *x: task.predict(x[0], KEY, x[1])["image"]):
    assert np.all(np.any((of(state, BATCH) != of(state, other)).reshape(6, -1), axis=1))
  assert not np.allclose(made, task.latents.images(state, z, other["label"]))


A = np.array([[0.5, -1.0], [1.0, 0.3]], np.float32)


class ToldExactly(nn.Module):
  """x = W z + centre + noise with z = A s + noise, s being the source, and its posterior."""

  told = "source"

  def expect(self, source):
    return source.reshape(-1, 2) @ A.T

  def encode(self, x, source):
    mean = self.expect(source)
    gain = W @ np.linalg.inv(SPREAD**2 * np.eye(2) + W.T @ W).astype(np.float32)
    return mean + (x.reshape(-1, 3) - CENTRE - mean @ W.T) @ gain

  def decode(self, z, source):
    return (z @ W.T + CENTRE).reshape(-1, 1, 3, 1)

  def draw(self, key, temperature, source):
    mean = self.expect(source)
    return self.decode(mean + temperature[:, None] * jax.random.normal(key, mean.shape), source)

  @nn.compact
  def __call__(self, x, key, source, train=False):
    self.param("unused", nn.initializers.zeros, ())
    scale = np.linalg.cholesky(np.linalg.inv(np.eye(2) + W.T @ W / SPREAD**2)).astype(np.float32)
    mean, prior = self.encode(x, source), self.expect(source)
    log_var = jnp.broadcast_to(2 * np.log(np.diag(scale)), mean.shape)
    posterior = Gaussian(mean, log_var, jnp.broadcast_to(np.tril(scale, -1), (len(x), 2, 2)))
    z = sample(posterior, key)
    return Inference(self.decode(z, source), (Latent(z, posterior, Gaussian(prior, 0 * prior)),), z)


PAIRS = POINTS | {"source": RNG.integers(0, 256, size=(5, 2, 1, 1)).astype(np.uint8)}


@pytest.fixture(scope="module")
def told():
  def prepare(key, batch):
    return {**batch, **{name: batch[name].astype(jnp.float32) / 255 for name in ("image", "source")}}

  spec = dataclasses.replace(spec_of(PAIRS), prepare=prepare)
  task = Autoencode(ToldExactly(), Sgd(), likelihood="gaussian").build(spec, 10)
  state = task.init(jax.random.key(0), PAIRS)
  return task, state.replace(params=state.params | {"scale": {"log_scale": jnp.log(jnp.float32(SPREAD))}})


def test_weights_of_a_model_that_is_told_a_source_are_the_conditional_likelihood(told):
  task, state = told
  x, means = PAIRS["image"].reshape(5, 3) / 255, PAIRS["source"].reshape(5, 2) / 255 @ A.T @ W.T + CENTRE
  covariance = W @ W.T + SPREAD**2 * np.eye(3)
  expected = [multivariate_normal(mean, covariance).logpdf(row) for mean, row in zip(means, x, strict=True)]
  for key in range(3):
    np.testing.assert_allclose(task.latents.log_weight(state, jax.random.key(key), PAIRS), expected, rtol=1e-4)
  keys = jax.random.split(KEY, 2_000)
  elbos = jax.jit(jax.vmap(lambda key: task.eval_step(state, key, PAIRS)["elbo"].total / 5))(keys)
  assert abs(elbos.mean() - np.mean(expected)) < 4 * elbos.std() / 2_000**0.5


def test_what_a_source_lets_expect_and_draws_of_it_do_not_see_the_image(told):
  task, state = told
  made = task.predict(state, KEY, PAIRS)
  expected = PAIRS["source"].reshape(5, 2) / 255 @ A.T @ W.T + CENTRE
  np.testing.assert_allclose(made["image"].reshape(5, 3), expected, atol=1e-5)
  other = task.predict(state, KEY, PAIRS | {"image": 255 - PAIRS["image"]})
  chex.assert_trees_all_equal(made, other)
  draws = jax.jit(jax.vmap(lambda key: task.predict(state, key, PAIRS)["drawn"]))(jax.random.split(KEY, 4_000))
  flat = np.asarray(draws).reshape(4_000, 5, 3)
  np.testing.assert_allclose(flat.mean(axis=0), expected, atol=0.15)  # deviations of up to 2: 4.7 errors
  np.testing.assert_allclose(np.cov(flat[:, 0].T), W @ W.T, atol=0.35)


def test_a_source_is_no_class_and_latents_alone_make_no_image(told):
  task, state = told
  assert not task.conditional
  assert task.latents.encode(state, PAIRS).shape == (5, 2)
  source = PAIRS["source"] / np.float32(255)
  request = {"index": np.arange(5), "temperature": np.ones(5, np.float32), "source": source}
  drawn = task.predict(state, KEY, PAIRS)["drawn"]
  np.testing.assert_allclose(task.generate(state, KEY, request)["image"], drawn, atol=1e-6)
  with pytest.raises(UserError, match="come from a source as well as from latents"):
    task.latents.images(state, jnp.zeros((5, 2)))
  with pytest.raises(UserError, match="is told a source for each image; use data that has it"):
    Autoencode(ToldExactly(), Sgd(), likelihood="gaussian").build(spec_of(POINTS), 10)


class Levels(nn.Module):
  """Two groups of latents, without noise; it sows penalties, and counts what it has seen in training."""

  @nn.compact
  def __call__(self, x, key, label=None, train=False):
    seen = self.variable("counts", "seen", jnp.zeros, ())
    if train and not self.is_initializing():
      seen.value += 1
    flat = x.reshape(len(x), -1)
    top, low = nn.Dense(2)(flat), nn.Dense(4)(flat).reshape(-1, 2, 1, 2)
    self.sow("penalties", "commitment", flat.sum(axis=1))
    self.sow("penalties", "commitment", 2 * flat.sum(axis=1))
    groups = tuple(Latent(z, Gaussian(z, 0.1 * z), Gaussian(0.5 * z, 0 * z)) for z in (top, low))
    code = jnp.concatenate([top, low.reshape(len(x), -1)], axis=1)
    return Inference(nn.Dense(flat.shape[1])(code).reshape(x.shape), groups, code)


def test_groups_penalties_and_kept_collections_of_a_model_are_heeded():
  task, state = build(Levels(), beta=2.0)
  x = BATCH["image"] / np.float32(255)
  _, groups, _ = Levels().apply({"params": state.params["model"], **state.model_state}, x, KEY)
  rates = [np.asarray(kl(group.posterior, group.prior)).reshape(6, -1) for group in groups]
  np.testing.assert_allclose(task.latents.rates(state, KEY, BATCH), np.concatenate(rates, axis=1), atol=1e-5)
  measured, total = evaluated(task, state), x.sum(axis=(1, 2, 3))[:4].mean()
  assert measured["commitment"] == pytest.approx(3 * total, rel=1e-5)
  assert measured["rate"] == pytest.approx(sum(r.sum(axis=1)[:4].mean() for r in rates), rel=1e-4)
  expected = measured["distortion"] + 2 * measured["rate"] + measured["commitment"]
  assert measured["loss"] == pytest.approx(expected, rel=1e-6)
  assert set(state.model_state) == {"counts"}
  after, _ = jax.jit(task.train_step)(state, BATCH)
  assert float(after.model_state["counts"]["seen"]) == 1
  free, _ = build(Levels(), free_bits=100.0)  # of maps [B, 2, 1, C] each channel counts once
  measured = evaluated(free, state)
  assert measured["loss"] - measured["distortion"] - measured["commitment"] == pytest.approx(400, rel=1e-5)


@pytest.mark.parametrize(
  ("mode", "fields"),
  [
    ("jit", {"free_bits": 0.3}),
    ("pmap", {}),
    ("pmap", {"free_bits": 0.3}),
    ("pmap", {"importance_samples": 2}),
  ],
  ids=lambda part: part if isinstance(part, str) else ",".join(part) or "plain",
)
def test_eight_devices_learn_what_one_does(mode, fields):
  """Masks differ between replicas; noise does too under pmap, so the model draws none."""
  batch = {
    "image": RNG.integers(0, 256, size=(16, 2, 2, 1)).astype(np.uint8),
    "mask": (RNG.uniform(size=16) < 0.7).astype(np.float32),
  }
  after = []
  for devices, how in ((1, "jit"), (8, mode)):
    task = Autoencode(Levels(), Sgd(learning_rate=0.1), **fields).build(spec_of(batch), 10)
    program = compile_task(task, spec_of(batch).batch, make_mesh(devices), how)
    state = program.init(jax.random.key(0))
    for _ in range(2):
      state, measured = program.train_step(state, batch)
    after.append(jax.device_get((state.params, read(measured))))
  chex.assert_trees_all_close(*after, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(
  ("model", "fields", "said"),
  [
    (MODEL, {"beta": -1.0}, r"--task\.beta=-1\.0 is too small"),
    (MODEL, {"warm_up": 1.5}, r"--task\.warm_up=1\.5 has to be between 0 and 1"),
    (MODEL, {"importance_samples": 0}, r"--task\.importance_samples=0 is too small"),
    (MODEL, {"importance_samples": 2, "beta": 2.0}, "leave out beta, warm_up and free_bits"),
    (MODEL, {"likelihood": "logistic", "binarise": "sample"}, "makes pixels 0 or 1"),
    (MODEL, {"likelihood": "squared"}, "no likelihood, which a model with latents needs"),
    (MODEL, {"sparsity": 1.0}, r"set --task\.model\.posterior=rectified"),
    (PLAIN, {"beta": 2.0}, "go with a model that has latents"),
    (PLAIN, {"importance_samples": 2}, "go with a model that has latents"),
  ],
  ids=str,
)
def test_what_does_not_go_together_is_refused_in_one_line(model, fields, said):
  with pytest.raises(UserError, match=said) as refused:
    Autoencode(model, Adam(), **fields).build(SPEC, 10)
  assert "\n" not in str(refused.value)


def test_points_are_encoded_as_images_are_and_come_back_in_their_own_unit():
  points = np.random.default_rng(0).normal(5, 3, size=(6, 4)).astype(np.float32)
  batch = {"point": points, "mask": np.ones(6, np.float32)}
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
  scaling = Scaling(np.float32(5), np.float32(3))
  spec = Spec(shapes, prepare=lambda key, b: {**b, "point": scaling.scale(b["point"])}, scaling=scaling)
  with pytest.raises(UserError, match="likelihood=bernoulli is of pixels"):
    Autoencode(MLPVAE(), Adam()).build(spec, 10)
  model = MLPVAE(hidden_dim=5, latent_dim=2)
  task = Autoencode(model, Adam(), likelihood="gaussian").build(spec, 10)
  state = task.init(jax.random.key(0), batch)
  state, measured = jax.jit(task.train_step)(state, batch)
  assert np.isfinite(measured["loss"].value())
  code = task.latents.encode(state, batch)
  made = task.predict(state, KEY, batch)["point"]
  np.testing.assert_allclose(made, 3 * task.latents.images(state, code) + 5, rtol=1e-5)
  request = {"index": np.arange(2), "temperature": np.zeros(2, np.float32)}
  middle = task.latents.images(state, np.zeros((2, 2), np.float32))
  np.testing.assert_allclose(task.generate(state, KEY, request)["point"], 3 * middle + 5, rtol=1e-5)


def test_data_without_images_or_with_other_numbers_is_refused():
  recipe = Autoencode(MODEL, Adam())
  with pytest.raises(UserError, match="needs images"):
    recipe.build(Spec({"mask": jax.ShapeDtypeStruct((6,), jnp.float32)}), 10)
  with pytest.raises(UserError, match=r"set --data\.scale=unit"):
    recipe.build(spec_of(BATCH, scaling=Scaling(np.float32(0.5), np.float32(0.5))), 10)
