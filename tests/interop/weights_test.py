"""One door for every kind of file and every naming."""

import zipfile

import jax
import numpy as np
import pytest
from networks import random_bytes, shapes_of

from dlcourse.errors import UserError
from dlcourse.interop.fill import take
from dlcourse.interop.h5_file import write_h5
from dlcourse.interop.safetensors_file import write_safetensors
from dlcourse.interop.torch_names import torch_naming
from dlcourse.interop.weights import fill_model, read_weights, weights_of
from dlcourse.models.alexnet import ALEXNET, AlexNet
from dlcourse.models.densenet import DenseNet
from dlcourse.models.efficientnet import EFFICIENTNET, EFFICIENTNET_LITE
from dlcourse.models.googlenet import GOOGLENET
from dlcourse.models.lenet import LeNet5
from dlcourse.models.mobilenet_v2 import MobileNetV2
from dlcourse.models.resnet import RESNET
from dlcourse.models.vgg import VGG

SMALL = AlexNet((8, 8, 8, 8, 8), stem="small", dense_dim=6, num_classes=3)
MODELS = {
  "alexnet": SMALL,
  "two_towers": ALEXNET["two_towers"].clone(dense_dim=8),
  "vgg": VGG[11].clone(width=8, dense_dim=8),
  "googlenet": GOOGLENET["torchvision"].clone(width=16, aux=True),
  "resnet": RESNET[18].clone(width=8),
  "densenet": DenseNet((1, 2, 1, 1), growth=4),
  "mobilenet_v2": MobileNetV2(width=0.35),
  "efficientnet": EFFICIENTNET[0],
  "efficientnet_lite": EFFICIENTNET_LITE[0],
}


def sized(model):
  return model.clone(num_classes=model.num_classes or 5)


def variables_of(model):
  """Floats, as files hold them, and every position its own."""
  shapes = shapes_of(sized(model), 96)
  return jax.tree.map(lambda leaf: leaf.astype(np.float32), random_bytes(shapes))


def assert_same(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_header_that_begins_as_a_pickle_does_is_none(tmp_path):
  path, begins = tmp_path / "w.safetensors", set()
  for length in range(0, 300, 8):
    write_safetensors(path, {"a": np.ones(2)}, {"text": "x" * length})
    begins.add(path.read_bytes()[0])
    np.testing.assert_array_equal(read_weights(path)["a"], 1)
  assert 0x80 in begins


@pytest.mark.parametrize("style", ["flat", "keras", "torch"])
@pytest.mark.parametrize("name", MODELS)
def test_every_naming_is_recognised(name, style, tmp_path):
  model, path = MODELS[name], tmp_path / "weights.bin"
  variables = variables_of(model)
  arrays = weights_of(model, variables, style)
  if style == "keras":
    write_h5(path, arrays)
  else:
    write_safetensors(path, arrays)
  assert_same(fill_model(model, shapes_of(sized(model), 96), read_weights(path), "weights.bin"), variables)


@pytest.mark.parametrize(
  ("name", "family"),
  [
    ("mobilenet_v2", "efficientnet"),
    ("efficientnet", "efficientnet_pytorch"),
    ("efficientnet", "efficientnet_torchvision"),
    ("efficientnet_lite", "efficientnet"),
  ],
)
def test_every_librarys_names_are_recognised(name, family):
  variables = variables_of(MODELS[name])
  state = take(variables, torch_naming(family, variables))
  assert_same(fill_model(MODELS[name], variables, state, "w"), variables)


def test_own_names_are_for_every_model_and_every_format(tmp_path):
  model = LeNet5(num_classes=10)
  variables = variables_of(SMALL)
  write_h5(tmp_path / "w.h5", weights_of(SMALL, variables))
  assert_same(fill_model(SMALL, variables, read_weights(tmp_path / "w.h5"), "w.h5"), variables)
  with pytest.raises(UserError, match="LeNet5 has not"):
    weights_of(model, variables, "torch")


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_are_known_by_their_content(tmp_path, zipped):
  import torch

  variables = variables_of(SMALL)
  state = {name: torch.tensor(array) for name, array in weights_of(SMALL, variables, "torch").items()}
  torch.save(state, tmp_path / "w.h5", _use_new_zipfile_serialization=zipped)
  assert_same(fill_model(SMALL, variables, read_weights(tmp_path / "w.h5"), "w.h5"), variables)


def test_other_classes_keep_their_own_output():
  theirs = variables_of(SMALL)
  model = SMALL.clone(num_classes=7)
  ours = jax.tree.map(np.zeros_like, variables_of(model))
  arrays = weights_of(SMALL, theirs, "torch")
  with pytest.raises(UserError, match=r"^w\.pth: .* 2 of another shape, the first 'classifier.6.bias' \(3,\)"):
    fill_model(model, ours, arrays, "w.pth")
  for given in (arrays, {name: x for name, x in arrays.items() if not name.startswith("classifier.6")}):
    filled = fill_model(model, ours, given, "w.pth", without=("output",))
    assert_same(filled["params"].pop("output"), ours["params"]["output"])
    assert_same(filled["params"], {name: x for name, x in theirs["params"].items() if name != "output"})


def test_what_fits_is_taken_on_request():
  variables = variables_of(SMALL)
  arrays = weights_of(SMALL, variables, "keras")
  del arrays["fc7/bias"]
  zeros = jax.tree.map(np.zeros_like, variables)
  with pytest.raises(UserError, match="1 missing, the first 'fc7/bias'"):
    fill_model(SMALL, zeros, arrays, "w.h5")
  filled = fill_model(SMALL, zeros, arrays, "w.h5", strict=False)
  assert not filled["params"]["fc7"]["bias"].any()
  assert_same(filled["params"]["fc7"]["kernel"], variables["params"]["fc7"]["kernel"])


def test_names_of_nobody_are_answered_with_those_that_are_known():
  with pytest.raises(
    UserError, match=r"w\.pth has no name .*'encoder.weight'.* this project, torchvision's alexnet"
  ):
    fill_model(SMALL, variables_of(SMALL), {"encoder.weight": np.ones(1)}, "w.pth", strict=False)
  with pytest.raises(UserError, match=r"w\.pth has no name that"):
    fill_model(SMALL, variables_of(SMALL), {}, "w.pth")


def a_zip(path):
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("config.json", "{}")


@pytest.mark.parametrize(
  ("make", "said"),
  [
    (lambda path: path.write_bytes(b""), "is no weight file that is known: Keras's"),
    (lambda path: path.write_text("weights, as text\n"), "is no weight file that is known"),
    (a_zip, "is no weight file that is known"),
    (lambda path: path.write_bytes(b"PK\3\4 half a zip file"), "PyTorch weights, or is damaged"),
    (lambda path: path.mkdir(), "Is a directory"),
    (lambda path: None, "No such file"),
  ],
)
def test_what_is_no_weight_file_is_one_line(tmp_path, make, said):
  make(tmp_path / "w.pth")
  with pytest.raises(UserError, match=said) as refused:
    read_weights(tmp_path / "w.pth")
  assert "\n" not in str(refused.value)
