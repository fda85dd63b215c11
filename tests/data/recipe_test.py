import jax
import numpy as np
import pytest

from dlcourse.data.recipe import DataRecipe, Scaling, Spec, digest_of
from dlcourse.data.tokens import Tokenizer


def test_a_spec_knows_only_what_the_data_has():
  text = Spec({"tokens": jax.ShapeDtypeStruct((4, 7), np.int32)}, vocabulary=("a", "b", "c"))
  assert (text.vocab_size, text.num_classes, text.image_shape) == (3, None, None)
  images = Spec({"image": jax.ShapeDtypeStruct((4, 5, 6, 3), np.uint8)}, classes=("x", "y"))
  assert (images.vocab_size, images.num_classes, images.image_shape) == (None, 2, (5, 6, 3))


def test_without_a_scaling_batches_pass_unchanged():
  spec = Spec({})
  batch = {"tokens": np.arange(3)}
  assert spec.prepare(jax.random.key(0), batch) is batch
  assert spec.unscale(batch["tokens"]) is batch["tokens"]


def test_a_scaling_goes_to_model_space_and_back():
  scaling = Scaling(np.float32([0.5, 0.25]), np.float32(0.5))
  images = np.float32([[0, 0], [1, 1]])
  np.testing.assert_array_equal(scaling.scale(images), [[-1, -0.5], [1, 1.5]])
  np.testing.assert_array_equal(scaling.unscale(scaling.scale(images)), images)


def test_the_base_recipe_builds_nothing():
  with pytest.raises(NotImplementedError):
    DataRecipe().build()


def test_a_digest_changes_with_a_number_a_shape_and_the_order():
  a, b = np.arange(6), np.arange(4)
  same = digest_of([a, b])
  assert same == digest_of([a.copy(), b.copy()])
  assert (
    len({same, digest_of([b, a]), digest_of([a.reshape(2, 3), b]), digest_of([a + 1, b]), digest_of([a])}) == 5
  )


def test_text_comes_back_by_the_tokenizer_or_symbol_by_symbol():
  words = Tokenizer("words", ("<pad>", "<unk>", "<bos>", "<eos>", "red", "hats"))
  assert Spec({}, vocabulary=words.vocabulary, tokenizer=words).decode([4, 5, 3, 0]) == "red hats"
  assert Spec({}, vocabulary=("a", "b")).decode(np.array([1, 0])) == "ba"


def test_a_spec_scales_there_and_back():
  spec = Spec({}, scaling=Scaling(np.float32(50), np.float32(10)))
  assert spec.scale(np.float32(70)) == 2
  assert spec.unscale(spec.scale(np.float32(70))) == 70
  assert Spec({}).scale(3) == Spec({}).unscale(3) == 3
