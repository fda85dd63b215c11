"""StyleGAN2 (Karras et al., 2020, arXiv:1912.04958, configuration F; H4.7.4).

A mapping network turns the latent into a style w, which scales the inputs of every convolution of the
generator; each side adds its image to the enlarged one of the side before (figure 7). Weights are N(0, 1) and
scaled where they are used, so that Adam moves all of them at one relative pace (equalised learning rate: Karras
et al., 2018, arXiv:1710.10196, section 4.1). With classes: as in StyleGAN2-ADA (Karras et al., 2020,
arXiv:2006.06676). Shapes: B batch, Z latent, W style, L styled layers, K classes, S side, I, O channels.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from dlcourse.errors import check_at_least, check_between
from dlcourse.models.convolution import conv_general_dilated
from dlcourse.models.dcgan import class_vectors, start_and_doublings
from dlcourse.models.dense import matrix_product
from dlcourse.parallel import global_sum

_normal = nn.initializers.normal(1.0)
_TAPS = (1, 3, 3, 1)
_MAPPING_RATE = 0.01  # of the mapping network's learning rate to that of the rest
_AVERAGE_DECAY = 0.995  # of the mean style, per step
_GROUP = 4  # images whose deviation the discriminator sees


def _activate(x: Array) -> Array:
  """Leaky ReLU that keeps the mean square of its input."""
  return nn.leaky_relu(x, 0.2) * math.sqrt(2)


def _unit_square(x: Array) -> Array:
  """Scales each row [B, D] to a mean square of 1."""
  return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def blur(x: Array, padding: tuple[int, int], gain: float = 1.0, stride: int = 1) -> Array:
  """Convolves both image axes with [1, 3, 3, 1] / 8, as sums of shifted images.

  Args:
    x: [B, H, W, C].
    padding: zeros (before, after) along each axis.
    gain: factor along each axis.
    stride: of the output along each axis.
  """
  for axis in (1, 2):
    edges = [(0, 0)] * 4
    edges[axis] = padding
    padded = jnp.pad(x, edges)
    reach = padded.shape[axis] - len(_TAPS) + 1
    shifted = [lax.slice_in_dim(padded, k, k + reach, stride, axis) for k in range(len(_TAPS))]
    x = sum(tap * gain / sum(_TAPS) * image for tap, image in zip(_TAPS, shifted, strict=True))
  return x


def upsample(x: Array) -> Array:
  """Doubles the sides of x [B, S, S, C] bilinearly: zeros between the pixels, then `blur` with gain 2."""
  for axis in (1, 2):
    edged = jnp.pad(x, [(int(i == axis),) * 2 for i in range(x.ndim)])
    before = lax.slice_in_dim(edged, 0, x.shape[axis], axis=axis)
    after = lax.slice_in_dim(edged, 2, x.shape[axis] + 2, axis=axis)
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)
    x = pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
  return x


def _convolve(x: Array, kernel: Array, padding: int, stride: int = 1, gap: int = 1) -> Array:
  pads, layout = ((padding, padding),) * 2, ("NHWC", "HWIO", "NHWC")
  return conv_general_dilated(x, kernel, (stride, stride), pads, (gap, gap), dimension_numbers=layout)


def modulated_convolution(
  x: Array, kernel: Array, style: Array, up: bool = False, demodulate: bool = True
) -> Array:
  """A convolution whose kernel is scaled per image (section 2.2, equations 1 and 3).

  Scaling inputs by the style and outputs by the norm of the scaled kernel gives what a kernel for each image
  would, at the price of one convolution for the batch.

  Args:
    x: [B, S, S, I].
    kernel: [k, k, I, O], k odd.
    style: [B, I], factors of the inputs.
    up: double the side: a transposed convolution with stride 2, then `blur`.
    demodulate: bring the outputs back to the deviation of the inputs.

  Returns:
    [B, S, S, O], or [B, 2S, 2S, O] with `up`.
  """
  x, size = x * style[:, None, None, :], kernel.shape[0]
  x = _convolve(x, kernel, size - 1, gap=2) if up else _convolve(x, kernel, size // 2)
  if up:
    x = blur(x, (1, 1), gain=2.0)
  if demodulate:
    squares = jnp.square(style) @ jnp.square(kernel).sum((0, 1))  # [B, O]
    x = x * lax.rsqrt(squares + 1e-8)[:, None, None, :]
  return x


class ScaledDense(nn.Module):
  """A dense layer with an equalised learning rate."""

  features: int
  """Width of the output."""
  start: float = 0.0
  """First value of the biases."""
  rate: float = 1.0
  """Learning rate relative to that of the other layers."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """x [B, D] -> [B, features]."""
    kernel = self.param("kernel", nn.initializers.normal(1 / self.rate), (x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.constant(self.start), (self.features,))
    return matrix_product(x, kernel * (self.rate / math.sqrt(x.shape[-1]))) + bias * self.rate


class ScaledConv(nn.Module):
  """A convolution with an equalised learning rate."""

  features: int
  """O."""
  size: int
  """Side of the kernel, odd."""
  use_bias: bool = True
  """Whether a bias is added."""
  down: bool = False
  """Halve the side: `blur`, then stride 2."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """x [B, S, S, I] -> [B, S, S, O], or [B, S/2, S/2, O] with `down`."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param("kernel", _normal, shape) / math.sqrt(math.prod(shape[:3]))
    if not self.down:
      x = _convolve(x, kernel, self.size // 2)
    elif self.size == 1:  # what the stride leaves out need not be blurred
      x = _convolve(blur(x, (1, 1), stride=2), kernel, 0)
    else:
      x = _convolve(blur(x, (2, 2)), kernel, (self.size - 3) // 2, stride=2)
    return x + self.param("bias", nn.initializers.zeros_init(), (self.features,)) if self.use_bias else x


class Mapping(nn.Module):
  """The mapping network (Karras et al., 2019, arXiv:1812.04948, section 2): latent or class to style."""

  style_dim: int
  """W, width of all layers."""
  layers: int
  """How many."""

  @nn.compact
  def __call__(self, z: Array | None, classes: Array | None) -> Array:
    """z [B, Z], classes [B, K] -> w [B, W]; either may be left out."""
    inputs = [] if z is None else [_unit_square(z)]
    if classes is not None:
      inputs.append(_unit_square(ScaledDense(self.style_dim, name="embed")(classes)))
    x = jnp.concatenate(inputs, axis=-1)
    for i in range(self.layers):
      x = _activate(ScaledDense(self.style_dim, rate=_MAPPING_RATE, name=f"layer{i + 1}")(x))
    return x


class StyledConv(nn.Module):
  """One layer of the generator: modulated 3x3 convolution, noise, bias, activation (figure 2, d)."""

  features: int
  """O."""
  up: bool = False
  """Double the side."""

  @nn.compact
  def __call__(self, x: Array, w: Array) -> Array:
    """x [B, S, S, I], w [B, W] -> [B, S, S, O]; one noise image for all channels, drawn from "noise"."""
    style = ScaledDense(x.shape[-1], start=1.0, name="style")(w)
    kernel = self.param("kernel", _normal, (3, 3, x.shape[-1], self.features))
    x = modulated_convolution(x, kernel, style, self.up)
    noise = jax.random.normal(self.make_rng("noise"), (*x.shape[:3], 1), x.dtype)
    strength = self.param("noise_strength", nn.initializers.zeros_init(), ())
    bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
    return _activate(x + strength * noise + bias)


class ToImage(nn.Module):
  """Modulated 1x1 convolution to the channels of an image, without demodulation."""

  channels: int
  """Of the image."""

  @nn.compact
  def __call__(self, x: Array, w: Array) -> Array:
    """x [B, S, S, I], w [B, W] -> [B, S, S, channels]."""
    style = ScaledDense(x.shape[-1], start=1.0, name="style")(w) / math.sqrt(x.shape[-1])
    kernel = self.param("kernel", _normal, (1, 1, x.shape[-1], self.channels))
    bias = self.param("bias", nn.initializers.zeros_init(), (self.channels,))
    return modulated_convolution(x, kernel, style, demodulate=False) + bias


def _width(side: int, capacity: int, most: int) -> int:
  """Filters at a side; sides 7, 14, 28 … have as many as 8, 16, 32 …"""
  return max(1, min(most, capacity >> (side - 1).bit_length()))


def mix_styles(key: Array, first: Array, second: Array, layers: int, probability: float) -> Array:
  """Style mixing (Karras et al., 2019, section 3.1): layers from a random one on take the second style.

  Args:
    key: of the draws, one for each image.
    first: [B, W].
    second: [B, W].
    layers: L.
    probability: of a change; the other images have the first style everywhere.

  Returns:
    [L, B, W].
  """
  whether, where = jax.random.split(key)
  batch = first.shape[:1]
  crossover = jax.random.randint(where, batch, 1, layers)
  crossover = jnp.where(jax.random.bernoulli(whether, probability, batch), crossover, layers)
  return jnp.where(jnp.arange(layers)[:, None, None] < crossover[:, None], first, second)


class Synthesis(nn.Module):
  """Styles to images: a learned constant, then per side two layers and an image, which add up."""

  capacity: int
  """As in `Generator`."""
  max_width: int
  """As in `Generator`."""
  image_shape: tuple[int, int, int]
  """(S, S, C)."""

  @nn.compact
  def __call__(self, styles: Array) -> Array:
    """Styles [L, B, W] -> images [B, S, S, C]; an image shares its style with the next side's first layer."""
    start, doublings = start_and_doublings(self.image_shape[0])
    channels, width = self.image_shape[2], _width(start, self.capacity, self.max_width)
    constant = self.param("constant", _normal, (start, start, width))
    x = jnp.broadcast_to(constant, (styles.shape[1], *constant.shape))
    x = StyledConv(width, name=f"side{start}_2")(x, styles[0])
    image = ToImage(channels, name=f"image{start}")(x, styles[1])
    for i in range(1, doublings + 1):
      side = start * 2**i
      width = _width(side, self.capacity, self.max_width)
      x = StyledConv(width, up=True, name=f"side{side}_1")(x, styles[2 * i - 1])
      x = StyledConv(width, name=f"side{side}_2")(x, styles[2 * i])
      image = upsample(image) + ToImage(channels, name=f"image{side}")(x, styles[2 * i + 1])
    return image


class Generator(nn.Module):
  """Latents to images, by styles; trained outputs overshoot [-1, 1] a little and are cut off in samples."""

  latent_dim: int = 512
  """Z, dimensions of the Gaussian latent."""
  style_dim: int = 512
  """W, dimensions of the style."""
  mapping_layers: int = 8
  """Layers of the mapping network."""
  capacity: int = 2**15
  """Filters at side S are `capacity` / S …"""
  max_width: int = 512
  """… and at most so many."""
  mixing: float = 0.9
  """Probability that a training image has two styles, see `mix_styles`."""
  conditional: bool = False
  """Feed an embedding of the class to the mapping network, beside the latent."""
  num_classes: int | None = None
  """K; None: as many as the data has."""
  image_shape: tuple[int, int, int] | None = None
  """(S, S, C); None: that of the data."""

  truncates = True  # `__call__` takes a truncation

  def __post_init__(self) -> None:
    """Refuses layers without a unit, and a probability that is none."""
    names = ("latent_dim", "style_dim", "mapping_layers", "capacity", "max_width")
    check_at_least(1, {f"task.generator.{name}": getattr(self, name) for name in names})
    check_between(0, 1, {"task.generator.mixing": self.mixing})
    super().__post_init__()

  @nn.compact
  def __call__(
    self, z: Array, label: Array | None = None, train: bool = False, truncation: float | Array = 1.0
  ) -> Array:
    """z [B, Z], label [B] -> images [B, S, S, C].

    With `train` styles are mixed, and the mean style is followed where the collection "w_average" is mutable.
    Else `truncation`, [] or [B, 1], is what remains of a style's distance from it (ψ in Karras et al., 2019,
    appendix B).
    """
    layers = 2 * start_and_doublings(self.image_shape[0])[1] + 2
    classes = class_vectors(label, self.num_classes) if self.conditional else None
    mapping = Mapping(self.style_dim, self.mapping_layers, name="mapping")
    w = mapping(z, classes)
    average = self.variable("w_average", "mean", jnp.zeros, (self.style_dim,))
    if not train:
      w = average.value + truncation * (w - average.value)
    elif self.is_mutable_collection("w_average") and not self.is_initializing():
      mean = global_sum(w.sum(0)) / global_sum(jnp.float32(w.shape[0]))
      average.value += (1 - _AVERAGE_DECAY) * (lax.stop_gradient(mean) - average.value)
    if train and self.mixing > 0:
      mix_key, latent_key = jax.random.split(self.make_rng("noise"))
      second = mapping(jax.random.normal(latent_key, z.shape, z.dtype), classes)
      styles = mix_styles(mix_key, w, second, layers, self.mixing)
    else:
      styles = jnp.broadcast_to(w, (layers, *w.shape))  # [L, B, W]
    image = Synthesis(self.capacity, self.max_width, self.image_shape, name="synthesis")(styles)
    return image if train else jnp.clip(image, -1, 1)


def minibatch_deviation(x: Array, mask: Array | None = None) -> Array:
  """Appends to x [B, S, S, C] the mean standard deviation of its group, as one more channel.

  Karras et al., 2018, section 3. Groups are of 4 neighbours in the batch, or of as many as divide it, and leave
  out the images whose mask [B] is 0.
  """
  size = math.gcd(x.shape[0], _GROUP)
  groups = x.reshape(-1, size, *x.shape[1:])
  weight = jnp.ones(x.shape[:1], x.dtype) if mask is None else mask.astype(x.dtype)
  weight = weight.reshape(-1, size, 1, 1, 1)
  weight /= jnp.maximum(weight.sum(1, keepdims=True), 1)
  mean = (weight * groups).sum(1, keepdims=True)
  variance = (weight * jnp.square(groups - mean)).sum(1)  # [B/4, S, S, C]
  deviation = jnp.sqrt(variance + 1e-8).mean((1, 2, 3)).repeat(size)  # [B]
  return jnp.concatenate([x, jnp.broadcast_to(deviation[:, None, None, None], (*x.shape[:3], 1))], axis=-1)


class Halving(nn.Module):
  """A residual block of the discriminator that halves the side (figure 7)."""

  features: int
  """O."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """x [B, S, S, I] -> [B, S/2, S/2, O]."""
    skip = ScaledConv(self.features, 1, use_bias=False, down=True, name="skip")(x)
    x = _activate(ScaledConv(x.shape[-1], 3, name="conv1")(x))
    x = _activate(ScaledConv(self.features, 3, down=True, name="conv2")(x))
    return (x + skip) / math.sqrt(2)


class Discriminator(nn.Module):
  """Images to one logit: large for real; residual, without norms."""

  capacity: int = 2**15
  """Filters at side S are `capacity` / S …"""
  max_width: int = 512
  """… and at most so many."""
  mapping_layers: int = 8
  """Layers of the network that maps the class to the vector of the projection."""
  condition: Literal["none", "projection"] = "none"
  """projection: the logit is the inner product of features and a vector of the class."""
  num_classes: int | None = None
  """K; None: as many as the data has."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit."""
    names = ("capacity", "max_width", "mapping_layers")
    check_at_least(1, {f"task.discriminator.{name}": getattr(self, name) for name in names})
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: Array, label: Array | None = None, train: bool = False, mask: Array | None = None
  ) -> Array:
    """x [B, S, S, C], label [B] -> logits [B]; see `minibatch_deviation` for the mask [B].

    The last hidden layer is sown as "features" [B, F].
    """
    side = x.shape[1]
    start, _ = start_and_doublings(side)
    x = _activate(ScaledConv(_width(side, self.capacity, self.max_width), 1, name="from_image")(x))
    while side > start:
      x = Halving(_width(side // 2, self.capacity, self.max_width), name=f"side{side}")(x)
      side //= 2
    width = x.shape[-1]
    x = _activate(ScaledConv(width, 3, name="conv")(minibatch_deviation(x, mask)))
    x = _activate(ScaledDense(width, name="hidden")(x.reshape(x.shape[0], -1)))  # [B, F]
    self.sow("intermediates", "features", x)
    if self.condition == "none":
      return ScaledDense(1, name="output")(x)[:, 0]
    vector = Mapping(width, self.mapping_layers, name="mapping")(None, class_vectors(label, self.num_classes))
    return (ScaledDense(width, name="output")(x) * vector).sum(-1) / math.sqrt(width)


# Generator and discriminator, with their parameters at 256 and 1024 pixels; "small": for 28 or 32 on a CPU.
STYLEGAN = {
  "stylegan2": (Generator(), Discriminator()),  # 30,034,338 and 28,864,129; 30,370,060 and 29,012,513
  "small": (
    Generator(latent_dim=64, style_dim=64, mapping_layers=2, capacity=2**9, max_width=64),
    Discriminator(capacity=2**9, max_width=64, mapping_layers=2),
  ),
}
