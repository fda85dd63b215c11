"""Weight files of PyTorch: the same tensors as PyTorch reads, and nothing else."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from dlcourse.errors import UserError
from dlcourse.interop.torch_file import read_torch

pytestmark = pytest.mark.parity


def state():
  numbers = torch.arange(24.0).reshape(2, 3, 4)
  return OrderedDict(
    weight=numbers,
    transposed=numbers.permute(2, 0, 1),
    view=numbers[1:, ::2],
    half=torch.tensor([0.5, -2.0], dtype=torch.float16),
    brain=torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
    steps=torch.tensor(7),
    flags=torch.tensor([True, False]),
    empty=torch.zeros(0, 3),
    parameter=torch.nn.Parameter(torch.ones(2)),
  )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
  "wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"m": [1]}}]
)
def test_every_tensor_is_as_pytorch_saved_it(tmp_path, zipped, wrap):
  torch.save(wrap(state()), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
  read = read_torch(tmp_path / "w.pth")
  assert list(read) == list(state())
  for name, tensor in state().items():
    assert read[name].shape == tuple(tensor.shape), name
    np.testing.assert_array_equal(read[name].astype(np.float64), tensor.detach().double().numpy())
  assert read["brain"].dtype.name == "bfloat16"


def test_a_module_keeps_its_names(tmp_path):
  module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
  torch.save(module.state_dict(), tmp_path / "w.pth")
  read = read_torch(tmp_path / "w.pth")
  assert set(read) == set(module.state_dict())
  np.testing.assert_array_equal(read["0.weight"], module[0].weight.detach().numpy())


class Program:
  def __reduce__(self):
    return os.system, ("touch /tmp/dlcourse_was_run",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_program_is_refused_by_name_and_not_run(tmp_path, zipped):
  torch.save({"w": Program()}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
  with pytest.raises(UserError, match=r"asks for (posix|nt)\.system"):
    read_torch(tmp_path / "w.pth")
  assert not os.path.exists("/tmp/dlcourse_was_run")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_one_line(tmp_path, zipped):
  torch.save(state(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
  whole = (tmp_path / "w.pth").read_bytes()
  for share in (0.0, 0.1, 0.5, 0.9):
    (tmp_path / "w.pth").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError) as refused:
      read_torch(tmp_path / "w.pth")
    assert "\n" not in str(refused.value)


def lying(tmp_path, **changed):
  """A zip file whose only tensor states another storage, shape or stride than its data have."""
  told = {"count": 4, "offset": 0, "shape": (2, 2), "strides": (2, 1)} | changed
  buffer = io.BytesIO()

  class Pickler(pickle._Pickler):
    def persistent_id(self, obj):
      return ("storage", torch.FloatStorage, "0", "cpu", told["count"]) if obj is Pickler else None

  class Tensor:
    def __reduce__(self):
      arguments = (Pickler, told["offset"], told["shape"], told["strides"], False, OrderedDict())
      return torch._utils._rebuild_tensor_v2, arguments

  Pickler(buffer, protocol=2).dump({"w": Tensor()})
  with zipfile.ZipFile(tmp_path / "w.pth", "w") as file:
    file.writestr("archive/data.pkl", buffer.getvalue())
    file.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())
  return tmp_path / "w.pth"


def test_a_file_made_by_hand_is_read(tmp_path):
  np.testing.assert_array_equal(read_torch(lying(tmp_path))["w"], [[0, 1], [2, 3]])


@pytest.mark.parametrize(
  "lie",
  [
    {"shape": (3, 2)},
    {"offset": 1},
    {"offset": -1},
    {"strides": (-2, 1)},
    {"strides": (2,)},
    {"shape": (10**9,), "strides": (0,)},  # would be 4 GB of the same number
    {"shape": (-1, 2)},
  ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path, lie):
  with pytest.raises(UserError, match="damaged"):
    read_torch(lying(tmp_path, **lie))


def test_what_is_no_state_dict_is_named(tmp_path):
  torch.save({"lr": 0.1}, tmp_path / "w.pth")
  with pytest.raises(UserError, match="'lr' is a float, not a tensor"):
    read_torch(tmp_path / "w.pth")
  torch.save([torch.ones(1)], tmp_path / "w.pth")
  with pytest.raises(UserError, match="holds a list"):
    read_torch(tmp_path / "w.pth")


def test_a_missing_file_is_one_line(tmp_path):
  with pytest.raises(UserError, match=r"gone\.pth cannot be read"):
    read_torch(tmp_path / "gone.pth")
