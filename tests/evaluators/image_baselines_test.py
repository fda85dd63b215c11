"""Classical classifiers on images that they can and cannot tell apart."""

import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.image_baselines import ImageBaselines


def data(parts, **spec):
  return Data(Spec({}, ("dark", "light")), None, lambda split: in_order(parts[split], 8), {}, "", "")


def images(count, seed, told=True):
  rng = np.random.default_rng(seed)
  labels = (np.arange(count) % 2).astype(np.int32)
  pixels = rng.integers(0, 100, (count, 9, 7, 1)) + 120 * (labels if told else 0 * labels)[:, None, None, None]
  return {"image": pixels.astype(np.uint8), "label": labels}


def test_all_four_tell_light_from_dark():
  said = ImageBaselines(side=4)(None, None, data({"train": images(60, 0), "test": images(31, 1)}), None)
  rows = said.tables["baselines"]
  assert len(rows) == 4
  assert all(row["accuracy"] == 1 and 0.8 < row["accuracy_low"] < 1 for row in rows)
  assert all(row["images"] == 60 and row["seconds"] >= 0 for row in rows)
  assert said.scalars == {"best_baseline": 1.0}


def test_noise_is_noise():
  noise = data({"train": images(60, 0, told=False), "test": images(200, 1, told=False)})
  assert all(
    0.3 < row["accuracy"] < 0.7 for row in ImageBaselines()(None, None, noise, None).tables["baselines"]
  )


def test_squares_of_pixels_are_averaged():
  pixels = np.arange(2 * 5 * 4 * 1, dtype=np.uint8).reshape(2, 5, 4, 1)
  averaged = ImageBaselines(side=3)._averaged(pixels) * 255  # squares of 2; the fifth row is left over
  np.testing.assert_allclose(averaged[0], [2.5, 4.5, 10.5, 12.5], rtol=1e-5)


def test_one_class_cannot_be_learnt_from():
  parts = {"train": {name: array[::2] for name, array in images(8, 0).items()}, "test": images(4, 1)}
  with pytest.raises(UserError, match="at least two classes"):
    ImageBaselines()(None, None, data(parts), None)


def test_sequences_are_refused():
  parts = {"train": {"inputs": np.zeros((2, 3), np.int32), "label": np.zeros(2, np.int32)}}
  with pytest.raises(UserError, match="needs labelled images; this data has inputs, label, mask"):
    ImageBaselines()(None, None, data(parts), None)
