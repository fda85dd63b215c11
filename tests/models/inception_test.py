"""Inception-v3: counts, maps, parity with its twin in PyTorch, and TensorFlow 1's resize."""

import jax.numpy as jnp
import numpy as np
import pytest
from networks import count, maps_of, once, shapes_of, variables_of

from dlcourse.errors import UserError
from dlcourse.interop.torch_names import as_torch, from_torch, torch_name
from dlcourse.models.inception import InceptionV3, inception_input, tf1_resize

MODEL = InceptionV3(num_classes=1_008)


def test_parameters_are_those_of_the_published_file():
  assert count(shapes_of(MODEL, 299)["params"]) == 23_850_960
  of_torchvision = count(shapes_of(MODEL.clone(num_classes=1_000), 299)["params"])
  assert of_torchvision == 27_161_264 - 3_326_696  # less its auxiliary classifier


def test_maps_are_those_of_table_1():
  maps = maps_of(MODEL, 299)
  assert {name: shape for name, shape in maps.items() if name in ("Mixed_5b", "Mixed_5d")} == {
    "Mixed_5b": (35, 35, 256),
    "Mixed_5d": (35, 35, 288),
  }
  assert [maps[f"Mixed_6{block}"] for block in "abcde"] == [(17, 17, 768)] * 5
  assert [maps[f"Mixed_7{block}"] for block in "abc"] == [(8, 8, 1_280), (8, 8, 2_048), (8, 8, 2_048)]
  assert maps["pool"] == (2_048,)


def test_an_image_too_small_is_refused():
  assert maps_of(MODEL, 75)["pool"] == (2_048,)
  with pytest.raises(UserError, match="takes 75x75"):
    shapes_of(MODEL, 74)


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("Conv2d_2b_3x3/conv/kernel", "Conv2d_2b_3x3.conv.weight"),
    ("Mixed_7c/branch3x3dbl_3b/norm/var", "Mixed_7c.branch3x3dbl_3b.bn.running_var"),
    ("output/bias", "fc.bias"),
  ],
)
def test_names_are_those_of_torch_fidelity(path, name):
  assert torch_name("inception_v3", path) == name


@pytest.mark.parity
def test_features_and_logits_are_those_of_torch():
  import torch  # extra `parity`
  import torch_inception

  image = np.random.default_rng(1).uniform(-1, 1, (1, 299, 299, 3)).astype(np.float32)
  variables = variables_of(MODEL, image)
  state = as_torch("inception_v3", variables)
  with torch.device("meta"):
    network = torch_inception.InceptionV3().eval()
  tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}
  counts = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
  assert set(tensors) | counts == set(network.state_dict())
  network.load_state_dict(tensors, strict=False, assign=True)
  with torch.no_grad():
    expected = network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))

  @once
  def apply(variables, image):
    features = MODEL.apply(variables, image, features=True)["pool"]
    output = variables["params"]["output"]
    return features, features @ output["kernel"] + output["bias"]

  filled = from_torch("inception_v3", shapes_of(MODEL, 299), state | dict.fromkeys(counts, np.zeros(())))
  for ours, theirs in zip(apply(filled, image), expected, strict=True):
    difference = np.abs(ours - theirs.numpy()).max() / np.abs(theirs.numpy()).max()
    print(f"{difference:.1e}")
    assert difference < 1e-5


def test_resize_takes_pixel_i_at_i_times_the_ratio():
  row = jnp.array([0.0, 10.0, 40.0])
  # At 0, 0.5, 1, 1.5, 2 and 2.5 of the axis; behind the last pixel there is nothing but itself.
  column = tf1_resize(jnp.broadcast_to(row[:, None], (3, 3))[None, ..., None], 6)[0, :, 0, 0]
  np.testing.assert_allclose(column, [0, 5, 10, 25, 40, 40], rtol=1e-6)
  larger = tf1_resize(row[None, None, :, None] + row[None, :, None, None], 4)[0, ..., 0]
  at = np.array([0, 7.5, 25, 40])  # at 0, 0.75, 1.5 and 2.25
  np.testing.assert_allclose(larger, at[:, None] + at, rtol=1e-6)


def test_resize_to_fewer_pixels_takes_them_as_they_are():
  image = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  np.testing.assert_array_equal(tf1_resize(jnp.asarray(image), 4), image[:, ::2, ::2])


def test_a_pixel_is_scaled_as_the_graph_does_and_grey_has_three_channels():
  images = jnp.full((2, 4, 4, 1), 255, jnp.uint8).at[1].set(0)
  made = inception_input(images)
  assert made.shape == (2, 299, 299, 3)
  np.testing.assert_allclose(made[:, 7, 9], [[127 / 128] * 3, [-1.0] * 3])
