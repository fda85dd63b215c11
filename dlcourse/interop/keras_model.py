"""Models that are a sequence of layers as Keras 3 stores its `Sequential`: what to build, and its weights.

Keras is not needed here: its `load_model` finds the description in the attribute `model_config` of an .h5 file.

Shapes: H x W images, C channels, F filters.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from dlcourse.models.batch_norm import BatchNorm
from dlcourse.models.layers import Activation
from dlcourse.models.lenet import C3_TABLE, LeNet5, LeNet5Modern
from dlcourse.models.mlp import MLP
from dlcourse.models.small_cnn import SmallCNN

Params = Mapping[str, Any]


class Layer(NamedTuple):
  """A layer of Keras.

  Attributes:
    kind: its class there.
    name: unique in the model.
    config: arguments of its constructor, as far as they are not the default.
    weights: name there -> array, in Keras's order.
  """

  kind: str
  name: str
  config: Mapping[str, Any] = {}
  weights: Mapping[str, Any] = {}


def sequential(
  model: nn.Module,
  variables: Mapping[str, Any],
  image_shape: tuple[int, int, int],
  shift: np.ndarray,
  width: np.ndarray,
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
  """A classifier as a `Sequential` from pixels 0 … 255 [B, H, W, C] to probabilities [B, classes].

  Args:
    model: the network: images to logits.
    variables: of the model.
    image_shape: (H, W, C).
    shift: [] or [C], of the scale x -> (x - shift) / width for x = pixel / 255.
    width: [] or [C].

  Returns:
    (what `model_config` holds, "layer/weight" -> array), see `h5_file.write_model`; None for a model that is no
    sequence of Keras's layers.
  """
  if type(model) not in _SEQUENCES or model.activation == "gelu_tanh":  # for which Keras has no name
    return None
  layers = [_rescaling(shift, width), *_SEQUENCES[type(model)](model, variables)]
  entries = [_entry("InputLayer", {"name": "pixels", "batch_shape": [None, *image_shape], "dtype": "float32"})]
  entries += [_entry(layer.kind, {"name": layer.name, **layer.config}) for layer in layers]
  config = {"class_name": "Sequential", "config": {"name": type(model).__name__, "layers": entries}}
  weights = {
    f"{layer.name}/{name}": np.asarray(array) for layer in layers for name, array in layer.weights.items()
  }
  return config, weights


def _entry(kind: str, config: dict[str, Any]) -> dict[str, Any]:
  return {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}


def _rescaling(shift: np.ndarray, width: np.ndarray) -> Layer:
  """pixel * scale + offset."""
  shift, width = np.broadcast_arrays(np.asarray(shift, np.float64), np.asarray(width, np.float64))
  return Layer(
    "Rescaling", "rescaling", {"scale": (1 / (255 * width)).tolist(), "offset": (-shift / width).tolist()}
  )


def _lenet5(model: LeNet5, variables: Mapping[str, Any]) -> list[Layer]:
  params, after = variables["params"], model.activation
  table = {**params["C3"], "kernel": _table_kernel(params["C3"]["kernel"], params["C1"]["kernel"].shape[-1])}
  return [
    *_then(_conv("C1", params["C1"], "valid"), after),
    *_then(_subsample("S2", params["S2"]), after),
    *_then(_conv("C3", table, "valid"), after),
    *_then(_subsample("S4", params["S4"]), after),
    *_lenet5_end(params, after),
  ]


def _lenet5_modern(model: LeNet5Modern, variables: Mapping[str, Any]) -> list[Layer]:
  params, after = variables["params"], model.activation
  return [
    *_then(_conv("C1", params["C1"], "valid"), after),
    _max_pool("S2"),
    *_then(_conv("C3", params["C3"], "valid"), after),
    _max_pool("S4"),
    *_lenet5_end(params, after),
  ]


def _lenet5_end(params: Params, after: Activation) -> list[Layer]:
  return [
    *_then(_conv("C5", params["C5"], "valid"), after),
    Layer("Flatten", "flatten"),
    *_then(_dense("F6", params["F6"]), after),
    _output(params),
  ]


def _mlp(model: MLP, variables: Mapping[str, Any]) -> list[Layer]:
  params, layers = variables["params"], [Layer("Flatten", "flatten")]
  for i in range(len(model.hidden_dims)):
    layers.append(_dense(f"Dense_{i}", params[f"Dense_{i}"]))
    if model.norm:
      name = f"BatchNorm_{i}"
      layers.append(_batch_norm(name, params[name], variables["batch_stats"][name]))
    layers += [_activation(layers[-1].name, model.activation), _dropout(f"Dropout_{i}", model.dropout)]
  return [*layers, _output(params)]


def _small_cnn(model: SmallCNN, variables: Mapping[str, Any]) -> list[Layer]:
  params, after = variables["params"], model.activation
  return [
    *_then(_conv("conv1", params["conv1"], "same"), after),
    _max_pool("pool1"),
    *_then(_conv("conv2", params["conv2"], "same"), after),
    _max_pool("pool2"),
    Layer("GlobalAveragePooling2D" if model.global_pool else "Flatten", "pool"),
    *_then(_dense("dense", params["dense"]), after),
    _dropout("dropout", model.dropout),
    _output(params),
  ]


_SEQUENCES: dict[type[nn.Module], Callable[[Any, Mapping[str, Any]], list[Layer]]] = {
  LeNet5: _lenet5,
  LeNet5Modern: _lenet5_modern,
  MLP: _mlp,
  SmallCNN: _small_cnn,
}


def _then(layer: Layer, activation: Activation) -> tuple[Layer, Layer]:
  return layer, _activation(layer.name, activation)


def _activation(name: str, activation: Activation) -> Layer:
  """An activation as a layer of its own, as it is after batch norm, and so that leaky ReLU has our slope."""
  if activation == "leaky_relu":
    return Layer("LeakyReLU", f"{name}_{activation}", {"negative_slope": 0.01})
  # Keras's gelu is the exact one, as here.
  return Layer(
    "Activation", f"{name}_{activation}", {"activation": {"swish": "silu"}.get(activation, activation)}
  )


def _conv(name: str, params: Params, padding: str) -> Layer:
  *size, _, filters = params["kernel"].shape
  config = {"filters": filters, "kernel_size": size, "padding": padding}
  return Layer("Conv2D", name, config, _kernel_and_bias(params))


def _table_kernel(fields: Any, channels: int) -> np.ndarray:
  """One 5x5 field a connection of LeNet-5's table -> [5, 5, channels, 16], zero where there is none."""
  targets = np.repeat(np.arange(len(C3_TABLE)), [len(row) for row in C3_TABLE])
  fields = np.asarray(fields)
  kernel = np.zeros((*fields.shape[:2], channels, len(C3_TABLE)), fields.dtype)
  kernel[:, :, np.concatenate(C3_TABLE), targets] = fields
  return kernel


