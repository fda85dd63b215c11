"""Images as a file and back: what comes back, and what is refused."""

import gzip
import types

import numpy as np
import pytest
from PIL import Image

from dlcourse import bits_back, codec
from dlcourse.codec import compress, decompress, read_images
from dlcourse.compressed_file import packed, read_compressed
from dlcourse.errors import UserError

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(0)
IMAGES = np.where(RNG.random((6, *SHAPE)) > 0.5, 255, 0).astype(np.uint8)


def posterior(image):
  return np.array([image.mean() / 255, -1.0]), np.array([0.1, 0.3])


def masses(z):
  p = 1 / (1 + np.exp(-z.sum() - np.arange(16) / 8))
  return np.stack([1 - p, p], axis=1).astype(np.float32)


def of_black_and_white(images):
  return np.where(images > 127, 255, 0).astype(np.uint8)


NETWORKS = bits_back.Networks(SHAPE, 2, 2, of_black_and_white, posterior, masses)


def trained():
  state = types.SimpleNamespace(params={"w": np.float32([1, 2])}, model_state={})
  record = {"experiment": "vae.tiny", "resolved": {"steps": 3}}
  data = types.SimpleNamespace(spec=types.SimpleNamespace(image_shape=SHAPE))
  return types.SimpleNamespace(state=state, record=record, path="runs/tiny", data=data)


@pytest.fixture
def compressed(monkeypatch, tmp_path):
  """A file of six images, and its rates."""
  monkeypatch.setattr(codec, "_code_of", lambda trained: bits_back.image_code(NETWORKS))
  np.savez(tmp_path / "in.npz", images=IMAGES)
  return tmp_path / "out.dlbb", compress(trained(), tmp_path / "in.npz", tmp_path / "out.dlbb")


def test_images_come_back_as_arrays_and_as_files(compressed, tmp_path):
  file, rates = compressed
  assert decompress(trained(), file, tmp_path / "back.npz") == 6
  with np.load(tmp_path / "back.npz") as arrays:
    assert arrays["images"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["images"], IMAGES)
  assert decompress(trained(), file, tmp_path / "back") == 6
  assert [path.name for path in sorted((tmp_path / "back").iterdir())] == [f"{i:06d}.png" for i in range(6)]
  np.testing.assert_array_equal(read_images(tmp_path / "back", SHAPE), IMAGES)
  assert (rates["images"], rates["file_bytes"]) == (6, file.stat().st_size)
  assert rates["bits_per_dim"] == pytest.approx(8 * file.stat().st_size / 96)
  words = read_compressed(file).words
  assert rates["net_bits_per_dim"] * 96 + rates["initial_bits"] == pytest.approx(32 * len(words))


def test_grey_pixels_become_black_or_white_only_where_that_is_asked_for(compressed, tmp_path):
  grey = IMAGES.copy()
  grey[0, 0, :3] = 100
  np.savez(tmp_path / "grey.npz", images=grey)
  with pytest.raises(UserError, match="3 of 96 pixels are neither black nor white"):
    compress(trained(), tmp_path / "grey.npz", tmp_path / "grey.dlbb")
  compress(trained(), tmp_path / "grey.npz", tmp_path / "grey.dlbb", threshold=True)
  decompress(trained(), tmp_path / "grey.dlbb", tmp_path / "grey")
  np.testing.assert_array_equal(read_images(tmp_path / "grey", SHAPE), of_black_and_white(grey))


