import jax
import numpy as np
import pytest
from PIL import Image

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators import restoration
from dlcourse.evaluators.restoration import MOST, Restoration, enlarged
from dlcourse.theory.image_similarity import intersection_over_union, psnr, ssim

KEY = jax.random.key(0)


def data_of(image, source, batch_size=4):
  arrays = {"image": image, "source": source}
  shapes = {name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype) for name, x in arrays.items()}
  sizes = {"test": len(image)}
  return Data(Spec(shapes), None, lambda split: in_order(arrays, batch_size), sizes, "", "")


def levels(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


class Makes:
  """A task that makes an image of a batch."""

  def __init__(self, make):
    self.make, self.keys = make, []

  def predict(self, state, key, batch):
    self.keys.append(tuple(jax.random.key_data(key).tolist()))
    return {"image": self.make(batch)}


def scores_of(make, image, source):
  return Restoration()(Makes(make), None, data_of(image, source), KEY).scalars


def test_the_scores_are_means_over_the_images_of_the_whole_split():
  image, source = levels(6, 12, 12, 3), levels(6, 12, 12, 1, seed=1)
  task = Makes(lambda batch: 0.5 * batch["image"] / 255)
  scores = Restoration()(task, None, data_of(image, source), KEY).scalars
  true, grey = image / 255, np.repeat(source / 255, 3, axis=-1)
  assert scores == pytest.approx(
    {
      "psnr": psnr(true / 2, true).mean(),
      "ssim": ssim(true / 2, true).mean(),
      "baseline_psnr": psnr(grey, true).mean(),
      "baseline_ssim": ssim(grey, true).mean(),
    }
  )
  assert len(set(task.keys)) == 2


def test_the_baseline_of_a_small_source_is_its_bicubic_enlargement():
  image, source = levels(5, 16, 16, 3), levels(5, 4, 4, 3, seed=1)
  scores = scores_of(lambda batch: enlarged(batch["source"] / 255, batch["image"].shape), image, source)
  assert scores["psnr"] == scores["baseline_psnr"]
  assert scores["ssim"] == scores["baseline_ssim"]
  for x, y in zip(source, enlarged(source / 255, image.shape), strict=True):
    for c in range(3):
      plane = Image.fromarray((x[..., c] / 255).astype(np.float32))
      expected = np.asarray(plane.resize((16, 16), Image.Resampling.BICUBIC)).clip(0, 1)
      np.testing.assert_allclose(y[..., c], expected, atol=1e-5)


def test_a_perfect_image_is_as_near_as_8_bits_tell():
  image, source = levels(6, 12, 12, 1), levels(6, 12, 12, 1, seed=1)
  scores = scores_of(lambda batch: batch["image"] / 255, image, source)
  assert scores["psnr"] == pytest.approx(MOST)
  assert scores["ssim"] == pytest.approx(1)
  rounding = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 300, 300, 1)) / 255
  assert pytest.approx(psnr(rounding, 0 * rounding)[0], abs=0.1) == MOST


def test_what_leaves_0_to_1_is_clipped():
  image, source = np.where(levels(4, 12, 12, 1) < 128, 0, 255).astype(np.uint8), levels(4, 12, 12, 1, seed=1)
  assert scores_of(lambda batch: 3 * (batch["image"] / 255) - 1, image, source)["psnr"] == pytest.approx(MOST)


def test_the_overlap_of_masks_is_measured_where_all_images_are_masks():
  mask, source = np.where(levels(6, 12, 12, 1) < 128, 0, 255).astype(np.uint8), levels(6, 12, 12, 1, seed=1)
  scores = scores_of(lambda batch: 0.6 * batch["image"] / 255 + 0.1, mask, source)
  assert scores["iou"] == 1
  expected = intersection_over_union(source >= 128, mask > 0).mean()
  assert scores["baseline_iou"] == pytest.approx(expected)
  mask[5, 0, 0, 0] = 7
  assert not {"iou", "baseline_iou"} & set(scores_of(lambda batch: batch["image"] / 255, mask, source))


@pytest.mark.parametrize("asked", [3, 5, 9])
def test_the_figure_has_sources_above_made_above_true_images(monkeypatch, asked):
  seen = {}
  monkeypatch.setattr(
    restoration, "image_grid", lambda images, columns: seen.update(images=images, columns=columns)
  )
  image, source = levels(6, 12, 12, 3), levels(6, 3, 3, 1, seed=1)
  report = Restoration(images=asked)(
    Makes(lambda batch: batch["image"] / 510), None, data_of(image, source), KEY
  )
  count = min(asked, 6)
  rows = seen["images"].reshape(3, count, 12, 12, 3)
  assert seen["columns"] == count
  squares = source.repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
  for row, expected in zip(rows, (squares / 255, image / 510, image / 255), strict=True):
    np.testing.assert_allclose(row, expected[:count])
  assert set(report.figures) == {"restoration"}


def test_what_cannot_be_measured_is_refused():
  image, source = levels(6, 12, 12, 1), levels(6, 12, 12, 1, seed=1)
  data = data_of(image, source)
  unpaired = data._replace(spec=Spec({"image": data.spec.batch["image"]}))
  with pytest.raises(UserError, match="made from a source; use data like ImagePairs"):
    Restoration()(Makes(lambda batch: batch["image"]), None, unpaired, KEY)
  with pytest.raises(UserError, match="images of 11 x 11 or more"):
    Restoration()(Makes(lambda batch: batch["image"]), None, data_of(image[:, :8, :8], source[:, :8, :8]), KEY)
  with pytest.raises(UserError, match="images of NaN"):
    Restoration()(Makes(lambda batch: batch["image"] * np.nan), None, data, KEY)
  task = Makes(None)
  task.predict = lambda state, key, batch: batch["mask"]
  with pytest.raises(UserError, match="needs a task that makes images"):
    Restoration()(task, None, data, KEY)
  with pytest.raises(UserError, match="images=0 is too small"):
    Restoration(images=0)
