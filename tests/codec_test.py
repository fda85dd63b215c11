"""Files of compressed images: what comes back, and what is refused."""

import gzip
import hashlib
import json
import types

import numpy as np
import pytest
from PIL import Image

from dlcourse import bits_back, codec
from dlcourse.codec import compress, decompress, digest_of_model, read_compressed, read_images
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


def trained(weight=1.0, activation="relu"):
  state = types.SimpleNamespace(params={"w": np.float32([weight, 2])}, model_state={})
  record = {"experiment": "vae.tiny", "resolved": {"task.activation": activation, "steps": 3}}
  return types.SimpleNamespace(state=state, record=record, path="runs/tiny")


@pytest.fixture
def compressed(monkeypatch, tmp_path):
  """A file of six images, and its rates."""
  monkeypatch.setattr(codec, "_networks", lambda trained: NETWORKS)
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
  assert (rates.images, rates.changed, rates.file_bytes) == (6, 0, file.stat().st_size)
  assert rates.bits_per_dim == pytest.approx(8 * file.stat().st_size / 96)
  words = read_compressed(file).words
  assert rates.net_bits_per_dim * 96 + rates.initial_bits == pytest.approx(32 * len(words))


def test_pixels_that_become_black_or_white_are_counted(compressed, tmp_path):
  grey = IMAGES.copy()
  grey[0, 0, :3] = 100
  np.savez(tmp_path / "grey.npz", images=grey)
  assert compress(trained(), tmp_path / "grey.npz", tmp_path / "grey.dlbb").changed == 3
  decompress(trained(), tmp_path / "grey.dlbb", tmp_path / "grey")
  np.testing.assert_array_equal(read_images(tmp_path / "grey", SHAPE), of_black_and_white(grey))


def test_a_damaged_byte_anywhere_and_a_file_cut_short_are_refused(compressed):
  file, _ = compressed
  whole = file.read_bytes()
  for place in range(0, len(whole), 2):
    broken = bytearray(whole)
    broken[place] ^= 1 << place % 8
    file.write_bytes(broken)
    with pytest.raises(UserError, match=r"is damaged|was not written by|is of version"):
      read_compressed(file)
  for length in range(0, len(whole), 11):
    file.write_bytes(whole[:length])
    with pytest.raises(UserError, match=r"is damaged|was not written by"):
      read_compressed(file)


def rewritten(file, change):
  """The same file with other facts and a checksum that fits."""
  body = file.read_bytes()[codec._HEAD.size :]
  model, length = codec._MODEL.unpack_from(body)
  facts = json.loads(body[codec._MODEL.size :][:length])
  change(facts)
  text = json.dumps(facts).encode()
  body = codec._MODEL.pack(model, len(text)) + text + body[codec._MODEL.size + length :]
  file.write_bytes(codec._HEAD.pack(codec.MAGIC, codec.VERSION, hashlib.sha256(body).digest()) + body)


@pytest.mark.parametrize(
  ("fact", "value"),
  [
    ("shape", [6, 4, 4]),
    ("shape", [6, 4, 4, 1.0]),
    ("shape", [0, 4, 4, 1]),
    ("shape", [2**40, 2**40, 4, 1]),
    ("shape", 6),
    ("untouched", -1),
    ("untouched", "3"),
    ("surroundings", 3),
  ],
)
def test_facts_that_make_no_sense_are_refused(compressed, fact, value):
  file, _ = compressed
  rewritten(file, lambda facts: facts.update({fact: value}))
  with pytest.raises(UserError, match="says nothing about its images that can be read"):
    read_compressed(file)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (
      lambda facts: facts["surroundings"].update(device="gpu, H100"),
      "compressed with device 'gpu, H100', and here",
    ),
    (lambda facts: facts["surroundings"].update(jaxlib="0.1"), "compressed with jaxlib '0.1', and here is '"),
    (lambda facts: facts.update(shape=[6, 8, 8, 1]), r"says that its images are \(8, 8, 1\), its model has"),
    (lambda facts: facts.update(untouched=10**9), "1,000,000,000 words were left over"),
    (lambda facts: facts.update(shape=[5, 4, 4, 1]), "do not compute the same here"),
    (lambda facts: facts.update(untouched=facts["untouched"] - 1), "do not compute the same here"),
  ],
)
def test_other_surroundings_and_facts_that_fit_no_code_are_refused(compressed, tmp_path, change, said):
  file, _ = compressed
  rewritten(file, change)
  with pytest.raises(UserError, match=said):
    decompress(trained(), file, tmp_path / "back")
  assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("other", [{"weight": 1.0000001}, {"activation": "tanh"}])
def test_another_model_is_refused_by_its_weights_and_by_its_recipe(compressed, tmp_path, other):
  file, _ = compressed
  with pytest.raises(UserError, match=r"another model than that of runs/tiny: one of vae.tiny"):
    decompress(trained(**other), file, tmp_path / "back")


def test_a_model_is_the_same_whatever_it_was_trained_for():
  longer = trained()
  longer.record["resolved"]["steps"] = 9
  assert digest_of_model(longer) == digest_of_model(trained())


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
