import jax
import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators import plausible
from dlcourse.evaluators.plausible import Example, Futures, Plausible, scores
from dlcourse.theory.image_similarity import psnr

KEY = jax.random.key(0)


def levels(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def data_of(image, source, batch_size=4):
  arrays = {"image": image, "source": source}
  shapes = {name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype) for name, x in arrays.items()}
  return Data(Spec(shapes), None, lambda split: in_order(arrays, batch_size), {"test": len(image)}, "", "")


class Draws:
  """A task that draws the true image with noise of a deviation that depends on the example."""

  def __init__(self, deviation):
    self.deviation, self.keys = deviation, []

  def predict(self, state, key, batch):
    self.keys.append(tuple(jax.random.key_data(key).tolist()))
    deviation = self.deviation * batch["source"].mean(axis=(1, 2, 3), keepdims=True) / 255
    noise = np.asarray(jax.random.normal(key, batch["image"].shape))
    return {"image": 0 * noise, "drawn": 0.25 + batch["image"] / 510 + deviation * noise}


def test_scores_are_those_of_single_draws_of_the_best_and_of_their_mean():
  rng = np.random.default_rng(0)
  true, draws = rng.uniform(size=(3, 4, 4, 2)), rng.uniform(size=(3, 5, 4, 4, 2))
  found = scores(Example(None, true, draws), np.full_like(true, 0.5))
  every = np.stack([psnr(draws[:, k], true) for k in range(5)])
  np.testing.assert_allclose(found["drawn_psnr"], every.mean(axis=0))
  np.testing.assert_allclose(found["best_psnr"], every.max(axis=0))
  np.testing.assert_allclose(found["mean_psnr"], psnr(draws.mean(axis=1), true))
  np.testing.assert_allclose(found["baseline_psnr"], psnr(np.full_like(true, 0.5), true))
  np.testing.assert_allclose(found["squared_spread"], draws.var(axis=1).mean(axis=(1, 2, 3)))


def test_scalars_are_means_over_the_split_and_every_draw_has_a_key_of_its_own():
  image, source = levels(6, 8, 8, 1), levels(6, 8, 8, 1, seed=1)
  task = Draws(0.1)
  report = Plausible(draws=3, images=2)(task, None, data_of(image, source), KEY)
  assert len(set(task.keys)) == 6  # of two batches
  assert set(report.scalars) == {
    *("drawn_psnr", "best_psnr", "mean_psnr", "baseline_psnr", "spread", "error_correlation")
  }
  assert report.scalars["baseline_psnr"] == pytest.approx(psnr(source / 255, image / 255).mean())
  assert report.scalars["best_psnr"] > report.scalars["drawn_psnr"]
  assert report.scalars["mean_psnr"] > report.scalars["drawn_psnr"]  # independent noise averages out
  assert set(report.figures) == {"plausible"}


def test_the_spread_is_the_deviation_and_it_correlates_with_errors_that_it_causes():
  image = np.full((40, 16, 16, 1), 128, np.uint8)
  source = np.linspace(0, 255, 40).astype(np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 1), np.uint8)
  unlike = Plausible(draws=10)(Draws(0.1), None, data_of(image, source), KEY).scalars
  expected = np.sqrt(0.9 * np.mean((0.1 * source[:, 0, 0, 0] / 255) ** 2))  # 9 / 10: about the draws' own mean
  assert unlike["spread"] == pytest.approx(expected, rel=0.02)
  assert unlike["error_correlation"] > 0.3
  alike = Plausible(draws=10)(Draws(0.1), None, data_of(image, 0 * source + 255), KEY).scalars
  assert abs(alike["error_correlation"]) < 0.05
  nothing = Plausible(draws=2)(Draws(0.0), None, data_of(image, source), KEY).scalars
  assert nothing["spread"] == nothing["error_correlation"] == 0


def test_the_baseline_of_a_future_is_its_last_frame_and_a_row_has_past_and_future(monkeypatch):
  image, past = levels(5, 6, 6, 3), levels(5, 6, 6, 2, seed=1)
  shown = {}
  monkeypatch.setattr(plausible, "image_grid", lambda images, columns: shown.update(images=images, of=columns))
  found = Futures(draws=2, videos=2)(Draws(0.1), None, data_of(image, past), KEY).scalars
  last = np.broadcast_to(past[..., -1:], image.shape)
  assert found["baseline_psnr"] == pytest.approx(psnr(last / 255, image / 255).mean())
  assert shown["of"] == 5
  rows = shown["images"].reshape(2, 3, 5, 6, 6)  # of each video: truth and two draws
  np.testing.assert_allclose(rows[:, 0, :2], np.moveaxis(past[:2], -1, 1) / 255, atol=1e-6)
  np.testing.assert_allclose(rows[:, 0, 2:], np.moveaxis(image[:2], -1, 1) / 255, atol=1e-6)
  np.testing.assert_array_equal(rows[:, 1:, :2], 0.5)
  assert np.any(rows[:, 1, 2:] != rows[:, 2, 2:])


def test_what_cannot_be_measured_is_refused():
  image = levels(2, 8, 8, 1)
  data = data_of(image, image)
  for evaluator in (Plausible(), Futures()):
    with pytest.raises(UserError, match="is told a source, such as ConditionalVAE"):
      evaluator(type("Makes", (), {"predict": lambda *args: {"image": image}}), None, data, KEY)
    with pytest.raises(UserError, match="images of NaN"):
      evaluator(Draws(np.nan), None, data, KEY)
    without = data._replace(spec=Spec({"image": data.spec.batch["image"]}))
    with pytest.raises(UserError, match="use data like ImagePairs or MovingDigits"):
      evaluator(Draws(1.0), None, without, KEY)
  with pytest.raises(UserError, match="draws=1 is too small"):
    Plausible(draws=1)
  with pytest.raises(UserError, match="videos=0 is too small"):
    Futures(videos=0)
