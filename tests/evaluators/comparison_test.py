import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.comparison import EncodingError, SamplingTime, Sharpness, edges
from dlcourse.task import Latents

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 256, size=(12, 8, 8, 1), dtype=np.uint8)
SPEC = Spec({"image": jax.ShapeDtypeStruct((4, 8, 8, 1), np.uint8)})
DATA = Data(SPEC, None, lambda split: in_order({"image": IMAGES}, 4), {"test": 12}, "", "")


def plays(change):
  def generate(state, key, request):
    return {"image": np.resize(change(IMAGES / 255), (len(request["index"]), 8, 8, 1))}

  return types.SimpleNamespace(conditional=False, generate=generate)


def test_edges_are_the_laplacian_of_the_inside():
  image = np.random.default_rng(1).integers(0, 256, (1, 5, 6, 1)).astype(np.uint8)
  x = image[0, :, :, 0] / 255.0
  laplacian = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * x[1:-1, 1:-1]
  assert edges(image) == pytest.approx(laplacian.var())
  assert edges(np.full((2, 5, 5, 3), 7, np.uint8)) == 0
  ramp = np.tile(10 * np.arange(6, dtype=np.uint8)[:, None, None], (3, 1, 6, 1))
  assert edges(ramp) == pytest.approx(0, abs=1e-12)


def test_sharpness_is_one_of_the_images_themselves_and_falls_as_they_are_softened():
  same = Sharpness(12)(plays(lambda x: x), None, DATA, KEY).scalars["sharpness"]
  faint = Sharpness(12)(plays(lambda x: 0.5 * x), None, DATA, KEY).scalars["sharpness"]
  soft = Sharpness(12)(plays(lambda x: (x + np.roll(x, 1, 1)) / 2), None, DATA, KEY).scalars["sharpness"]
  assert same == pytest.approx(1)
  assert faint == pytest.approx(0.25, rel=0.02)
  assert soft < 0.5


def of_latents(**others):
  latents = Latents(64, lambda state, z: (0.5 + z / 4).reshape(-1, 8, 8, 1), **others)
  return types.SimpleNamespace(latents=latents, conditional=False)


def test_an_encoder_is_used_where_there_is_one():
  def encode(state, batch):
    return 4 * (batch["image"].reshape(-1, 64) / 255.0 - 0.1 - 0.5)

  report = EncodingError(5)(of_latents(encode=encode), None, DATA, KEY)
  expected = np.sqrt(np.square(np.minimum(IMAGES[:5] / 255, 0.1)).mean())  # nothing is below black
  assert report.scalars["encoding_error"] == pytest.approx(expected, rel=1e-5)


def test_latents_are_searched_where_there_is_none_and_a_generator_of_all_images_is_near():
  def features(state, images):
    return jnp.zeros((len(images), 1))

  found = EncodingError(3, steps=300, starts=1)(of_latents(features=features), None, DATA, KEY)
  assert found.scalars["encoding_error"] < 0.02
  with pytest.raises(UserError, match="told no class"):
    EncodingError(3)(of_latents(), None, DATA, KEY)


def test_the_first_draw_is_not_timed(monkeypatch):
  clock, calls = [0.0], []
  monkeypatch.setattr("time.perf_counter", lambda: clock[0])

  def generate(state, key, request):
    calls.append(len(request["index"]))
    clock[0] += 30.0 if len(calls) == 1 else 2.0
    return {"image": np.zeros((len(request["index"]), 8, 8, 1))}

  task = types.SimpleNamespace(conditional=False, generate=generate)
  assert SamplingTime(50)(task, None, DATA, KEY).scalars == {"seconds_per_100": 4.0}
  assert calls == [50, 50]
