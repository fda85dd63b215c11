"""A single image goes the way that the images of the training went."""

import numpy as np
import pytest
from PIL import Image

from dlcourse.data.image_files import BadImage
from dlcourse.data.images import Images
from dlcourse.data.recipe import DataRecipe
from dlcourse.data.single_images import fit_of, read_single
from dlcourse.data.streamed import StreamedImages


def photos(folder, sides, channels=3, count=10):
  """Two classes of PNG images with these sides (height, width), taken in turn."""
  rng = np.random.default_rng(0)
  for name in ("cat", "dog"):
    (folder / name).mkdir(parents=True)
    for i in range(count):
      pixels = rng.integers(0, 256, (*sides[i % len(sides)], channels)).astype(np.uint8)
      Image.fromarray(pixels.squeeze()).save(folder / name / f"{i}.png")
  return folder


@pytest.mark.parametrize("fit", ["pad", "resize"])
@pytest.mark.parametrize(
  ("sides", "channels", "size"),
  [([(8, 8)], 1, 12), ([(8, 8)], 3, 9), ([(8, 8), (6, 9)], 3, 12), ([(20, 20)], 1, 12), ([(20, 16)], 3, 12)],
)
def test_a_file_becomes_the_pixels_that_were_trained_on(tmp_path, sides, channels, size, fit):
  folder = photos(tmp_path / "photos", sides, channels)
  recipe = Images(f"folder:{folder}", batch_size=20, size=size, fit=fit, validation=0.2)
  data = recipe.build()
  trained = {image.tobytes() for split in data.sizes for b in data.eval_batches(split) for image in b["image"]}
  for file in folder.rglob("*.png"):
    assert read_single(file, data.spec.image_shape, fit_of(recipe)).tobytes() in trained


def test_a_streamed_image_is_cut_as_at_evaluation(tmp_path):
  folder = photos(tmp_path / "photos", [(8, 9)])
  recipe = StreamedImages(f"folder:{folder}", batch_size=4, size=10, validation=0.1)
  data = recipe.build()
  (batch,) = data.eval_batches("test")
  seen = {read_single(file, data.spec.image_shape, fit_of(recipe)).tobytes() for file in folder.rglob("*.png")}
  assert batch["image"][0].tobytes() in seen


def test_the_way_of_the_images_is_known_by_their_recipe():
  assert fit_of(Images("digits", size=32)) == "pad"
  assert fit_of(Images("digits", size=32, fit="resize")) == "resize"
  assert fit_of(StreamedImages()) == "middle"
  assert fit_of(DataRecipe()) == "resize"


@pytest.mark.parametrize(("fit", "corner"), [("pad", 0), ("resize", 200), ("middle", 200)])
def test_a_small_image_is_padded_or_enlarged(tmp_path, fit, corner):
  Image.new("L", (3, 4), 200).save(tmp_path / "small.png")
  pixels = read_single(tmp_path / "small.png", (8, 8, 1), fit)
  assert (pixels.shape, pixels.dtype) == ((8, 8, 1), np.uint8)
  assert (pixels[0, 0, 0], pixels[4, 4, 0]) == (corner, 200)


def test_of_a_long_image_the_middle_is_seen(tmp_path):
  pixels = np.zeros((10, 30, 3), np.uint8)
  pixels[:, 10:20] = 255
  Image.fromarray(pixels).save(tmp_path / "long.png")
  for fit in ("pad", "resize", "middle"):
    assert read_single(tmp_path / "long.png", (8, 8, 3), fit)[:, 1:7].min() == 255


def test_grey_is_luma(tmp_path):
  Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
  assert read_single(tmp_path / "red.png", (8, 8, 1), "pad")[0, 0, 0] == round(0.299 * 255)


def test_what_is_no_image_is_refused(tmp_path):
  (tmp_path / "text.png").write_text("no image")
  for fit in ("pad", "resize", "middle"):
    with pytest.raises(BadImage, match=r"text\.png: cannot be decoded"):
      read_single(tmp_path / "text.png", (8, 8, 1), fit)
