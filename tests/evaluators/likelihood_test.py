import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.errors import UserError
from dlcourse.evaluators.likelihood import ActiveLatents, ImportanceLikelihood
from dlcourse.task import Latents

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(7, 1, 1, 1)).astype(np.float32)
SPREAD = 0.8  # of the posterior: the true one has sqrt(0.5)


def normal(x, mean, deviation):
  return -0.5 * jnp.square((x - mean) / deviation) - jnp.log(deviation) - 0.5 * jnp.log(2 * jnp.pi)


def log_weight(state, key, batch):
  """Of z ~ N(0, 1), x ~ N(z, 1), q(z | x) = N(x / 2, SPREAD)."""
  x = batch["image"].reshape(-1)
  z = x / 2 + SPREAD * jax.random.normal(key, x.shape)
  return normal(z, 0, 1) + normal(x, z, 1) - normal(z, x / 2, SPREAD)


class Stub(types.SimpleNamespace):
  def eval_batches(self, split):
    return in_order({"image": X if split == "test" else X + 1}, 4)


def data():
  spec = types.SimpleNamespace(
    batch={
      "image": jax.ShapeDtypeStruct((4, 1, 1, 1), jnp.float32),
      "mask": jax.ShapeDtypeStruct((4,), jnp.float32),
    },
    image_shape=(1, 1, 1),
  )
  return Stub(spec=spec)


def task(latents, *metrics):
  return types.SimpleNamespace(latents=latents, eval_step=lambda *_: dict.fromkeys(metrics, 0.0))


def test_many_draws_give_the_likelihood_that_a_linear_model_has():
  program = task(Latents(1, None, log_weight=log_weight), "bits_per_dim")
  report = ImportanceLikelihood(images=7, draws=4_000)(program, None, data(), KEY)
  exact = np.array(-normal(X.ravel(), 0, np.sqrt(2)))
  assert report.scalars["nll/iw4000@7"] == pytest.approx(exact.mean(), abs=0.01)
  assert report.scalars["bits_per_dim/iw4000@7"] == pytest.approx(exact.mean() / np.log(2), abs=0.02)
  gap = np.log(np.sqrt(0.5) / SPREAD) + SPREAD**2 - 0.5  # KL(q || p(z | x)), that of two Gaussians of one mean
  assert -report.scalars["elbo/iw4000@7"] == pytest.approx(exact.mean() + gap, abs=0.02)
  assert report.scalars["nll_train/iw4000@7"] == pytest.approx(
    float(-normal(X + 1, 0, np.sqrt(2)).mean()), abs=0.01
  )
  assert report.tables["likelihood"][0]["±"] == pytest.approx(1.96 * exact.std(ddof=1) / np.sqrt(7), abs=0.01)


def test_only_as_many_images_as_are_asked_for_are_measured_and_bits_only_of_whole_numbers():
  program = task(Latents(1, None, log_weight=log_weight))
  report = ImportanceLikelihood(images=5, draws=2)(program, None, data(), KEY)
  assert set(report.scalars) == {f"{name}/iw2@5" for name in ("nll", "elbo", "nll_train", "elbo_train")}


def encode(state, batch):
  x = batch["image"].reshape(-1, 1)
  return jnp.concatenate([x, 0.05 * x, jnp.full_like(x, 3.0)], axis=1)


def rates(state, key, batch):
  return jnp.abs(encode(state, batch))


def test_latents_whose_means_move_with_the_image_are_active():
  report = ActiveLatents()(task(Latents(3, None, encode=encode, rates=rates)), None, data(), KEY)
  assert report.scalars == {"active_units": 1.0, "active_share": pytest.approx(1 / 3)}
  rows = report.tables["latents"]
  assert [row["latent"] for row in rows] == [2, 0, 1]  # by their KL
  assert rows[1]["variance"] == pytest.approx(X.var(), rel=1e-5)
  assert rows[1]["KL in nats"] == pytest.approx(np.abs(X).mean(), rel=1e-5)


def test_a_collapse_is_logged(caplog):
  nothing = Latents(3, None, encode=lambda s, b: 0 * encode(s, b), rates=rates)
  ActiveLatents()(task(nothing), None, data(), KEY)
  assert "posterior collapse: 0 of 3 latents" in caplog.text


@pytest.mark.parametrize("evaluator", [ImportanceLikelihood(), ActiveLatents()])
@pytest.mark.parametrize("latents", [None, Latents(1, None)])
def test_a_task_without_posteriors_is_refused(evaluator, latents):
  with pytest.raises(UserError, match="needs a variational autoencoder"):
    evaluator(task(latents), None, data(), KEY)


def test_nan_is_refused():
  broken = Latents(1, None, log_weight=lambda s, k, b: jnp.full(4, jnp.nan))
  with pytest.raises(UserError, match="training has diverged"):
    ImportanceLikelihood(draws=1)(task(broken), None, data(), KEY)
