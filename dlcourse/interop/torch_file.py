"""Reads PyTorch's weight files without PyTorch, and without running what is in them.

`torch.save` writes pickles, which are programs. Here only what builds a tensor may be named in one; data are
read by the sizes that the tensors state, checked against what the file holds.
"""

import io
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from dlcourse.errors import UserError, described

_TYPES = {
  "DoubleStorage": np.float64,
  "FloatStorage": np.float32,
  "HalfStorage": np.float16,
  "BFloat16Storage": jnp.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}
_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before PyTorch 1.6
_STATE = ("state_dict", "model")  # where training scripts put the weights
_MOST_SHARED = 8  # times the file: of one storage there may be several tensors, such as tied embeddings
_MOST_AXES = 64  # that NumPy knows


class _Storage(NamedTuple):
  dtype: np.dtype
  key: str
  count: int


class _Tensor(NamedTuple):
  """A view of a storage: its data come later in the file."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of a `state_dict` file, of the zip format or the one before it: name -> array.

  Raises:
    UserError: the file is damaged, is none of `torch.save`, or holds something that is not a tensor.
  """
  try:
    if zipfile.is_zipfile(path):
      with zipfile.ZipFile(path) as file:
        return _read_zip(path, file)
    with open(path, "rb") as file:
      return _read_legacy(path, file)
  except UserError:
    raise
  except Exception as error:  # a file made by somebody else can lead a pickle anywhere
    raise UserError(f"{path} cannot be read as PyTorch weights, or is damaged ({described(error)})") from error


def _read_zip(path: pathlib.Path, file: zipfile.ZipFile) -> dict[str, np.ndarray]:
  (index,) = (name for name in file.namelist() if name.endswith("/data.pkl"))
  folder, left = index.removesuffix("data.pkl"), path.stat().st_size

  def data(storage: _Storage) -> bytes:
    nonlocal left
    entry = file.getinfo(f"{folder}data/{storage.key}")
    if entry.compress_type != zipfile.ZIP_STORED:
      raise ValueError(f"storage {storage.key} is compressed, which torch.save never does")
    left -= entry.file_size
    if left < 0:
      raise ValueError("its storages are larger than the file")
    return file.read(entry)

  if file.getinfo(index).compress_type != zipfile.ZIP_STORED:
    raise ValueError("data.pkl is compressed, which torch.save never does")
  return _tensors(path, _Unpickler(path, io.BytesIO(file.read(index))).load(), data)


def _read_legacy(path: pathlib.Path, file: BinaryIO) -> dict[str, np.ndarray]:
  if _Unpickler(path, file).load() != _MAGIC:
    raise pickle.UnpicklingError("it does not begin as torch.save writes it")
  for _ in ("protocol version", "machine"):
    _Unpickler(path, file).load()
  unpickler, stored = _Unpickler(path, file), {}
  state = unpickler.load()
  for key in _Unpickler(path, file).load():
    count = int.from_bytes(file.read(8), "little")
    size = count * unpickler.storages[key].dtype.itemsize
    if size > path.stat().st_size:
      raise ValueError(f"storage {key} is larger than the file")
    stored[key] = file.read(size)
  return _tensors(path, state, lambda storage: stored[storage.key])


def _weights(path: pathlib.Path, state: Any) -> dict[str, _Tensor]:
  """The tensors by name, from a state_dict or from a checkpoint that holds one."""
  for key in _STATE:
    if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
      state = state[key]
  if not isinstance(state, Mapping):
    raise UserError(f"{path} holds a {type(state).__name__}, not a state_dict")
  for name, value in state.items():  # names are texts or numbers, see `_put`
    if not isinstance(value, _Tensor) or not isinstance(name, str):
      raise UserError(f"{path} is not a state_dict: {name!r:.100} is a {type(value).__name__}, not a tensor")
  return dict(state)


