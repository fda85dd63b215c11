import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dlcourse.data.images import Images, padded
from dlcourse.errors import UserError
from dlcourse.evaluators import feature_extractors
from dlcourse.evaluators.feature_extractors import CHUNK, SHIPPED, fitted, open_extractor
from dlcourse.interop.safetensors_file import write_safetensors
from dlcourse.interop.weights import read_weights

FOLDER = feature_extractors.Path(feature_extractors.__file__).parent / "extractors"
IMAGES = np.random.default_rng(0).integers(0, 256, (CHUNK + 6, 28, 28, 1), np.uint8)


def softmax(logits):
  return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("which", SHIPPED)
def test_features_are_what_the_last_dense_layer_reads(which):
  extractor = open_extractor(which)
  features, probabilities = extractor.look(IMAGES)
  arrays = read_weights(FOLDER / f"{which}.safetensors")
  kernel, bias = (arrays[f"params/output/{leaf}"] for leaf in ("kernel", "bias"))
  assert features.shape == (len(IMAGES), 84)
  np.testing.assert_allclose(probabilities, softmax(features @ kernel + bias), atol=1e-5)
  assert (extractor.name, len(extractor.classes)) == (which, 10)


@pytest.mark.parametrize("which", SHIPPED)
def test_shipped_files_are_small_and_name_no_folder_of_this_machine(which):
  content = (FOLDER / f"{which}.safetensors").read_bytes()
  assert len(content) < 300_000
  assert not any(root in content for root in (b"/usr", b"/home", b"/tmp", b"/work"))


def test_the_number_of_images_in_a_call_changes_nothing():
  look = open_extractor("digits").look
  whole = look(IMAGES)
  for start, end in ((0, 1), (1, 9), (CHUNK - 1, len(IMAGES))):
    for part, all_of_it in zip(look(IMAGES[start:end]), whole, strict=True):
      np.testing.assert_allclose(part, all_of_it[start:end], rtol=1e-6, atol=1e-6)


def test_smaller_images_are_padded_as_the_classifiers_own_were():
  look = open_extractor("digits").look
  by_hand, _ = look(padded(IMAGES[:3], 32))
  np.testing.assert_allclose(look(IMAGES[:3])[0], by_hand, rtol=1e-5, atol=1e-5)


def test_any_exported_classifier_is_named_by_its_file(tmp_path):
  shutil.copy(FOLDER / "digits.safetensors", tmp_path / "mine.safetensors")
  extractor = open_extractor(f"classifier:{tmp_path / 'mine.safetensors'}")
  assert extractor.name == "mine"
  np.testing.assert_array_equal(extractor.look(IMAGES[:2])[0], open_extractor("digits").look(IMAGES[:2])[0])


def test_larger_images_are_resized_as_pillow_does():
  images = IMAGES[:2].repeat(3, axis=1)[:, :70]
  got = fitted(jnp.asarray(images, jnp.float32), (32, 32, 1), "pad")
  bilinear = Image.Resampling.BILINEAR
  expected = [np.asarray(Image.fromarray(image[..., 0]).resize((32, 32), bilinear)) for image in images]
  np.testing.assert_allclose(got[..., 0], np.stack(expected), atol=1.01)  # Pillow rounds after each axis


def test_without_padding_smaller_images_are_enlarged():
  flat = jnp.full((1, 4, 4, 1), 9.0)
  assert np.ptp(fitted(flat, (8, 8, 1), "pad")) == 9
  np.testing.assert_allclose(fitted(flat, (8, 8, 1), "resize"), 9.0, rtol=1e-6)


def test_colour_becomes_luma_and_grey_three_channels():
  colour = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
  expected = np.asarray(Image.fromarray(colour[0]).convert("L"))
  got = fitted(jnp.asarray(colour, jnp.float32), (8, 8, 1), "pad")
  np.testing.assert_allclose(got[0, ..., 0], expected, atol=1)
  made = fitted(jnp.asarray(colour[..., :1], jnp.float32), (8, 8, 3), "pad")
  np.testing.assert_array_equal(made, np.repeat(colour[..., :1], 3, axis=-1))
  with pytest.raises(UserError, match=r"of 3 channel\(s\) cannot look at images of 2"):
    fitted(jnp.zeros((1, 8, 8, 2)), (8, 8, 3), "pad")


class Tiny(nn.Module):
  """In place of Inception-v3: the mean of each channel, as features."""

  num_classes: int

  @nn.compact
  def __call__(self, x, train=False):
    return nn.Dense(self.num_classes, name="output")(x.mean(axis=(1, 2)))


def test_inception_reads_the_file_of_torch_fidelity_and_leaves_the_bias_out(tmp_path, monkeypatch):
  monkeypatch.setattr(feature_extractors, "InceptionV3", Tiny)
  rng = np.random.default_rng(2)
  weight, bias = rng.normal(size=(1_008, 3)).astype(np.float32), rng.normal(size=1_008).astype(np.float32)
  write_safetensors(tmp_path / "weights", {"fc.weight": weight, "fc.bias": bias}, {})
  extractor = open_extractor(f"inception:{tmp_path / 'weights'}")
  grey = np.full((3, 5, 5, 1), 160, np.uint8)
  features, probabilities = extractor.look(grey)
  np.testing.assert_allclose(features, 0.25, rtol=1e-5)  # (160 - 128) / 128
  np.testing.assert_allclose(probabilities, softmax(features @ weight.T), rtol=1e-4)
  assert extractor.name == "inception"


def test_weights_of_another_network_are_refused():
  with pytest.raises(
    UserError, match=r"digits.safetensors: these weights are not those of the model: .* missing"
  ):
    open_extractor(f"inception:{FOLDER / 'digits.safetensors'}")


def test_a_network_that_ends_otherwise_is_refused():
  class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      return nn.Conv(2, (3, 3))(x).mean(axis=(1, 2))

  model = Convolutional()
  x = jnp.zeros((1, 4, 4, 1))
  variables = model.init(jax.random.key(0), x)
  with pytest.raises(UserError, match="Convolutional ends in no dense layer"):
    feature_extractors._before_last_dense(model, variables, x)


@pytest.mark.parametrize("which", ["digit", "inception", "classifier:", "idx:folder"])
def test_names_of_no_extractor_are_answered_with_those_there_are(which):
  with pytest.raises(UserError, match="unknown extractor"):
    open_extractor(which)


@pytest.mark.data
def test_the_shipped_digits_are_told_apart():
  data = Images("mnist_5k", batch_size=250, size=28).build()
  right = total = 0
  for batch in data.eval_batches("test"):
    _, probabilities = open_extractor("digits").look(batch["image"])
    right += ((probabilities.argmax(axis=1) == batch["label"]) * batch["mask"]).sum()
    total += batch["mask"].sum()
  assert right / total == pytest.approx(0.989)
