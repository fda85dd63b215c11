import types

import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.errors import UserError
from dlcourse.evaluators.representation import Disentanglement, InkArithmetic, LinearProbe
from dlcourse.task import Latents

RNG = np.random.default_rng(0)
LABELS = RNG.integers(2, size=400).astype(np.int32)
FACTORS = np.stack([LABELS, RNG.integers(3, size=400)], axis=1).astype(np.int32)
# The class is in the sign of a pixel's difference from its neighbour, the ink in all others.
IMAGES = RNG.integers(100, 150, size=(400, 4, 4, 1)).astype(np.uint8)
IMAGES[:, 0, 0, 0] = 120 + 3 * LABELS


def data(names=("label", "factors"), classes=("a", "b")):
  arrays = {"image": IMAGES, "label": LABELS, "factors": FACTORS}
  kept = {name: arrays[name] for name in ("image", *names)}
  return types.SimpleNamespace(
    eval_batches=lambda split: in_order(
      {k: v[:300] if split == "train" else v[300:] for k, v in kept.items()}, 64
    ),
    spec=types.SimpleNamespace(classes=classes, unscale=lambda x: x),
  )


def task(encode, images=None):
  return types.SimpleNamespace(latents=Latents(2, images, encode=encode), conditional=False)


def first_pixel(state, batch):
  pixels = batch["image"].reshape(len(batch["mask"]), -1)
  return pixels[:, :2].astype(jnp.float32)


def test_a_code_that_knows_the_class_beats_as_many_principal_components():
  scores = LinearProbe()(task(first_pixel), None, data(), None).scalars
  assert scores["probe_accuracy"] == 1.0
  assert scores["pca_accuracy"] < 0.8
  few = LinearProbe(per_class=1)(task(first_pixel), None, data(), None).scalars
  assert few["pca_accuracy"] < 0.8


def test_latents_that_are_the_factors_have_the_whole_gap():
  known = task(lambda state, batch: batch["factors"].astype(jnp.float32))
  assert Disentanglement()(known, None, data(), None).scalars["mig"] == pytest.approx(1, abs=0.05)
  mixed = task(lambda state, batch: batch["factors"] @ jnp.array([[1.0, 1.0], [1.0, -1.0]]))
  assert Disentanglement()(mixed, None, data(), None).scalars["mig"] < 0.5


def test_the_ink_of_what_is_decoded_follows_the_vector():
  ink = task(
    lambda state, batch: batch["image"].reshape(len(batch["mask"]), -1).astype(jnp.float32)[:, :2] / 255,
    lambda state, z: jnp.broadcast_to(z.mean(axis=1)[:, None, None, None], (len(z), 4, 4, 1)),
  )
  report = InkArithmetic(images=3, steps=5)(ink, None, data(), None)
  assert report.scalars["ink_rank"] == pytest.approx(1)
  assert report.scalars["ink_gain"] > 1
  silent = task(ink.latents.encode, lambda state, z: jnp.zeros((len(z), 4, 4, 1)))
  assert InkArithmetic(images=3, steps=5)(silent, None, data(), None).scalars["ink_rank"] == 0


def test_data_that_do_not_say_enough_are_refused():
  with pytest.raises(UserError, match="known factors"):
    Disentanglement()(task(first_pixel), None, data(("label",)), None)
  with pytest.raises(UserError, match="images of classes"):
    LinearProbe()(task(first_pixel), None, data(classes=()), None)
