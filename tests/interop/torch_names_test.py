"""Names and layouts of the weights of PyTorch's networks, and the same logits from them."""

import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from networks import random_bytes, shapes_of

from dlcourse.errors import UserError
from dlcourse.interop.torch_names import as_torch, from_torch, to_flax, torch_name, torch_naming
from dlcourse.models.alexnet import ALEXNET, AlexNet
from dlcourse.models.densenet import DENSENET
from dlcourse.models.efficientnet import EFFICIENTNET, EFFICIENTNET_LITE, TORCH_EFFICIENTNET_B0
from dlcourse.models.googlenet import GOOGLENET
from dlcourse.models.mobilenet_v2 import MOBILENET_V2
from dlcourse.models.resnet import RESNET
from dlcourse.models.vgg import VGG

GOOGLE = GOOGLENET["torchvision"].clone(aux=True)
# Every variant of the model tables, some of them narrow: name -> family and model.
MODELS = {
  **{f"alexnet_{name}": ("alexnet", model.clone(dense_dim=64)) for name, model in ALEXNET.items()},
  **{f"vgg{depth}": ("vgg", model.clone(width=16, dense_dim=64)) for depth, model in VGG.items()},
  "googlenet": ("googlenet", GOOGLE),
  "googlenet_paper": ("googlenet", GOOGLENET["paper"].clone(aux=True)),
  **{f"resnet{depth}": ("resnet", model.clone(width=16)) for depth, model in RESNET.items()},
  **{f"densenet{depth}": ("densenet", model) for depth, model in DENSENET.items()},
  "mobilenet_v2": ("mobilenet_v2", MOBILENET_V2),
  "mobilenet_v2_timm": ("efficientnet", MOBILENET_V2),
  **{f"efficientnet_b{i}": ("efficientnet", model) for i, model in EFFICIENTNET.items()},
  **{f"efficientnet_b{i}_pytorch": ("efficientnet_pytorch", EFFICIENTNET[i]) for i in (0, 7)},
  **{f"efficientnet_b{i}_torchvision": ("efficientnet_torchvision", EFFICIENTNET[i]) for i in (0, 7)},
  **{f"efficientnet_lite{i}": ("efficientnet_pytorch", model) for i, model in EFFICIENTNET_LITE.items()},
}


@functools.cache
def shapes(model):
  return shapes_of(model.clone(num_classes=1000), 224)


@pytest.mark.parametrize(
  ("model", "path", "name"),
  [
    ("alexnet_one_tower", "conv1/kernel", "features.0.weight"),
    ("alexnet_two_towers", "conv5/bias", "features.10.bias"),
    ("alexnet_one_tower", "fc6/kernel", "classifier.1.weight"),
    ("vgg11", "conv3_1/kernel", "features.6.weight"),
    ("vgg16", "conv5_3/bias", "features.28.bias"),
    ("vgg19", "conv5_4/bias", "features.34.bias"),
    ("vgg16", "output/kernel", "classifier.6.weight"),
    ("googlenet", "conv2/norm/mean", "conv3.bn.running_mean"),
    ("googlenet", "inception_4e/5x5_reduce/conv/kernel", "inception4e.branch3.0.conv.weight"),
    ("googlenet", "inception_3a/pool_proj/norm/scale", "inception3a.branch4.1.bn.weight"),
    ("googlenet", "aux2/fc/bias", "aux2.fc1.bias"),
    ("resnet50", "norm1/var", "bn1.running_var"),
    ("resnet50", "conv2_1/conv1/kernel", "layer1.0.conv1.weight"),
    ("resnet152", "conv4_12/conv3/kernel", "layer3.11.conv3.weight"),
    ("resnet50", "conv4_1/norm_project/bias", "layer3.0.downsample.1.bias"),
    ("resnet50", "output/bias", "fc.bias"),
    ("densenet121", "norm1/scale", "features.norm0.weight"),
    ("densenet121", "dense3_24/norm2/var", "features.denseblock3.denselayer24.norm2.running_var"),
    ("densenet201", "dense3_48/conv1/kernel", "features.denseblock3.denselayer48.conv1.weight"),
    ("densenet121", "transition2/conv/kernel", "features.transition2.conv.weight"),
    ("densenet121", "norm/mean", "features.norm5.running_mean"),
    ("mobilenet_v2", "stage1_1/project/kernel", "features.1.conv.1.weight"),
    ("mobilenet_v2", "stage2_1/expand/kernel", "features.2.conv.0.0.weight"),
    ("mobilenet_v2", "stage7_1/norm_project/bias", "features.17.conv.3.bias"),
    ("mobilenet_v2", "norm2/mean", "features.18.1.running_mean"),
    ("mobilenet_v2_timm", "stage7_1/project/kernel", "blocks.6.0.conv_pwl.weight"),
    ("efficientnet_b0", "stage1_1/project/kernel", "blocks.0.0.conv_pw.weight"),
    ("efficientnet_b0", "stage1_1/norm_depthwise/scale", "blocks.0.0.bn1.weight"),
    ("efficientnet_b7", "stage6_13/norm_depthwise/mean", "blocks.5.12.bn2.running_mean"),
    ("efficientnet_b0", "stage2_1/squeeze/bias", "blocks.1.0.se.conv_reduce.bias"),
    ("efficientnet_lite0", "norm2/scale", "_bn1.weight"),
    ("efficientnet_b0_pytorch", "stage3_1/excite/kernel", "_blocks.3._se_expand.weight"),
    ("efficientnet_lite4", "stage7_1/project/kernel", "_blocks.29._project_conv.weight"),
    ("efficientnet_b0_torchvision", "stage1_1/excite/bias", "features.1.0.block.1.fc2.bias"),
    ("efficientnet_b0_torchvision", "stage7_1/norm_project/var", "features.7.0.block.3.1.running_var"),
  ],
)
def test_names_are_those_of_the_libraries(model, path, name):
  family, model = MODELS[model]
  names = torch_naming(family, shapes(model)).names
  assert {names.get(f"{collection}/{path}") for collection in ("params", "batch_stats")} == {name, None}