def test_what_fits_no_code_is_refused_before_anything_is_written(compressed, tmp_path):
  file, _ = compressed
  content = read_compressed(file)
  untouched = content.numbers["untouched"]
  for change, said in (
    ({"numbers": {"untouched": 10**9}}, "1,000,000,000 words were left over"),
    ({"numbers": {"untouched": untouched - 1}}, "do not compute the same here"),
    ({"shape": (5, 4, 4, 1)}, "do not compute the same here"),
    ({"model": bytes(32)}, r"another model than that of runs/tiny: one of vae.tiny"),
  ):
    file.write_bytes(packed(content._replace(**change)))
    with pytest.raises(UserError, match=said):
      decompress(trained(), file, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_nothing_is_written_over(compressed, tmp_path):
  file, _ = compressed
  with pytest.raises(UserError, match=r"out.dlbb is there already"):
    compress(trained(), tmp_path / "in.npz", file)
  with pytest.raises(UserError, match=r"in.npz is there already"):
    decompress(trained(), file, tmp_path / "in.npz")
  with pytest.raises(UserError, match="in a folder that does not exist"):
    decompress(trained(), file, tmp_path / "no" / "back")


def test_images_are_read_from_every_kind_of_source(tmp_path):
  folder = tmp_path / "folder"
  folder.mkdir()
  for name, image in zip("cab", IMAGES, strict=False):
    Image.fromarray(image[..., 0]).save(folder / f"{name}.png")
  (folder / "notes.txt").write_text("no image")
  np.testing.assert_array_equal(read_images(folder, SHAPE), IMAGES[[1, 2, 0]])  # by name
  np.testing.assert_array_equal(read_images(folder / "c.png", SHAPE), IMAGES[:1])
  np.savez(tmp_path / "flat.npz", images=IMAGES[..., 0])
  np.testing.assert_array_equal(read_images(tmp_path / "flat.npz", SHAPE), IMAGES)
  header = bytes([0, 0, 8, 3]) + np.array([6, 4, 4], ">u4").tobytes()
  (tmp_path / "t-idx3-ubyte.gz").write_bytes(gzip.compress(header + IMAGES.tobytes()))
  np.testing.assert_array_equal(read_images(tmp_path / "t-idx3-ubyte.gz", SHAPE), IMAGES)
  colour = np.repeat(IMAGES, 3, axis=-1)
  np.savez(tmp_path / "colour.npz", images=colour)
  np.testing.assert_array_equal(read_images(tmp_path / "colour.npz", (4, 4, 3)), colour)


@pytest.mark.parametrize(
  ("name", "images", "said"),
  [
    ("a.npz", {"pictures": IMAGES}, "needs an array `images`"),
    ("a.npz", {"images": IMAGES / 255}, "needs an array `images`, uint8"),
    ("a.npz", {"images": IMAGES[:, :3]}, r"a.npz is 3 x 4 x 1, and the model codes images of 4 x 4 x 1"),
    ("a.npz", {"images": RNG.integers(0, 9, (2, 4, 4, 3)).astype(np.uint8)}, "is 4 x 4 x 3, and the model"),
    ("a.png", {}, "cannot be decoded"),
    ("empty", {}, "holds no images"),
    ("gone", {}, "no such file or folder"),
  ],
)
def test_images_that_the_model_does_not_take_are_refused(tmp_path, name, images, said):
  (tmp_path / "empty").mkdir()
  (tmp_path / "a.png").write_text("no image")
  np.savez(tmp_path / "a.npz", **images)
  with pytest.raises(UserError, match=said):
    read_images(tmp_path / name, SHAPE)


BLACK = Image.new("L", (4, 4))


@pytest.mark.parametrize(
  ("name", "image", "options", "lost"),
  [
    ("deep.png", Image.fromarray(np.full((4, 4), 300, np.uint16)), {}, "16 bits"),
    ("clear.png", Image.new("RGBA", (4, 4)), {}, "transparency"),
    ("moving.gif", BLACK, {"save_all": True, "append_images": [Image.new("L", (4, 4), 9)]}, "2 frames"),
    ("ink.tif", Image.new("CMYK", (4, 4)), {}, "CMYK colours"),
  ],
)
def test_files_of_which_something_would_be_lost_are_refused(tmp_path, name, image, options, lost):
  image.save(tmp_path / name, **options)
  for source in (tmp_path / name, tmp_path):
    with pytest.raises(UserError, match=f"{name} has {lost}, which would not come back"):
      read_images(source, (4, 4, 1))
