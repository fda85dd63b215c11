"""Names and layouts of torchvision's weights, and the same logits from them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from networks import random_bytes, shapes_of

from dlcourse.errors import UserError
from dlcourse.interop.torch_names import as_torch, from_torch, to_flax, torch_name
from dlcourse.models.alexnet import ALEXNET
from dlcourse.models.googlenet import GOOGLENET
from dlcourse.models.resnet import RESNET
from dlcourse.models.vgg import VGG

GOOGLE = GOOGLENET["torchvision"].clone(aux=True)
MODELS = {
  "alexnet": ALEXNET["one_tower"],
  "vgg11": VGG[11],
  "vgg13": VGG[13],
  "vgg16": VGG[16],
  "vgg19": VGG[19],
  "googlenet": GOOGLE,
  "resnet": RESNET[50],
}


def shapes(model):
  return shapes_of(model.clone(num_classes=1000), 224)


@pytest.mark.parametrize(
  ("family", "path", "name"),
  [
    ("alexnet", "conv1/kernel", "features.0.weight"),
    ("alexnet", "conv5/bias", "features.10.bias"),
    ("alexnet", "fc6/kernel", "classifier.1.weight"),
    ("vgg11", "conv3_1/kernel", "features.6.weight"),
    ("vgg16", "conv5_3/bias", "features.28.bias"),
    ("vgg19", "conv5_4/bias", "features.34.bias"),
    ("vgg16", "output/kernel", "classifier.6.weight"),
    ("googlenet", "conv2/norm/mean", "conv3.bn.running_mean"),
    ("googlenet", "inception_4e/5x5_reduce/conv/kernel", "inception4e.branch3.0.conv.weight"),
    ("googlenet", "inception_3a/pool_proj/norm/scale", "inception3a.branch4.1.bn.weight"),
    ("googlenet", "aux2/fc/bias", "aux2.fc1.bias"),
    ("resnet", "norm1/var", "bn1.running_var"),
    ("resnet", "conv2_1/conv1/kernel", "layer1.0.conv1.weight"),
    ("resnet", "conv4_12/norm_project/bias", "layer3.11.downsample.1.bias"),
    ("resnet", "output/bias", "fc.bias"),
  ],
)
def test_names_are_those_of_torchvision(family, path, name):
  assert torch_name(family, path) == name


@pytest.mark.parametrize("family", MODELS)
def test_every_array_has_a_name_of_its_own(family):
  names = [torch_name(family, "/".join(path[1:])) for path in flatten_dict(shapes(MODELS[family]))]
  assert len(names) == len(set(names)) > 10


@pytest.mark.parametrize("path", ["norm1/scale", "conv6/kernel", "fc6/mode", ""])
def test_what_torchvision_has_not_is_refused(path):
  with pytest.raises(UserError, match=f"alexnet has nothing that could be '{path}'"):
    torch_name("alexnet", path)


def test_an_unknown_family_is_answered_with_the_nearest():
  with pytest.raises(UserError, match="perhaps you meant 'vgg16'"):
    torch_name("vgg16b", "fc6/kernel")


def test_a_dense_layer_sees_the_same_maps_in_both_orders():
  rng = np.random.default_rng(0)
  maps, weight = rng.normal(size=(2, 5, 3, 3)), rng.normal(size=(4, 45))
  ours = maps.transpose(0, 2, 3, 1).reshape(2, -1) @ to_flax(weight, 3)
  np.testing.assert_allclose(ours, maps.reshape(2, -1) @ weight.T)


def state_of(model, family):
  """Zeros under torchvision's names, in torch's layout."""
  state = {}
  for path, leaf in flatten_dict(shapes(model)).items():
    shape = leaf.shape[-1:-3:-1] + leaf.shape[:-2]  # [H, W, I, O] -> [O, I, H, W], [I, O] -> [O, I], [O] -> [O]
    state[torch_name(family, "/".join(path[1:]))] = np.broadcast_to(np.float32(0), shape)
  return state


def test_weights_that_do_not_fit_are_refused_and_what_nobody_needs_is_not():
  model, state = RESNET[18], state_of(RESNET[18], "resnet")
  spare = {"bn1.num_batches_tracked": np.zeros(()), "aux1.fc1.bias": np.zeros(2)}
  assert jax.tree.map(jnp.shape, from_torch("resnet", shapes(model), state | spare)) == jax.tree.map(
    lambda leaf: leaf.shape, shapes(model)
  )
  with pytest.raises(UserError, match=r"1 that the model has no place for, the first 'fc\.extra'"):
    from_torch("resnet", shapes(model), state | {"fc.extra": np.zeros(1)})
  with pytest.raises(
    UserError, match=r"1 of another shape, the first 'fc\.bias' \(10,\) where the model has \(1000,\)"
  ):
    from_torch("resnet", shapes(model), state | {"fc.bias": np.zeros(10)})
  with pytest.raises(UserError, match=r"1 missing, the first 'fc\.bias'"):
    from_torch("resnet", shapes(model), {name: state[name] for name in state if name != "fc.bias"})


@pytest.mark.parametrize("family", MODELS)
def test_there_and_back_changes_no_bit(family):
  variables = random_bytes(shapes(MODELS[family]))
  jax.tree.map(
    np.testing.assert_array_equal, from_torch(family, variables, as_torch(family, variables)), variables
  )


def randomised(network, seed):
  """A state of plausible size: He weights, positive variances, biases and means that matter."""
  rng = np.random.default_rng(seed)
  state = {}
  for name, tensor in network.state_dict().items():
    shape = tuple(tensor.shape)
    if name.endswith("num_batches_tracked"):
      state[name] = np.zeros(shape, np.int64)
    elif len(shape) > 1:
      state[name] = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    elif re.search(r"running_var|bn\d?\.weight|downsample\.1\.weight", name):
      state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    else:
      state[name] = rng.standard_normal(shape, np.float32) * np.float32(0.1)
  return state


NETWORKS = {
  "alexnet": ("alexnet", ALEXNET["one_tower"], lambda networks: networks.alexnet()),
  "vgg16": ("vgg16", VGG[16], lambda networks: networks.vgg()),
  "googlenet": ("googlenet", GOOGLE, lambda networks: networks.GoogLeNet()),
  "resnet18": ("resnet", RESNET[18], lambda networks: networks.resnet(18)),
  "resnet50": ("resnet", RESNET[50], lambda networks: networks.resnet(50)),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_torch(name):
  import torch  # extra `parity`; half a second that the other tests need not wait for
  import torch_networks

  family, model, build = NETWORKS[name]
  with torch.device("meta"):  # shapes alone
    network = build(torch_networks).eval()
  state = randomised(network, seed=0)
  network.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()}, assign=True)
  image = np.random.default_rng(1).standard_normal((1, 224, 224, 3), np.float32)
  with torch.no_grad():
    expected = network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
  expected = [logits.numpy() for logits in (expected if isinstance(expected, tuple) else [expected])]
  variables = from_torch(family, shapes(model), state)
  apply = jax.jit(lambda variables, x: model.clone(num_classes=1000).apply(variables, x, mutable=["aux"]))
  logits, sown = apply(variables, image)
  for ours, theirs in zip([logits, *jax.tree.leaves(sown)], expected, strict=True):
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"{name}: {difference:.1e}")
    assert difference < 1e-4