def _subsample(name: str, params: Params) -> Layer:
  """A sum of 2x2 fields times a coefficient: a kernel that has it in every place."""
  coefficient = np.asarray(params["coefficient"])
  kernel = np.broadcast_to(coefficient[:, None], (2, 2, len(coefficient), 1))
  weights = {"kernel": kernel, "bias": params["bias"]}
  return Layer("DepthwiseConv2D", name, {"kernel_size": [2, 2], "strides": [2, 2]}, weights)


def _max_pool(name: str) -> Layer:
  return Layer("MaxPooling2D", name, {"pool_size": [2, 2]})


def _batch_norm(name: str, params: Params, statistics: Params) -> Layer:
  weights = {
    "gamma": params["scale"],
    "beta": params["bias"],
    "moving_mean": statistics["mean"],
    "moving_variance": statistics["var"],
  }
  return Layer(
    "BatchNormalization", name, {"momentum": BatchNorm.momentum, "epsilon": BatchNorm.epsilon}, weights
  )


def _dropout(name: str, rate: float) -> Layer:
  return Layer("Dropout", name, {"rate": rate})


def _dense(name: str, params: Params, activation: str = "linear") -> Layer:
  config = {"units": params["kernel"].shape[-1], "activation": activation, "use_bias": "bias" in params}
  return Layer("Dense", name, config, _kernel_and_bias(params))


def _output(params: Params) -> Layer:
  return _dense("output", params["output"], "softmax")


def _kernel_and_bias(params: Params) -> dict[str, Any]:
  return {name: params[name] for name in ("kernel", "bias") if name in params}
