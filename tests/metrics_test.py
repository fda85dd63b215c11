import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse import metrics


def test_mean_counts_only_what_the_mask_keeps():
  values = jnp.array([1.0, 2.0, 400.0])
  assert metrics.mean(values, jnp.array([1.0, 1.0, 0.0])).value() == 1.5
  assert metrics.mean(values).value() == pytest.approx(403 / 3)


def test_a_mean_of_nothing_is_nan():
  assert np.isnan(metrics.mean(jnp.ones(3), jnp.zeros(3)).value())


def test_accumulated_ragged_batches_give_the_mean_of_the_whole():
  values = np.random.default_rng(0).normal(size=103).astype(np.float32)
  cuts = np.split(values, [1, 40, 42, 100])  # a mean of the five means is another number
  parts = [{"loss": metrics.mean(jnp.array(cut))} for cut in cuts]
  whole = metrics.read(metrics.accumulate(parts))["loss"]
  assert whole == pytest.approx(values.mean(dtype=np.float64), rel=1e-6)
  assert whole != pytest.approx(np.mean([cut.mean() for cut in cuts]), rel=1e-2)


def test_accumulation_is_in_float64():
  part = {"loss": metrics.Mean(jnp.float32(0.0), jnp.float32(1.0))}
  large = {"loss": metrics.Mean(jnp.float32(2**24), jnp.float32(0.0))}
  small = {"loss": metrics.Mean(jnp.float32(1.0), jnp.float32(0.0))}  # 2**24 + 1 needs 25 bits
  assert metrics.read(metrics.accumulate([part, large, small]))["loss"] == 2**24 + 1


def test_perplexity_is_exp_of_the_overall_mean():
  nats = [jnp.array([1.0, 3.0]), jnp.array([0.5])]
  parts = [{"perplexity": metrics.Perplexity(x.sum(), jnp.float32(len(x)))} for x in nats]
  assert metrics.read(metrics.accumulate(parts))["perplexity"] == pytest.approx(np.exp(4.5 / 3))


def test_metrics_are_pytrees_that_keep_their_kind():
  metric = metrics.Perplexity(jnp.zeros(2), jnp.ones(2))
  assert type(jax.tree.map(jnp.sum, metric)) is metrics.Perplexity


def test_accumulating_nothing_gives_nothing():
  assert metrics.accumulate([]) == {}


def test_a_root_is_taken_of_the_overall_mean():
  parts = [
    {"rmse": metrics.Root(jnp.float32(total), jnp.float32(weight))} for total, weight in ((9, 1), (3, 2))
  ]
  assert metrics.read(metrics.accumulate(parts))["rmse"] == pytest.approx(2.0)
