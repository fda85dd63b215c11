"""Claims of sections 1 to 8 of chapter 2: what a convolution is, costs and learns."""

import itertools
import math

import numpy as np
import scipy.signal

from dlcourse.handbook import chapter2_networks, lenet
from dlcourse.handbook.claim import Claim, Finding
from dlcourse.handbook.measuring import gap, published
from dlcourse.report.figures import new_figure
from dlcourse.theory import convolution, counts, equivariance, five_steps, geometry

_IMAGE = np.random.default_rng(0).normal(size=(12, 12, 1))
_KERNELS = np.random.default_rng(1).normal(size=(3, 3, 1, 4))


def _pixels() -> Finding:
  return Finding("224 · 224 · 3 = 150,528", 224 * 224 * 3 > 150_000, "product")


def _dense_on_pixels() -> Finding:
  count = counts.dense_parameters(224 * 224 * 3, 1_000)
  few = math.ceil(1e6 / counts.dense_parameters(224 * 224 * 3, 1))
  value = f"{count:,} with 1,000 units; {few} units are enough for a million"
  return Finding(value, count > 1e6, "theory.counts.dense_parameters")


def _locality() -> Finding:
  from sklearn.datasets import load_sample_image

  grey = load_sample_image("china.jpg").mean(axis=-1)
  near, far = (np.corrcoef(grey[:, :-d].ravel(), grey[:, d:].ravel())[0, 1] for d in (1, 100))
  value = f"correlation of pixels 1 apart {near:.3f}, 100 apart {far:.3f}"
  return Finding(value, bool(near > far), "a photograph of scikit-learn (china.jpg)")


def _invariance() -> Finding:
  def maps(image):
    return convolution.convolve(image, _KERNELS, padding="CIRCULAR")

  equivariant = equivariance.equivariance_gap(maps, _IMAGE, 3, 2)
  moved = equivariance.shift(_IMAGE, 3, 2)
  changed, pooled = gap(maps(moved), maps(_IMAGE)), gap(maps(moved).max((0, 1)), maps(_IMAGE).max((0, 1)))
  value = f"conv(shift x) - shift(conv x): {equivariant:g}; conv(shift x) - conv x: {changed:.2f}; "
  value += f"after a global maximum: {pooled:g}"
  return Finding(value, changed == 0, "theory.equivariance")


def _hierarchy() -> Finding:
  sizes = [field.size for field in geometry.receptive_field(lenet.LAYERS)]
  grows = all(low < high for low, high in itertools.pairwise(sizes))
  return Finding(f"pixels that one output of LeNet-5 sees: {sizes}", grows, "theory.geometry.receptive_field")


def _products(image: tuple, kernels: tuple, stride: int, printed: int) -> Finding:
  found = counts.multiplications(image, kernels, stride)
  size = geometry.output_shape(image, kernels, stride)
  return Finding(f"{found} for {image}, outputs {size}", found == printed, "theory.counts.multiplications")


def _flipped() -> Finding:
  image, kernel = _IMAGE[..., 0], _KERNELS[..., 0, 0]
  ours = convolution.convolve_matrix(image, kernel)
  true = gap(ours, scipy.signal.convolve2d(image, kernel, "valid"))
  flipped = gap(ours, scipy.signal.correlate2d(image, kernel, "valid"))
  value = f"against SciPy's convolution {true:.2f}, against its cross-correlation {flipped:.1e}"
  return Finding(value, true < 1e-9, "scipy.signal; theory.convolution")


def _bias() -> Finding:
  one = counts.convolution_parameters((5, 5, 1, 6)) - counts.convolution_parameters((5, 5, 1, 6), bias=False)
  bias = np.arange(4.0)
  layer = convolution.convolution_layer(_IMAGE, _KERNELS, bias)
  by_hand = np.maximum(convolution.convolve(_IMAGE, _KERNELS) + bias, 0)
  value = f"one number a filter: {one} for 6 filters; difference to max(conv + b, 0): {gap(layer, by_hand):g}"
  return Finding(value, one == 6 and gap(layer, by_hand) == 0, "theory.convolution.convolution_layer")


def _pooling() -> Finding:
  with_pool = counts.multiplications((14, 14, 6), (5, 5, 6, 16))
  without = counts.multiplications((28, 28, 6), (5, 5, 6, 16))
  value = f"28 x 28 to 14 x 14; products of a next 5 x 5 layer {without:,} without, {with_pool:,} with it"
  return Finding(value, without > 4 * with_pool, "theory.counts.multiplications")


def _flattening() -> Finding:
  maps = np.arange(400).reshape(5, 5, 16)
  flat = convolution.flatten(maps)
  value = f"5 x 5 x 16 maps to a vector of {flat.size}, no value lost"
  return Finding(value, sorted(flat) == list(range(400)), "theory.convolution.flatten")


def _first_error() -> Finding:
  error = five_steps.total_error(five_steps.TARGET, five_steps.BEFORE)
  return Finding(f"error {error:.2f}, outputs sum to {sum(five_steps.BEFORE):g}", True, "theory.five_steps")


