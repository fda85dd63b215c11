"""What a layer costs: multiplications, trainable parameters and connections (H2.3-H2.5, H2.10.2).

Shapes: H, W image sides, K kernel side, C channels, F filters, H', W' output sides.
"""

import math
from collections.abc import Sequence

from dlcourse.theory import geometry


def multiplications(
  image: Sequence[int], kernels: Sequence[int], stride: int = 1, padding: geometry.Padding = 0
) -> int:
  """How many products a convolution takes: its outputs times the weights of one filter (H2.3, H2.5).

  A 3x3 kernel on 6x6: 4·4·9 = 144, at stride 2 2·2·9 = 36; two on three channels: 4·4·2·27 = 864. The sizes
  of the inputs are lost with the handbook's figures: 144 needs a 6x6 image, 36 one of 5x5 or 6x6. Products
  with the zeros of the padding count, as the loop of `convolution.convolve` takes them.

  Args:
    image: (H, W, C).
    kernels: (K, K, C, F).
    stride: of both axes.
    padding: of both axes (see `geometry.pads`).

  Raises:
    ValueError: as `geometry.output_shape`.
  """
  return math.prod(geometry.output_shape(image, kernels, stride, padding)) * math.prod(kernels[:3])


def convolution_parameters(kernels: Sequence[int], bias: bool = True) -> int:
  """(K·K·C + 1)·F trainable parameters, whatever the size of the image (H2.10.2.1).

  LeNet-5: C1 156; C3 456 + 606 + 303 + 151 = 1,516 over the four groups of its table; C5 48,120.

  Args:
    kernels: (K, K, C, F).
    bias: whether each filter has one.

  Raises:
    ValueError: the shape has not four axes.
  """
  if len(kernels) != 4:
    raise ValueError(f"expected kernels of shape [K, K, C, F], got {tuple(kernels)}")
  return dense_parameters(math.prod(kernels[:3]), kernels[3], bias)


def dense_parameters(inputs: int, outputs: int, bias: bool = True) -> int:
  """(inputs + 1)·outputs trainable parameters of a fully connected layer (H2.10.2.7).

  LeNet-5: F6 10,164, output 850. The 224·224·3 = 150,528 pixels of H2.2 with 1,000 units: 150.5 million.

  Args:
    inputs: width of the layer before.
    outputs: width of the layer.
    bias: whether each output has one.
  """
  return (inputs + bias) * outputs


def subsampling_parameters(maps: int) -> int:
  """A coefficient and a bias for each map of LeNet-5's pooling: 12 in S2, 32 in S4 (H2.10.2.2, H2.10.2.5).

  Args:
    maps: feature maps of the layer; max and average pooling of today have no parameters.
  """
  return 2 * maps


def connections(inputs: int, output: Sequence[int]) -> int:
  """(inputs + 1) wires into every unit of a layer, the bias among them (H2.10.2).

  LeNet-5: C1 122,304, S2 5,880, C3 151,600 summed over its groups, S4 2,000, C5 48,120, F6 10,164.

  Args:
    inputs: elements one unit looks at, K·K·C.
    output: (H', W', F).
  """
  return (inputs + 1) * math.prod(output)
