import types

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.watermark import Watermarked, jpeg
from dlcourse.theory.image_similarity import psnr
from dlcourse.watermark import PAYLOAD, embed

DIGITS = np.minimum(load_digits().images[:200, ..., None] * 16, 255).astype(np.uint8).repeat(4, 1).repeat(4, 2)
REAL, MADE = DIGITS[:100], DIGITS[100:]


def report(test):
  data = Data(
    Spec({"image": jax.ShapeDtypeStruct((10, 32, 32, 1), np.uint8)}),
    None,
    lambda split: in_order({"image": test}, 30),
    {"test": len(test)},
    "",
    "",
  )
  task = types.SimpleNamespace(
    conditional=False, generate=lambda state, key, request: {"image": MADE[request["index"] % 100] / 255}
  )
  return Watermarked(50)(task, None, data, jax.random.key(0)).scalars


def test_the_mark_of_generated_images_is_found_and_none_in_real_ones():
  found = report(REAL)
  assert set(found) == {
    "watermark_bits",
    "watermark_bits_jpeg75",
    "watermark_bits_unmarked",
    "watermark_psnr",
  }
  assert found["watermark_bits"] >= 0.99
  assert found["watermark_bits_jpeg75"] >= 0.9
  assert found["watermark_bits_unmarked"] == pytest.approx(0.5, abs=0.1)
  assert found["watermark_psnr"] == pytest.approx(psnr(embed(MADE[:50], PAYLOAD), MADE[:50], 255).mean())


def test_real_images_that_had_the_mark_would_be_found():
  assert report(embed(REAL, PAYLOAD))["watermark_bits_unmarked"] >= 0.99


def test_jpeg_is_that_of_the_file_at_its_quality(tmp_path):
  colour = np.concatenate([REAL[:2], REAL[2:4], REAL[4:6]], axis=-1)
  Image.fromarray(colour[1]).save(tmp_path / "x.jpg", quality=30)
  np.testing.assert_array_equal(jpeg(colour, 30)[1], np.asarray(Image.open(tmp_path / "x.jpg")))
  assert psnr(jpeg(REAL[:9], 95), REAL[:9], 255).mean() > psnr(jpeg(REAL[:9], 30), REAL[:9], 255).mean() + 3


def test_nothing_to_measure_is_refused():
  with pytest.raises(UserError, match="samples=0 is too small"):
    Watermarked(0)
