import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.models.vae import MLPVAE
from dlcourse.optim import Adam
from dlcourse.tasks.variational import Autoencode

RNG = np.random.default_rng(0)
BATCH = {
  "image": RNG.integers(0, 256, size=(6, 4, 4, 1)).astype(np.uint8),
  "mask": np.array([1, 1, 1, 1, 0, 0.0]),
}
BATCH["mask"] = BATCH["mask"].astype(np.float32)
SPEC = Spec(
  jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), BATCH),
  prepare=lambda key, batch: {**batch, "image": batch["image"].astype(jnp.float32) / 255},
)
MODEL = MLPVAE(hidden_dim=16, latent_dim=3)
KEY = jax.random.key(5)


def build(beta):
  task = Autoencode(MODEL, Adam(learning_rate=0.01), beta=beta).build(SPEC, 10)
  return task, jax.jit(task.init)(jax.random.key(0), BATCH)


@pytest.fixture(scope="module")
def vae():
  return build(1.0)


def test_the_elbo_equals_its_formula_on_the_images_that_count(vae):
  task, state = vae
  measured = {name: m.value() for name, m in jax.jit(task.eval_step)(state, KEY, BATCH).items()}
  x = BATCH["image"] / 255
  model = MODEL.clone(image_shape=(4, 4, 1))  # the shape of the data has reached the model
  logits, mean, log_var = (
    np.asarray(a, np.float64) for a in model.apply({"params": state.params}, x.astype(np.float32), KEY)
  )
  distortion = (x * np.logaddexp(0, -logits) + (1 - x) * np.logaddexp(0, logits)).sum((1, 2, 3))[:4].mean()
  rate = (0.5 * (mean**2 + np.exp(log_var) - 1 - log_var)).sum(1)[:4].mean()
  assert measured["distortion"] == pytest.approx(distortion, rel=1e-5)
  assert measured["rate"] == pytest.approx(rate, rel=1e-4)
  assert measured["elbo"] == pytest.approx(-distortion - rate, rel=1e-5)
  assert measured["loss"] == pytest.approx(-measured["elbo"], rel=1e-6)


def test_beta_weighs_the_rate_in_the_loss_and_not_in_the_elbo():
  task, state = build(4.0)
  measured = {name: m.value() for name, m in jax.jit(task.eval_step)(state, KEY, BATCH).items()}
  assert measured["loss"] == pytest.approx(measured["distortion"] + 4 * measured["rate"], rel=1e-6)
  assert measured["elbo"] == pytest.approx(-measured["distortion"] - measured["rate"], rel=1e-6)


def test_training_raises_the_elbo(vae):
  task, state = vae
  step = jax.jit(task.train_step)
  before = task.eval_step(state, KEY, BATCH)["elbo"].value()
  for _ in range(100):
    state, _ = step(state, BATCH)
  assert int(state.step) == 100
  assert task.eval_step(state, KEY, BATCH)["elbo"].value() > before + 0.5


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


def test_reconstructions_use_the_posterior_mean(vae):
  task, state = vae
  model, variables = MODEL.clone(image_shape=(4, 4, 1)), {"params": state.params}
  mean, _ = model.apply(variables, BATCH["image"].astype(np.float32) / 255, method="encode")
  expected = 1 / (1 + np.exp(-model.apply(variables, mean, method="decode")))
  for key in (KEY, jax.random.key(6)):
    np.testing.assert_allclose(task.predict(state, key, BATCH)["image"], expected, atol=1e-5)


def test_generated_images_decode_a_standard_normal_draw(vae):
  task, state = vae
  images = task.generate(state, KEY, {"index": np.arange(9)})["image"]
  z = jax.random.normal(KEY, (9, 3))
  logits = MODEL.clone(image_shape=(4, 4, 1)).apply({"params": state.params}, z, method="decode")
  np.testing.assert_allclose(images, 1 / (1 + np.exp(-logits)), atol=1e-5)
  assert images.shape == (9, 4, 4, 1)


def test_a_negative_beta_is_refused():
  with pytest.raises(UserError, match=r"--task\.beta=-1\.0 is too small"):
    Autoencode(MODEL, Adam(), beta=-1.0)
