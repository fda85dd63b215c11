"""VQ-VAE: an autoencoder whose code is a grid of symbols (van den Oord et al., 2017, arXiv:1711.00937; H5.3.3).

Each place of the encoder's last maps takes the nearest vector of a codebook (equation 1), and the decoder sees
that; the encoder learns as if nothing had happened between them (section 3.2).

Shapes: B batch, S side of the image, C its channels, s side of the grid, F filters, K vectors of the codebook,
D their dimensions, P = B s s places of a batch, Z = s s D.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least, check_below_one
from dlcourse.models.convolution import Conv, ConvTranspose
from dlcourse.models.vae import PENALTIES, Inference
from dlcourse.parallel import global_sum, replica_axis

CODEBOOK = "codebook"  # the collection of what is kept of the codes


def straight_through(x: jax.Array, value: jax.Array) -> jax.Array:
  """`value`, whose gradient goes to x unchanged, as if it were x (section 3.2)."""
  return x + jax.lax.stop_gradient(value - x)


def nearest(x: jax.Array, vectors: jax.Array) -> jax.Array:
  """Which vector is nearest to each x (equation 1).

  Args:
    x: [P, D].
    vectors: [K, D].

  Returns:
    [P] int32; of equally near ones the first.
  """
  return jnp.argmin(jnp.square(vectors).sum(axis=1) - 2 * x @ vectors.T, axis=1).astype(jnp.int32)


class Codebook(nn.Module):
  """K vectors, and what they learn: by a loss (equation 3), or as moving averages (appendix A.1).

  Codes that no place takes are put where an encoding is, drawn from the global batch by a count of steps, so
  that one device and eight draw the same; all codes begin so. What learns by the loss is a parameter, which an
  optimizer alone moves: there the collection keeps by how much each code was put elsewhere.
  """

  num_codes: int
  code_dim: int
  learning: Literal["average", "loss"]
  decay: float
  commitment: float
  revive_after: int

  def setup(self) -> None:
    """The vectors, and what is kept of their use."""
    shape, start = (self.num_codes, self.code_dim), nn.initializers.normal(1.0)
    if self.learning == "loss":
      self.learnt = self.param("vectors", start, shape)
      self.shift = self.variable(CODEBOOK, "shift", jnp.zeros, shape)
    else:
      self.averages = self.variable(CODEBOOK, "vectors", lambda: start(self.make_rng("params"), shape))
      self.counts = self.variable(CODEBOOK, "counts", jnp.zeros, shape[:1])
    self.idle = self.variable(CODEBOOK, "idle", jnp.full, shape[:1], self.revive_after, jnp.int32)
    self.steps = self.variable(CODEBOOK, "steps", jnp.zeros, (), jnp.int32)

  def vectors(self) -> jax.Array:
    """[K, D]."""
    return self.learnt + self.shift.value if self.learning == "loss" else self.averages.value

  def codes(self, x: jax.Array) -> jax.Array:
    """x [B, s, s, D] -> [B, s, s] int32."""
    return nearest(x.reshape(-1, self.code_dim), self.vectors()).reshape(x.shape[:-1])

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Encodings x [B, s, s, D] -> the nearest vectors [B, s, s, D]; training changes the collection.

    Squared distances, summed over places and dimensions, are sown as penalties: "commitment", weighted, of the
    encoder, and "codebook", of a codebook that learns by its loss.
    """
    codes, vectors = self.codes(x), self.vectors()
    chosen = vectors[codes]
    self._sow("commitment", self.commitment * _squared_distance(x, jax.lax.stop_gradient(chosen)))
    if self.learning == "loss":
      self._sow("codebook", _squared_distance(jax.lax.stop_gradient(x), chosen))
    if train and not self.is_initializing():
      flat, vectors = jax.lax.stop_gradient((x.reshape(-1, self.code_dim), vectors))
      self._learn(flat, codes.reshape(-1), vectors)
    return straight_through(x, chosen)

  def _sow(self, name: str, value: jax.Array) -> None:
    self.sow(PENALTIES, name, value)

  def _learn(self, x: jax.Array, codes: jax.Array, vectors: jax.Array) -> None:
    """What is kept after encodings x [P, D] of these codes [P], before which the vectors were [K, D]."""
    used = global_sum(jax.ops.segment_sum(jnp.ones(len(x)), codes, self.num_codes))  # [K]
    idle = jnp.where(used > 0, 0, self.idle.value + 1)
    dead = idle >= self.revive_after
    seeds = _drawn(x, self.num_codes, jax.random.fold_in(jax.random.key(0), self.steps.value))
    if self.learning == "loss":
      self.shift.value = jnp.where(dead[:, None], seeds - jax.lax.stop_gradient(self.learnt), self.shift.value)
    else:
      sums = global_sum(jax.ops.segment_sum(x, codes, self.num_codes))  # [K, D]
      moved, counts = averaged(vectors, self.counts.value, sums, used, self.decay)
      self.averages.value = jnp.where(dead[:, None], seeds, moved)
      self.counts.value = jnp.where(dead, 0.0, counts)
    self.idle.value, self.steps.value = jnp.where(dead, 0, idle), self.steps.value + 1


def averaged(
  vectors: jax.Array, counts: jax.Array, sums: jax.Array, used: jax.Array, decay: float
) -> tuple[jax.Array, jax.Array]:
  """Moving averages of the encodings of each code: e = m / N of appendix A.1.

  As m = N e, the new m / N is e + (1 - γ) (Σ z - n e) / N, in which no m shrinks to 0 while a code is unused.

  Args:
    vectors: e [K, D].
    counts: N [K].
    sums: Σ z [K, D] of the encodings of each code.
    used: n [K], how many they are.
    decay: γ.

  Returns:
    e and N after them.
  """
  counts = decay * counts + (1 - decay) * used
  # What is used has at least this count: so the floor only keeps 0 / 0 away.
  step = (1 - decay) * (sums - used[:, None] * vectors) / jnp.maximum(counts, 1 - decay)[:, None]
  return vectors + step, counts


