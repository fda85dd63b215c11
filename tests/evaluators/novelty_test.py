import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dlcourse.data.batches import in_order
from dlcourse.errors import UserError
from dlcourse.evaluators.novelty import Novelty
from dlcourse.task import Latents

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
NORMAL = np.stack([RNG.normal(size=300), np.zeros(300)], axis=1).astype(np.float32)  # on a line
STRANGE = NORMAL[:60] + np.array([0, 0.5], np.float32)
SPLITS = {
  "train": (NORMAL[:200], np.zeros(200)),
  "validation": (NORMAL[200:240], np.zeros(40)),
  "test": (np.concatenate([NORMAL[240:], STRANGE]), np.arange(120) // 60),
}


def data(splits=SPLITS):
  spec = types.SimpleNamespace(
    batch={"point": jax.ShapeDtypeStruct((32, 2), jnp.float32)}, prepare=lambda key, batch: batch
  )
  return types.SimpleNamespace(
    spec=spec,
    eval_batches=lambda split: in_order({"point": splits[split][0], "label": splits[split][1].astype(int)}, 32),
  )


def task(log_weight=lambda state, key, batch: -jnp.abs(batch["point"][:, 1])):
  on_the_line = Latents(
    1,
    lambda state, z: jnp.concatenate([z, jnp.zeros_like(z)], axis=1),
    encode=lambda state, batch: batch["point"][:, :1],
    log_weight=log_weight,
  )
  return types.SimpleNamespace(latents=on_the_line)


def test_what_is_off_the_line_is_found_by_reconstruction_by_the_bound_and_by_components():
  report = Novelty()(task(), None, data(), KEY)
  for name in ("reconstruction_auc", "elbo_auc", "pca_auc"):
    assert report.scalars[name] == 1.0
  x, label = SPLITS["test"]
  mean, deviation = NORMAL[:200, 0].mean(), NORMAL[:200, 0].std()
  expected = roc_auc_score(label, ((x[:, 0] - mean) / deviation) ** 2)
  assert report.scalars["latent_auc"] == pytest.approx(expected, abs=1e-6)
  rows = {row["measure"]: row for row in report.tables["novelty"]}
  assert rows["reconstruction"]["anomalies found"] == 1.0
  assert rows["reconstruction"]["false alarms"] == 0.0
  assert rows["latent"]["false alarms"] == pytest.approx(0.05, abs=0.06)


def test_without_a_likelihood_there_is_no_elbo():
  assert "elbo_auc" not in Novelty()(task(None), None, data(), KEY).scalars


def test_there_have_to_be_strangers():
  same = SPLITS | {"train": (NORMAL[:200], np.arange(200) % 2)}
  with pytest.raises(UserError, match="classes that are not trained on"):
    Novelty()(task(), None, data(same), KEY)
  with pytest.raises(UserError, match="training has diverged"):
    Novelty()(task(lambda s, k, b: jnp.full(32, jnp.nan)), None, data(), KEY)