def _second_error() -> Finding:
  rows = five_steps.boat_example()
  figure = new_figure(5.5, 3.4)
  axes = figure.subplots()
  axes.plot([row.updates for row in rows], [row.error for row in rows], "o-", label="total error")
  for number, name in enumerate(("class 1", "class 2", "boat", "class 4")):
    axes.plot([row.output[number] for row in rows], "--", linewidth=1, label=f"output, {name}")
  axes.set(xlabel="updates of all weights", ylim=(0, 0.8))
  axes.legend(frameon=False, fontsize=8, ncols=2)
  axes.grid(alpha=0.3)
  printed = five_steps.total_error(five_steps.TARGET, five_steps.AFTER)
  last = ", ".join(f"{share:.3f}" for share in rows[-1].output)
  value = f"printed output: error {printed:.2f}; a network after {rows[-1].updates} updates: ({last}), "
  value += f"error {rows[-1].error:.4f}"
  near = gap(rows[-1].output, five_steps.AFTER) < 0.02
  return Finding(value, printed < 0.55 and near, "theory.five_steps.boat_example", figure)


def _same_filters() -> Finding:
  """Filters that begin alike stay alike: random numbers are what makes them differ."""
  boat = np.array(five_steps.BOAT, np.float64)[..., np.newaxis]
  drawn = five_steps.initialise(np.random.default_rng(0), boat.shape, 2, 4)
  # Both filters alike, and what the dense layer makes of their maps too: flattened maps lie side by side.
  alike = drawn._replace(
    kernels=np.repeat(drawn.kernels[..., :1], 2, axis=-1), weights=np.repeat(drawn.weights[::2], 2, axis=0)
  )
  gaps = []
  for network in (alike, drawn):
    trained, _ = five_steps.train(network, [boat], [five_steps.TARGET], 0.5, 20)
    gaps.append(gap(trained.kernels[..., 0], trained.kernels[..., 1]))
  value = f"difference of two filters after 20 updates: {gaps[0]:g} from equal ones, {gaps[1]:.2f} from random"
  return Finding(value, gaps[0] < 1e-12 < 0.1 < gaps[1], "theory.five_steps.train")


_SECTIONS = (
  Claim(
    "cnn_history",
    "2.1",
    "LeCun and colleagues introduced CNNs in the late 1980s.",
    published(
      "zip codes read by a network trained with backpropagation, 1989; local fields that share weights, "
      "without backpropagation, are in Fukushima's Neocognitron of 1980",
      True,
      "LeCun et al., 1989, Neural Computation 1(4); Fukushima, 1980, Biological Cybernetics 36",
    ),
    "confirmed",
  ),
  Claim(
    "imagenet_2012",
    "2.1",
    "ImageNet brought the breakthrough in 2012.",
    published(
      "top-5 error 15.3 %, the second best entry 26.2 %",
      True,
      "Krizhevsky et al., 2012, abstract and section 6",
    ),
    "confirmed",
  ),
  Claim("pixels", "2.2", "A colour image of 224 x 224 has over 150,000 values.", _pixels, "confirmed"),
  Claim(
    "dense_on_pixels",
    "2.2",
    "A fully connected network on such an image needs millions of parameters.",
    _dense_on_pixels,
    "confirmed",
  ),
  Claim("locality", "2.2", "Pixels close together are related more than distant ones.", _locality, "confirmed"),
  Claim(
    "invariance",
    "2.2",
    "Translation invariance is a property that convolutional features exploit.",
    _invariance,
    "corrected",
    "A convolution is equivariant: its maps move with the image. Invariance needs a global pooling after it.",
  ),
  Claim("hierarchy", "2.2", "Deeper layers see larger structures.", _hierarchy, "confirmed"),
  Claim(
    "products",
    "2.3",
    "A 3 x 3 kernel and a 4 x 4 result: 144 multiplications.",
    lambda: _products((6, 6, 1), (3, 3, 1, 1), 1, 144),
    "confirmed",
  ),
  Claim(
    "stride",
    "2.3",
    "At stride 2 the result is 2 x 2, with 36 multiplications.",
    lambda: _products((6, 6, 1), (3, 3, 1, 1), 2, 36),
    "confirmed",
  ),
  Claim(
    "flipped",
    "2.3",
    "The layer is the matrix convolution of signal processing.",
    _flipped,
    "corrected",
    "It is cross-correlation: signal processing reverses the kernel. A layer that learns it cannot tell.",
  ),
  Claim(
    "volume",
    "2.5",
    "Two 3 x 3 x 3 filters on a volume: 864 multiplications.",
    lambda: _products((6, 6, 3), (3, 3, 3, 2), 1, 864),
    "confirmed",
  ),
  Claim("bias", "2.6", "A real bias and an activation complete a convolution layer.", _bias, "confirmed"),
  Claim("pooling", "2.6", "Pooling shrinks the maps and saves computation.", _pooling, "confirmed"),
  Claim("flattening", "2.6", "Flattening makes one long vector of all maps.", _flattening, "confirmed"),
  Claim("same_filters", "2.8", "Filters and weights start from random values.", _same_filters, "confirmed"),
  Claim(
    "first_error",
    "2.8",
    "Outputs (0.2, 0.4, 0.1, 0.3) for target class 3 are probabilities with an error of half the squares.",
    _first_error,
    "confirmed",
  ),
  Claim(
    "second_error",
    "2.8",
    "After training the outputs may be (0.1, 0.1, 0.7, 0.1), closer to the target.",
    _second_error,
    "confirmed",
  ),
)
CLAIMS = _SECTIONS + chapter2_networks.CLAIMS + lenet.CLAIMS