def _drawn(x: jax.Array, count: int, key: jax.Array) -> jax.Array:
  """Rows of the global x [P, D], [count, D], all different if there are as many; the same in every replica."""
  axis, own = replica_axis(), len(x)
  places = jnp.resize(jax.random.permutation(key, own * global_sum(1)), count)
  places -= own * jax.lax.axis_index(axis) if axis else 0
  here = (places >= 0) & (places < own)
  return global_sum(jnp.where(here[:, None], x[jnp.clip(places, 0, own - 1)], 0.0))


def _squared_distance(x: jax.Array, y: jax.Array) -> jax.Array:
  """[B, s, s, D] -> [B]."""
  return jnp.square(x - y).sum(axis=(1, 2, 3))


class Residual(nn.Module):
  """x plus a 3x3 and a 1x1 convolution of x, each after a ReLU (section 4.1)."""

  filters: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, s, s, F] -> [B, s, s, F]."""
    y = Conv(self.filters, (3, 3), padding="SAME")(nn.relu(x))
    return x + Conv(self.filters, (1, 1))(nn.relu(y))


class VQVAE(nn.Module):
  """4x4 convolutions with stride 2, two residual blocks, the codebook, and the way back (section 4.1)."""

  num_codes: int = 128
  """K, vectors of the codebook."""
  code_dim: int = 16
  """D, dimensions of each."""
  width: int = 64
  """Filters of every layer (256 in the paper)."""
  halvings: int = 2
  """Convolutions with stride 2: the side of the grid is that of the image divided by 2 as often."""
  learning: Literal["average", "loss"] = "average"
  """How the codebook does: as moving averages of the encodings (appendix A.1), or by its loss (equation 3)."""
  decay: float = 0.99
  """γ of the moving averages."""
  commitment: float = 0.25
  """β, weight of the loss that keeps encodings near their codes (equation 3)."""
  revive_after: int = 50
  """Steps without use after which a code is put where an encoding of the batch is."""
  image_shape: tuple[int, int, int] | None = None
  """(height, width, channels); None: that of the data."""

  def __post_init__(self) -> None:
    """Refuses layers and codebooks of nothing."""
    sizes = ("code_dim", "width", "halvings", "revive_after")
    for least, names in ((1, sizes), (2, ("num_codes",)), (0, ("commitment",))):
      check_at_least(least, {f"task.model.{name}": getattr(self, name) for name in names})
    check_below_one({"task.model.decay": self.decay})
    super().__post_init__()

  @property
  def side(self) -> int:
    """s."""
    return self.image_shape[0] // 2**self.halvings

  def setup(self) -> None:
    """Layers are shared by all methods."""
    side, _, channels = self.image_shape
    if side % 2**self.halvings:
      raise UserError(
        f"this network halves the side {self.halvings} times: --data.size={side} has to be a multiple of "
        f"{2**self.halvings}"
      )
    conv = functools.partial(Conv, kernel_size=(4, 4), strides=(2, 2), padding="SAME")
    self.down = [conv(self.width) for _ in range(self.halvings)]
    self.down_blocks = [Residual(self.width) for _ in range(2)]
    self.to_code = Conv(self.code_dim, (1, 1))
    self.codebook = Codebook(
      self.num_codes, self.code_dim, self.learning, self.decay, self.commitment, self.revive_after
    )
    self.from_code = Conv(self.width, (3, 3), padding="SAME")
    self.up_blocks = [Residual(self.width) for _ in range(2)]
    filters = (*(self.width,) * (self.halvings - 1), channels)
    self.up = [ConvTranspose(count, (4, 4), (2, 2)) for count in filters]

  def __call__(
    self, x: jax.Array, key: jax.Array, label: jax.Array | None = None, train: bool = False
  ) -> Inference:
    """x [B, S, S, C] -> outputs; nothing is drawn, and there is nothing to be told."""
    del key, label
    vectors = self.codebook(self._encoded(x), train)
    return Inference(self._decoded(vectors), (), vectors.reshape(len(x), -1))

  def encode(self, x: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """x [B, S, S, C] -> the vectors of its codes [B, Z]."""
    del label
    return self.codebook.vectors()[self.codes(x)].reshape(len(x), -1)

  def decode(self, z: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """Vectors z [B, Z] -> logits or means of the pixels [B, S, S, C]."""
    del label
    return self._decoded(z.reshape(len(z), self.side, self.side, self.code_dim))

  def codes(self, x: jax.Array) -> jax.Array:
    """x [B, S, S, C] -> its codes [B, s, s] int32."""
    return self.codebook.codes(self._encoded(x))

  def decode_codes(self, codes: jax.Array) -> jax.Array:
    """codes [B, s, s] -> logits or means of the pixels [B, S, S, C]."""
    return self._decoded(self.codebook.vectors()[codes])

  def _encoded(self, x: jax.Array) -> jax.Array:
    for i, layer in enumerate(self.down):
      x = layer(nn.relu(x) if i else x)  # [B, S / 2^i, S / 2^i, F]
    for block in self.down_blocks:
      x = block(x)
    return self.to_code(nn.relu(x))  # [B, s, s, D]

  def _decoded(self, x: jax.Array) -> jax.Array:
    x = self.from_code(x)  # [B, s, s, F]
    for block in self.up_blocks:
      x = block(x)
    for layer in self.up:
      x = layer(nn.relu(x))  # [B, 2s, 2s, F]
    return x