def _tensors(path: pathlib.Path, state: Any, data: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
  cache: dict[str, np.ndarray] = {}
  arrays, left = {}, _MOST_SHARED * path.stat().st_size
  for name, tensor in _weights(path, state).items():
    storage = tensor.storage
    left -= math.prod(tensor.shape) * storage.dtype.itemsize
    if left < 0:
      raise ValueError(f"its tensors have more than {_MOST_SHARED} times the size of the file")
    if storage.key not in cache:
      cache[storage.key] = np.frombuffer(data(storage), storage.dtype)
    arrays[name] = _view(name, tensor, cache[storage.key])
  return arrays


def _view(name: str, tensor: _Tensor, data: np.ndarray) -> np.ndarray:
  """The tensor out of its storage: a copy, inside the storage and no larger than it."""
  _, offset, shape, strides = tensor
  if len(shape) != len(strides):
    raise ValueError(f"{name} has shape {shape} and strides {strides}")
  if math.prod(shape) == 0:
    return np.zeros(shape, data.dtype)
  last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
  if last >= len(data) or math.prod(shape) > len(data):
    raise ValueError(f"{name} of shape {shape} is larger than its storage of {len(data)}")
  steps = [stride * data.itemsize for stride in strides]
  return np.lib.stride_tricks.as_strided(data[offset:], shape, steps).copy()


class _Unpickler(pickle._Unpickler):  # the one in Python: the one in C takes the memory a memo index asks for
  """Knows tensors and ordered dicts, and refuses every other global by name.

  Keys are texts and numbers alone: pairs of pairs of pairs that are all the same one take for ever to hash.
  """

  dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

  def __init__(self, path: pathlib.Path, file: BinaryIO):
    super().__init__(file, encoding="utf-8")
    self.path = path
    self.storages: dict[str, _Storage] = {}

  def find_class(self, module: str, name: str) -> Any:
    allowed = {
      "collections.OrderedDict": _ordered,
      "torch._utils._rebuild_tensor_v2": _rebuild,
      "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    }
    allowed |= {f"torch.{storage}": np.dtype(dtype) for storage, dtype in _TYPES.items()}
    if f"{module}.{name}" not in allowed:
      wanted = " ".join(f"{module}.{name}".split())[:100]
      raise UserError(f"{self.path} asks for {wanted}, which is no part of a tensor; nothing was run")
    return allowed[f"{module}.{name}"]

  def persistent_load(self, pid: Any) -> _Storage:
    kind, dtype, key, _, count, *view = pid
    if kind != "storage" or not isinstance(dtype, np.dtype) or view not in ([], [None]):
      raise ValueError("a storage of an unknown kind")
    if not isinstance(key, str | int) or not isinstance(count, int):
      raise ValueError("a storage without a key or a size")
    self.storages[str(key)] = storage = _Storage(dtype, str(key), count)
    return storage

  def load_setitem(self) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    _put(self.stack[-1], key, value)

  def load_setitems(self) -> None:
    items = self.pop_mark()
    for key, value in zip(items[::2], items[1::2], strict=True):
      _put(self.stack[-1], key, value)

  def load_dict(self) -> None:
    items = self.pop_mark()
    self.append(_ordered(zip(items[::2], items[1::2], strict=True)))

  def load_build(self) -> None:
    self.stack.pop()  # what an object has besides, such as the versions of a state_dict, is left out

  def refuse(self) -> None:
    raise pickle.UnpicklingError("sets are no part of a tensor")

  dispatch |= {
    pickle.SETITEM[0]: load_setitem,
    pickle.SETITEMS[0]: load_setitems,
    pickle.DICT[0]: load_dict,
    pickle.BUILD[0]: load_build,
    pickle.ADDITEMS[0]: refuse,
    pickle.FROZENSET[0]: refuse,
  }


def _ordered(items: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
  """A dict, in the place of an OrderedDict."""
  result: dict[Any, Any] = {}
  for key, value in items:
    _put(result, key, value)
  return result


def _put(items: dict[Any, Any], key: Any, value: Any) -> None:
  if type(items) is not dict or not isinstance(key, str | int):
    raise pickle.UnpicklingError("a dict whose keys are no texts")
  items[key] = value


def _rebuild(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_) -> _Tensor:
  if not isinstance(storage, _Storage):
    raise ValueError("a tensor without a storage")
  if max(len(shape), len(strides)) > _MOST_AXES:
    raise ValueError(f"a tensor of {len(shape)} axes")
  if not all(isinstance(number, int) and 0 <= number < 2**63 for number in (offset, *shape, *strides)):
    raise ValueError("a tensor whose shape, strides or offset are not made of whole numbers")
  return _Tensor(storage, offset, tuple(shape), tuple(strides))
