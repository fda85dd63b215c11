import io
import types

import jax
import numpy as np
import pytest
from PIL import Image

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.compression import Compression, common_formats, mosaic
from dlcourse.models.vae import MLPVAE
from dlcourse.optim import Adam
from dlcourse.tasks.variational import Autoencode

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (130, 4, 4, 1)).astype(np.uint8)


class Digits(types.SimpleNamespace):
  def eval_batches(self, split):
    assert split == "test"
    return in_order({"image": IMAGES}, 50)


def built(**fields):
  shapes = {
    "image": jax.ShapeDtypeStruct((50, 4, 4, 1), np.uint8),
    "mask": jax.ShapeDtypeStruct((50,), np.float32),
  }
  spec = Spec(shapes, prepare=lambda key, batch: {**batch, "image": batch["image"] / np.float32(255)})
  model = MLPVAE(hidden_dim=4, latent_dim=2)
  return Autoencode(model, Adam(learning_rate=0.1), **fields).build(spec, 1), Digits(
    spec=spec, sizes={"test": 130}
  )


def test_the_code_is_as_short_as_the_elbo_and_beside_it_stand_common_formats():
  task, data = built(binarise="threshold")
  batch = next(data.eval_batches("test"))
  state = jax.jit(task.init)(jax.random.key(0), batch)
  state = state.replace(params=jax.tree.map(lambda x: 0.3 * x, state.params))
  report = Compression(images=120)(task, state, data, jax.random.key(1))
  scalars = report.scalars
  codes = ("codec", "codec_initial", "elbo", "png_single", "png_mosaic", "gzip", "bz2")
  assert list(scalars) == [f"bits_per_dim/{name}@120" for name in codes]
  assert scalars["bits_per_dim/codec@120"] == pytest.approx(scalars["bits_per_dim/elbo@120"], rel=0.02)
  assert 0.9 < scalars["bits_per_dim/codec@120"] < 1.2  # noise of one bit a pixel
  assert 0 < scalars["bits_per_dim/codec_initial@120"] * 120 * 16 <= 32 * 4
  assert report.tables["compression"][0]["bytes"] == round(scalars["bits_per_dim/codec@120"] * 120 * 16 / 8)


def test_a_task_without_a_lossless_code_is_refused():
  task, data = built()
  with pytest.raises(UserError, match=r"task.likelihood=logistic"):
    Compression()(task, None, data, jax.random.key(0))


def test_a_mosaic_has_the_images_row_by_row():
  images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3, 1)
  made = mosaic(images)
  assert made.shape == (2 * 2, 3 * 3, 1) or made.shape == (5 * 2, 3, 1) or made.shape == (2, 5 * 3, 1)
  columns = made.shape[1] // 3
  for index, image in enumerate(images):
    row, column = divmod(index, columns)
    np.testing.assert_array_equal(made[2 * row : 2 * row + 2, 3 * column : 3 * column + 3], image)


def test_common_formats_are_those_of_real_files():
  flat = np.zeros((64, 8, 8, 1), np.uint8)
  noise = np.where(RNG.random((64, 8, 8, 1)) > 0.5, 255, 0).astype(np.uint8)
  file = io.BytesIO()
  Image.fromarray(noise[0, ..., 0]).convert("1").save(file, "PNG", optimize=True)
  one = common_formats(noise[:1], 2)
  assert one["png_single"] == one["png_mosaic"] == 8 * len(file.getvalue())
  for levels in (2, 256):
    sizes = common_formats(noise, levels)
    assert all(common_formats(flat, levels)[name] < sizes[name] for name in ("png_mosaic", "gzip", "bz2"))
    assert sizes["png_mosaic"] < sizes["png_single"]  # one header
  assert common_formats(noise, 2)["gzip"] < 1.3 * noise.size  # bits, where a byte a pixel would leave more
  colour = RNG.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
  assert min(common_formats(colour, 256).values()) > 8 * 0.9 * colour.size