@pytest.mark.parametrize("name", MODELS)
def test_every_array_has_a_name_of_its_own(name):
  family, model = MODELS[name]
  names = torch_naming(family, shapes(model)).names
  assert len(names) == len(set(names.values())) == len(jax.tree.leaves(shapes(model)))


@pytest.mark.parametrize("path", ["norm1/scale", "conv6/kernel", "fc6/mode", ""])
def test_what_torchvision_has_not_is_refused(path):
  with pytest.raises(UserError, match=f"alexnet has nothing that could be '{path}'"):
    torch_name("alexnet", path)


def test_an_unknown_family_is_answered_with_the_nearest():
  with pytest.raises(UserError, match="perhaps you meant 'densenet'"):
    torch_name("densenet121", "conv1/kernel")


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


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_changes_no_bit(name):
  family, model = MODELS[name]
  variables = random_bytes(shapes(model))
  state = as_torch(family, variables)
  jax.tree.map(np.testing.assert_array_equal, from_torch(family, shapes(model), state), variables)


def test_layouts_of_torch_are_those_of_the_model_and_not_of_a_table():
  small = AlexNet((8, 8, 8, 8, 8), stem="small", dense_dim=6, num_classes=3)
  variables = random_bytes(shapes_of(small, 32))
  kernel, weight = variables["params"]["fc6"]["kernel"], as_torch("alexnet", variables)["classifier.1.weight"]
  np.testing.assert_array_equal(weight.reshape(6, 8, 3, 3).transpose(2, 3, 1, 0), kernel.reshape(3, 3, 8, 6))


def test_files_of_densenet_that_torchvision_offers_have_dots_in_their_names():
  model = DENSENET[121].clone(depths=(1, 1), growth=4)
  variables = random_bytes(shapes_of(model.clone(num_classes=3), 32))
  old = {re.sub(r"(layer1\.(?:conv|norm))", r"\1.", k): x for k, x in as_torch("densenet", variables).items()}
  assert "features.denseblock1.denselayer1.norm.1.weight" in old
  jax.tree.map(np.testing.assert_array_equal, from_torch("densenet", variables, old), variables)


def randomised(network, seed):
  """A state of plausible size: He weights, positive variances, biases and means that matter."""
  rng, state = np.random.default_rng(seed), {}
  norms = {name for name, module in network.named_modules() if "BatchNorm" in type(module).__name__}
  for name, tensor in network.state_dict().items():
    shape, (layer, _, leaf) = tuple(tensor.shape), name.rpartition(".")
    if leaf == "num_batches_tracked":
      state[name] = np.zeros(shape, np.int64)
    elif len(shape) > 1:
      state[name] = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    elif leaf == "running_var" or (leaf == "weight" and layer in norms):
      state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    else:
      state[name] = rng.standard_normal(shape, np.float32) * np.float32(0.1)
  return state


# Family, model, module and builder of the reference network, side of the image.
NETWORKS = {
  "alexnet": ("alexnet", ALEXNET["one_tower"], "torch_networks", lambda its: its.alexnet(), 224),
  "two_towers": (
    "alexnet",
    ALEXNET["two_towers"],
    "torch_networks",
    lambda its: its.alexnet_in_two_towers(),
    224,
  ),
  "vgg16": ("vgg", VGG[16], "torch_networks", lambda its: its.vgg(), 224),
  "googlenet": ("googlenet", GOOGLE, "torch_networks", lambda its: its.GoogLeNet(), 224),
  "resnet18": ("resnet", RESNET[18], "torch_networks", lambda its: its.resnet(18), 224),
  "resnet50": ("resnet", RESNET[50], "torch_networks", lambda its: its.resnet(50), 224),
  "densenet121": ("densenet", DENSENET[121], "torch_networks", lambda its: its.DenseNet(), 96),
  "mobilenet_v2": (
    "mobilenet_v2",
    MOBILENET_V2,
    "torch_mobile_networks",
    lambda its: its.mobilenet_v2(),
    96,
  ),
  "efficientnet_b0": (
    "efficientnet_torchvision",
    TORCH_EFFICIENTNET_B0,
    "torch_mobile_networks",
    lambda its: its.efficientnet(),
    96,
  ),
  "efficientnet_b2": (
    "efficientnet",
    EFFICIENTNET[2],
    "torch_mobile_networks",
    lambda its: its.TimmEfficientNetB2(),
    96,
  ),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_torch(name):
  import torch  # extra `parity`; half a second that the other tests need not wait for

  family, model, module, build, side = NETWORKS[name]
  with torch.device("meta"):  # shapes alone
    network = build(importlib.import_module(module)).eval()
  state = randomised(network, seed=0)
  network.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()}, assign=True)
  image = np.random.default_rng(1).standard_normal((1, side, side, 3), np.float32)
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
