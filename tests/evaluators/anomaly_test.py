"""The search for latents with generators whose best latent is known, and the areas of plain anomalies."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Scaling, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators import anomaly
from dlcourse.evaluators.anomaly import Anomalies, nearest_latents
from dlcourse.task import Latents

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
FRAME, _ = np.linalg.qr(RNG.normal(size=(4, 2)))  # columns of a plane in the space of 2x2 images


def linear(state, z):
  return (z @ FRAME.T * state).reshape(-1, 2, 2, 1)


def twice(state, images):
  return 2 * images.reshape(len(images), -1)


LINEAR = Latents(2, linear, twice)


def test_the_latent_of_an_image_that_is_made_is_found():
  z = RNG.normal(size=(5, 2)).astype(np.float32)
  found, loss = nearest_latents(LINEAR, 3.0, linear(3.0, z), jnp.zeros((1, 5, 2)), 300)
  np.testing.assert_allclose(found, z, atol=0.01)
  assert loss.max() < 0.05


def test_the_loss_of_what_cannot_be_made_is_that_of_pixels_and_features():
  flat = Latents(1, lambda state, z: jnp.concatenate([z, 0 * z], axis=1).reshape(-1, 1, 2, 1), twice)
  images = np.array([[0.5, 0.2], [-1.0, 2.0]], np.float32).reshape(2, 1, 2, 1)
  found, loss = nearest_latents(flat, None, images, jnp.zeros((1, 2, 1)), 200)
  np.testing.assert_allclose(found[:, 0], [0.5, -1.0], atol=0.01)
  np.testing.assert_allclose(loss, [(0.9 + 0.1 * 2) * 0.2, (0.9 + 0.1 * 2) * 2.0], atol=0.02)


def test_the_best_start_counts_and_the_best_step_of_it():
  dead = Latents(1, lambda state, z: jax.nn.relu(z).reshape(-1, 1, 1, 1), twice)  # no slope below 0
  images = np.array([1.0, 2.0], np.float32).reshape(2, 1, 1, 1)
  start = jnp.array([[[-1.0], [1.5]], [[0.5], [-1.0]]])
  found, loss = nearest_latents(dead, None, images, start, 100)
  np.testing.assert_allclose(found[:, 0], [1, 2], atol=0.02)
  assert loss.max() < 0.05
  exact, loss = nearest_latents(dead, None, images, jnp.array([[[1.0], [2.0]]]), 2)
  np.testing.assert_array_equal(exact[:, 0], [1, 2])  # although Adam would move on
  np.testing.assert_array_equal(loss, [0, 0])


def data_of(trained_on=(0, 1)):
  """Images of classes 0 and 1 lie in the plane (0 is grey), those of class 2 stand out of it by 0.3."""
  labels = np.arange(90) % 3
  normal = np.linalg.svd(FRAME.T)[2][2]  # orthogonal to the plane
  points = RNG.uniform(-0.15, 0.15, (90, 2)) @ FRAME.T + 0.3 * (labels == 2)[:, None] * normal
  images = np.round((points + 0.5) * 255).astype(np.uint8).reshape(-1, 2, 2, 1)
  known = np.isin(labels, trained_on)
  splits = {
    "train": {"image": images[known], "label": labels[known]},
    "test": {"image": images, "label": labels},
  }
  spec = Spec(
    {"image": jax.ShapeDtypeStruct((16, 2, 2, 1), np.uint8)},
    ("cat", "dog", "bee"),
    scaling=Scaling(np.float32(0.5), np.float32(1)),
  )
  sizes = {name: len(part["label"]) for name, part in splits.items()}
  return Data(spec, None, lambda split: in_order(splits[split], 16), sizes, "", "")


def test_anomalies_are_told_from_what_can_be_made(monkeypatch):
  shown = {}
  monkeypatch.setattr(
    anomaly, "labelled_images", lambda images, titles, columns: shown.update(images=images, titles=titles)
  )
  data, task = data_of(), types.SimpleNamespace(latents=LINEAR)
  # More than one chunk, of which the last is padded.
  report = Anomalies(images=60, steps=60, starts=1)(task, 1.0, data, KEY)
  assert report.scalars["anomaly_auc"] == 1
  assert report.scalars["neighbour_auc"] == 1  # the other classes are in the training split themselves
  row, baseline = report.tables["anomalies"]
  assert (row["measure"], row["n"], baseline["n"]) == ("AnoGAN", 60, 60)
  assert report.scalars["anomaly_auc_low"] == row["low"] == row["high"] == 1
  assert shown["titles"][:8] == ["cat", "dog"] * 4
  assert shown["titles"][16:24] == ["bee"] * 8
  normal, anomalous = ([float(title) for title in shown["titles"][at : at + 8]] for at in (8, 24))
  assert 10 * max(normal) < min(anomalous)
  images = shown["images"].reshape(4, 8, 4).astype(float)
  assert np.linalg.norm(images[0] - images[1], axis=1).max() < 0.03 * 255  # of rounded pixels
  assert np.linalg.norm(images[2] - images[3], axis=1).min() > 0.27 * 255


def test_without_anomalies_or_latents_it_says_what_is_missing():
  task = types.SimpleNamespace(latents=LINEAR)
  with pytest.raises(UserError, match=r"left out of training, as by --data\.left_out"):
    Anomalies()(task, 1.0, data_of((0, 1, 2)), KEY)
  with pytest.raises(UserError, match="it needs a GAN that makes images and is told no class"):
    Anomalies()(types.SimpleNamespace(latents=None), 1.0, data_of(), KEY)
  with pytest.raises(UserError, match="starts=0 is too small"):
    Anomalies(starts=0)
