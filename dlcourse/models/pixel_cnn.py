"""PixelCNN: each pixel from those above and to its left (van den Oord et al., 2016, arXiv:1606.05328; H4.2.2).

Two stacks of gated convolutions: the vertical one sees the rows above, the horizontal one what is to the left
and, at every layer, the vertical one. Kernels that only reach where they may take the place of masks, and a
pixel is a mixture of discretised logistics (PixelCNN++: Salimans et al., 2017, arXiv:1701.05517, sections 2.1
and 2.3). Shapes: B batch, H x W pixels, F filters, L layers, M components.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least
from dlcourse.losses import logistic_nats
from dlcourse.models.convolution import Conv

LEVELS = 256
NARROWEST = -7.0  # log of a component's scale, where a level is exp(-5.5): narrower ones only overflow


class PixelCNN(nn.Module):
  """Grey images of 256 levels; the last row and the rows that each layer adds are all that drawing computes."""

  width: int = 24
  """F, filters of each layer."""
  depth: int = 6
  """L; a pixel depends on L + 2 rows above it."""
  components: int = 5
  """M, logistics of a pixel."""
  image_shape: tuple[int, int, int] | None = None
  """(H, W, 1); None: that of the data."""

  def __post_init__(self) -> None:
    """Refuses layers without a unit, and colours."""
    names = ("width", "depth", "components")
    check_at_least(1, {f"task.model.{name}": getattr(self, name) for name in names})
    if self.image_shape and self.image_shape[-1] != 1:
      raise UserError(f"PixelCNN models grey images, and these have {self.image_shape[-1]} channels")
    super().__post_init__()

  def setup(self) -> None:
    """The layers of both stacks; kernels are 2x3 and 1x2, and two filters make one gated unit."""
    twice, every = 2 * self.width, range(self.depth)
    self.above = Conv(self.width, (2, 3), padding=((1, 0), (1, 1)))
    self.left = Conv(self.width, (1, 2), padding=((0, 0), (1, 0)))
    self.vertical = [Conv(twice, (2, 3), padding=((1, 0), (1, 1))) for _ in every]
    self.horizontal = [Conv(twice, (1, 2), padding=((0, 0), (1, 0))) for _ in every]
    self.links = [Conv(twice, (1, 1)) for _ in every]
    self.residuals = [Conv(self.width, (1, 1)) for _ in every]
    self.last = Conv(3 * self.components, (1, 1))

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """x [B, H, W, 1] in [0, 1] -> -log p of its levels [B] in nats, whether it trains or not."""
    logits, mean, log_scale = jnp.split(self.outputs(x), 3, axis=-1)  # [B, H, W, M]
    log_scale = jnp.maximum(log_scale, NARROWEST)
    each = jax.nn.log_softmax(logits) - logistic_nats(mean, log_scale, x)
    return -jax.nn.logsumexp(each, axis=-1).sum(axis=(1, 2))

  def outputs(self, x: jax.Array) -> jax.Array:
    """x [B, H, W, 1] -> [B, H, W, 3M]: logits, means and log scales, each of the pixels before it."""
    return self._of_row(x, self._of_rows_above(x))

  def draw(self, key: jax.Array, temperature: jax.Array) -> jax.Array:
    """Images [N, H, W, 1] in [0, 1], pixel by pixel; the temperature [N] is a factor of their randomness."""
    height, width, _ = self.image_shape
    reach = min(self.depth + 2, height - 1)

    def row(images, i):
      start = jnp.maximum(i - reach, 0)
      window = jax.lax.dynamic_slice_in_dim(images, start, reach + 1, axis=1)
      context = [
        jax.lax.dynamic_slice_in_dim(maps, i - start, 1, axis=1) for maps in self._of_rows_above(window)
      ]

      def pixel(row, j):
        outputs = jax.lax.dynamic_index_in_dim(self._of_row(row, context)[:, 0], j, axis=1, keepdims=False)
        drawn = _drawn(outputs, jax.random.fold_in(key, i * width + j), temperature)
        return jax.lax.dynamic_update_slice(row, drawn[:, None, None, None], (0, 0, j, 0)), None

      empty = jnp.zeros((len(temperature), 1, width, 1))
      made, _ = jax.lax.scan(pixel, empty, jnp.arange(width))
      return jax.lax.dynamic_update_slice(images, made, (0, i, 0, 0)), None

    images = jnp.zeros((len(temperature), height, width, 1))
    return jax.lax.scan(row, images, jnp.arange(height))[0]

  def _of_rows_above(self, x: jax.Array) -> list[jax.Array]:
    """[B, h, W, 1] -> what each layer of the vertical stack tells the row below: one [B, h, W, 2F] a layer."""
    v, told = self.above(_shifted(x, axis=1)), []
    for layer, link in zip(self.vertical, self.links, strict=True):
      both = layer(v)
      told.append(link(both))
      v = _gated(both)
    return told

  def _of_row(self, x: jax.Array, told: list[jax.Array]) -> jax.Array:
    """x [B, h, W, 1], and what the rows above say -> [B, h, W, 3M]."""
    h = self.left(_shifted(x, axis=2))
    for layer, of_above, residual in zip(self.horizontal, told, self.residuals, strict=True):
      h += residual(_gated(layer(h) + of_above))
    return self.last(nn.relu(h))


def _shifted(x: jax.Array, axis: int) -> jax.Array:
  """x, one pixel further along an axis, with a 0 before it."""
  before = [(0, 0)] * x.ndim
  before[axis] = (1, 0)
  return jax.lax.slice_in_dim(jnp.pad(x, before), 0, x.shape[axis], axis=axis)


def _gated(x: jax.Array) -> jax.Array:
  """[..., 2F] -> tanh(a) σ(b), [..., F] (equation 2)."""
  a, b = jnp.split(x, 2, axis=-1)
  return jnp.tanh(a) * jax.nn.sigmoid(b)


def _drawn(outputs: jax.Array, key: jax.Array, temperature: jax.Array) -> jax.Array:
  """outputs [N, 3M] of one pixel -> its level in [0, 1], [N]."""
  logits, mean, log_scale = jnp.split(outputs, 3, axis=-1)
  which, where = jax.random.split(key)
  choice = jnp.argmax(logits + temperature[:, None] * jax.random.gumbel(which, logits.shape), axis=-1)
  mean, log_scale = (jnp.take_along_axis(part, choice[:, None], axis=1)[:, 0] for part in (mean, log_scale))
  noise = temperature * jax.random.logistic(where, mean.shape)
  x = mean + jnp.exp(jnp.maximum(log_scale, NARROWEST)) * noise
  return jnp.clip(jnp.rint(x * (LEVELS - 1)), 0, LEVELS - 1) / (LEVELS - 1)
