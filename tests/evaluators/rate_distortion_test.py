import io
import itertools
import json
import types

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from dlcourse import symbol_code
from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.evaluators import rate_distortion
from dlcourse.evaluators.compression import mosaic
from dlcourse.evaluators.rate_distortion import QUALITIES, RateDistortion, compared, unmosaic
from dlcourse.experiment import Run
from dlcourse.image_code import Encoded, ImageCode

RNG = np.random.default_rng(0)
SHAPE = (16, 16, 1)
NOISE = gaussian_filter(RNG.normal(size=(40, *SHAPE)), (0, 1.5, 1.5, 0))
IMAGES = np.clip(128 + 400 * NOISE, 0, 255).astype(np.uint8)


class Data(types.SimpleNamespace):
  def eval_batches(self, split):
    assert split == "test"
    return in_order({"image": IMAGES}, 16)


def data(shape=SHAPE):
  return Data(spec=Spec({"image": jax.ShapeDtypeStruct((2, *shape), np.uint8)}), sizes={"test": 40})


def coder(monkeypatch, words, error):
  """A code of so many words, whose images differ by so much."""
  symbols = np.arange(words, dtype=np.uint32)

  def decode(found, numbers, count, watch):
    np.testing.assert_array_equal(found, symbols)
    assert (numbers, count) == ({"checksum": 3}, 40)
    return np.where(IMAGES > 127, IMAGES - error, IMAGES + error).astype(np.uint8)

  encoded = Encoded(symbols, {"checksum": 3}, {})
  code = ImageCode(symbol_code.KIND, SHAPE, lambda images: images, lambda *_: encoded, decode)
  monkeypatch.setattr(rate_distortion, "task_of", lambda task: task)
  monkeypatch.setattr(symbol_code, "networks_of", lambda *_: None)
  monkeypatch.setattr(symbol_code, "image_code", lambda _: code)


def measured(monkeypatch, words=300, error=9, images=40):
  coder(monkeypatch, words, error)
  return RateDistortion(images=images)(None, None, data(), jax.random.key(0))


def test_symbols_have_the_size_of_their_file_and_the_loss_of_what_comes_back(monkeypatch):
  few, many = (measured(monkeypatch, words).scalars for words in (300, 900))
  pixels = 40 * 16 * 16
  assert many["bits_per_pixel/symbols@40"] - few["bits_per_pixel/symbols@40"] == pytest.approx(
    600 * 32 / pixels
  )
  header = few["bits_per_pixel/symbols@40"] * pixels / 8 - 1200
  assert 100 < header < 600  # bytes
  assert few["psnr/symbols@40"] == pytest.approx(20 * np.log10(255 / 9))
  assert 0 < few["ssim/symbols@40"] < 1


def test_a_row_of_a_format_is_a_file_that_was_written_and_read(monkeypatch):
  rows = measured(monkeypatch).tables["rate_distortion"]
  picture = mosaic(IMAGES)
  for kind in QUALITIES:
    (row,) = (row for row in rows if (row["code"], row["quality"]) == (kind, 50))
    file = io.BytesIO()
    options = {"method": 6} if kind == "WEBP" else {"optimize": True}
    Image.fromarray(picture[..., 0]).save(file, kind, quality=50, **options)
    made = np.asarray(Image.open(file).convert("L"), np.float64)
    assert row["bytes"] == len(file.getvalue())
    assert row["bits/pixel"] == pytest.approx(8 * row["bytes"] / IMAGES.size)
    assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / np.square(made - picture[..., 0]).mean()))
    curve = [row for row in rows if row["code"] == kind]
    assert len(curve) == len(QUALITIES[kind])
    assert curve[-1]["bytes"] > curve[0]["bytes"]
    assert curve[-1]["psnr"] > curve[0]["psnr"] + 5
  for kind in ("PNG lossless", "WEBP lossless"):
    (row,) = (row for row in rows if row["code"] == kind)
    assert "psnr" not in row
    assert row["bytes"] < IMAGES.size


def test_scores_are_read_off_the_curve_at_equal_loss_and_at_equal_size(monkeypatch):
  report = measured(monkeypatch)
  scalars, rows = report.scalars, report.tables["rate_distortion"]
  ours = {name: scalars[f"{name}/symbols@40"] for name in ("bits_per_pixel", "psnr")}
  for kind in QUALITIES:
    curve = sorted((row["psnr"], row["bits/pixel"]) for row in rows if row["code"] == kind)
    (_, below), (_, above) = next(
      pair for pair in itertools.pairwise(curve) if pair[0][0] <= ours["psnr"] <= pair[1][0]
    )
    assert below <= scalars[f"bits_per_pixel/{kind.lower()}@40"] <= above
  assert measured(monkeypatch, words=1).scalars.keys() == {
    *(f"{name}/symbols@40" for name in ("bits_per_pixel", "psnr", "ssim")),
    *(f"bits_per_pixel/{kind}@40" for kind in ("jpeg", "webp")),
  }  # no file is as small
  small = measured(monkeypatch, error=5).scalars
  assert small["bits_per_pixel/jpeg@40"] > scalars["bits_per_pixel/jpeg@40"]


def test_the_images_of_a_mosaic_come_back():
  for count in (1, 5, 36):
    images = RNG.integers(0, 256, (count, 3, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(unmosaic(mosaic(images), images.shape), images)


def test_a_study_has_the_symbols_of_all_runs_and_the_formats_once(monkeypatch, tmp_path):
  results = []
  for index, words in enumerate((100, 400)):
    folder = tmp_path / str(index) / "report"
    folder.mkdir(parents=True)
    rows = measured(monkeypatch, words).tables["rate_distortion"]
    (folder / "rate_distortion.json").write_text(json.dumps(rows))
    results.append((Run(f"{words} words", "vae.any"), {"workdir": tmp_path / str(index)}))
  report = compared(results)
  codes = [row["code"] for row in report.tables["rate_distortion"]]
  assert codes[:2] == ["100 words", "400 words"]
  assert codes.count("JPEG") == len(QUALITIES["JPEG"])
  assert codes.count("PNG lossless") == 1
  axes = report.figures["rate_distortion"].axes
  assert [a.get_ylabel() for a in axes] == ["PSNR in dB", "SSIM"]
  assert {"100 words", "400 words", "JPEG", "WEBP"} <= {text.get_text() for text in axes[1].get_legend().texts}


def test_small_images_are_refused():
  with pytest.raises(UserError, match="11 x 11 or more"):
    RateDistortion()(None, None, data((8, 8, 1)), jax.random.key(0))
