import numpy as np
import pytest

from dlcourse.data import captions
from dlcourse.data.captions import NAMES, DigitCaptions
from dlcourse.data.source import ImageSet
from dlcourse.errors import UserError

SPLITS = ("train", "validation", "test")


@pytest.fixture
def digits(monkeypatch):
  """200 flat images: the value of each tells which digit it is, and its label."""
  image = np.broadcast_to(np.arange(1, 201, dtype=np.uint8)[:, None, None, None], (200, 28, 28, 1))
  part = {"image": image, "label": (np.arange(200) % 10).astype(np.int32)}
  source = ImageSet({"all": part}, tuple("0123456789"), "flat images", "none", "none")
  monkeypatch.setattr(captions, "load_images", lambda name: source)


def seen(image):
  """The values of a row of flat digits, and where it starts."""
  values = image[0, :, 0].astype(int)
  start = np.flatnonzero(values)[0]
  blocks = image[:, start:, :][:, : 28 * ((len(values) - start) // 28)]
  found = [int(blocks[0, place, 0]) for place in range(0, blocks.shape[1], 28)]
  return [value for value in found if value], start


@pytest.mark.parametrize("tokens", ["chars", "words"])
def test_the_text_names_the_digits_from_left_to_right_and_none_is_in_two_splits(digits, tokens):
  data = DigitCaptions(batch_size=64, images=200, tokens=tokens).build()
  decode, found, places = data.spec.tokenizer.decode, {split: set() for split in SPLITS}, set()
  batches = [("train", data.batch(0, step)) for step in range(4)]
  batches += [(split, batch) for split in SPLITS for batch in data.eval_batches(split)]
  for split, batch in batches:
    for row in np.flatnonzero(batch["mask"][:, 0]):
      values, start = seen(batch["image"][row])
      places.add((len(values), int(start)))
      assert decode(batch["targets"][row]) == " ".join(NAMES[(value - 1) % 10] for value in values)
      assert decode(batch["tokens"][row]) == decode(batch["targets"][row])
      assert batch["mask"][row].sum() == batch["target_lengths"][row]
      found[split] |= set(values)
  assert [len(found[split]) for split in SPLITS] == [140, 20, 40]
  assert not found["train"] & found["test"]
  assert not found["validation"] & (found["train"] | found["test"])
  assert {start for count, start in places if count == 3} == {0}
  assert len({start for count, start in places if count == 2}) > 20


def test_images_are_scaled_with_the_step(digits):
  data = DigitCaptions(batch_size=4, images=4).build()
  batch = data.batch(0, 0)
  assert batch["image"].dtype == np.uint8
  prepared = data.spec.prepare(None, batch)["image"]
  np.testing.assert_allclose(prepared, batch["image"] / 255, rtol=1e-6)
  assert data.spec.image_shape == (28, 84, 1)
  assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
    name: (x.shape, x.dtype) for name, x in data.spec.batch.items()
  }


def test_the_longest_text_fits(digits):
  data = DigitCaptions(batch_size=512, shortest=3, images=4).build()
  longest = " ".join(["three"] * 3)
  assert data.spec.batch["targets"].shape[1] == len(longest) + 1
  assert DigitCaptions(tokens="words").build().spec.batch["targets"].shape[1] == 4


def test_training_is_a_function_of_seed_and_step(digits):
  one, other = (DigitCaptions(batch_size=8, images=8).build() for _ in range(2))
  np.testing.assert_array_equal(one.batch(1, 5)["image"], other.batch(1, 5)["image"])
  assert len({one.batch(seed, step)["image"].tobytes() for seed in (0, 1) for step in (0, 1)}) == 4
  assert one.digest == other.digest


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"shortest": 0}, "--data.shortest=0"),
    ({"longest": 1}, "--data.longest=1"),
    ({"images": 0}, "--data.images=0"),
    ({"validation": 0.0}, "--data.validation=0.0"),
  ],
)
def test_a_number_that_fits_no_row_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    DigitCaptions(**fields)


@pytest.mark.data
def test_the_real_digits():
  data = DigitCaptions().build()
  assert "3,500 to train, 500 to validation, 1,000 to test" in data.description
  batch = data.batch(0, 0)
  assert batch["image"].shape == (64, 28, 84, 1)
  assert 20 < batch["image"].mean() < 40
