"""Transformer layers, encoders and decoders (Vaswani et al., 2017, arXiv:1706.03762; H3.12).

The layers are scanned: their parameters lie in stacked arrays whose first axis is the layer, so that a deep
network compiles as fast as a shallow one.

Shapes: B batch, T places, S places of a cache or of a source, M model width, N heads, K heads of keys, D width
of a head, L layers.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse.errors import UserError, check_at_least, check_below_one
from dlcourse.models.attention import (
  KeysValues,
  Kind,
  Memory,
  MultiHeadAttention,
  Seen,
  check_heads,
  further,
  visible,
)
from dlcourse.models.dense import Dense
from dlcourse.models.layers import Activation, activate
from dlcourse.models.positions import Positions, relative_bucket, sinusoidal
from dlcourse.models.recurrent import Encoded
from dlcourse.models.sequence import counted

# A training step of four layers takes 17 % less time on a CPU than with one layer a turn of the scan.
_LAYERS_A_TURN = 4


@dataclasses.dataclass(frozen=True)
class Layer:
  """How one layer is built; BERT, GPT-2, T5 and the Transformer of 2017 differ in these fields."""

  hidden_dim: int = 128
  """Width of the model."""
  num_heads: int = 4
  """Heads of queries."""
  num_kv_heads: int | None = None
  """Heads of keys and values, each shared by as many of queries; None: as many as of queries."""
  head_dim: int | None = None
  """Width of a head; None: hidden_dim / num_heads."""
  mlp_dim: int | None = None
  """Width between the two dense layers; None: 4 hidden_dim."""
  activation: Activation = "gelu"
  """Between the two dense layers."""
  gated: bool = False
  """Whether a third dense layer, activated, multiplies the first, which then is linear (Shazeer, 2020)."""
  norm_first: bool = True
  """Norms before each part and one at the end (Xiong et al., 2020); else after each sum, as in 2017."""
  norm: Literal["layer", "rms"] = "layer"
  """Layer norm, or T5's without mean and bias (Zhang & Sennrich, 2019)."""
  epsilon: float = 1e-5
  """Of the norms."""
  bias: bool = True
  """Whether dense layers add one."""
  scaled: bool = True
  """Whether scores are divided by sqrt(head_dim); T5 has that in its initialisation."""
  dropout: float = 0.0
  """Probability that an entry of what a part adds is dropped in training."""
  attention: Kind = "softmax"
  """softmax (exact), or at a cost that is linear in the length: performer (FAVOR+), linformer."""
  attention_size: int = 256
  """Of a linear attention: random features of a performer, places that a linformer keeps."""
  compute: Literal["float32", "bfloat16"] = "float32"
  """Of activations and products; parameters, norms and the softmax are float32."""

  def __post_init__(self) -> None:
    """Refuses widths of nothing, heads that share no width, and to drop everything."""
    given = ("hidden_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "attention_size")
    sizes = {f"task.model….layer.{name}": getattr(self, name) for name in given}
    check_at_least(1, {path: size for path, size in sizes.items() if size is not None})
    check_below_one({"task.model….layer.dropout": self.dropout})
    if self.epsilon <= 0:
      raise UserError(f"--task.model….layer.epsilon={self.epsilon} keeps no norm from dividing by 0; 1e-5 does")
    check_heads(self.hidden_dim, self.num_heads, self.num_kv_heads, self.head_dim)

  def heads(self) -> tuple[int, int]:
    """Heads of keys and values, and the width of a head."""
    return self.num_kv_heads or self.num_heads, self.head_dim or self.hidden_dim // self.num_heads

  def make_attention(
    self, causal: bool = False, max_length: int = 512, exact: bool = False
  ) -> MultiHeadAttention:
    """An attention of this layer; exact: by the formula, as between two sequences."""
    return MultiHeadAttention(
      self.hidden_dim,
      self.num_heads,
      *self.heads(),
      self.bias,
      self.scaled,
      "softmax" if exact else self.attention,
      causal,
      self.attention_size,
      max_length,
      jnp.dtype(self.compute),
    )

  def make_norm(self) -> nn.Module:
    """A norm of this layer."""
    return nn.LayerNorm(self.epsilon) if self.norm == "layer" else nn.RMSNorm(self.epsilon)


class Block(nn.Module):
  """Self-attention, attention to a source if there is one, and an MLP; each is added to what came in."""

  layer: Layer
  causal: bool
  """Whether no place sees what comes later."""
  across: bool
  """Whether there is a source."""
  max_length: int
  """Of a linformer."""

  def setup(self) -> None:
    """Three parts and their norms."""
    layer = self.layer
    self.attention, self.attention_norm = layer.make_attention(self.causal, self.max_length), layer.make_norm()
    if self.across:
      self.source_attention, self.source_norm = layer.make_attention(exact=True), layer.make_norm()
    dense = {"use_bias": layer.bias, "dtype": jnp.dtype(layer.compute)}
    self.widen = Dense(layer.mlp_dim or 4 * layer.hidden_dim, **dense)
    if layer.gated:
      self.gate = Dense(layer.mlp_dim or 4 * layer.hidden_dim, **dense)
    self.narrow = Dense(layer.hidden_dim, **dense)
    self.mlp_norm = layer.make_norm()
    self.drop = nn.Dropout(layer.dropout)

  def __call__(
    self,
    x: jax.Array,
    own: tuple[KeysValues | None, KeysValues | None],
    shared: tuple[Seen, jax.Array | None],
    train: bool,
  ) -> tuple[jax.Array, tuple[KeysValues | None, jax.Array | None]]:
    """One layer, as a scan wants it.

    Args:
      x: [B, T, M].
      own: this layer's cache, and its keys and values of the source.
      shared: who sees whom, and which places of the source there are [B, S] bool.
      train: whether to drop out.

    Returns:
      [B, T, M], the cache, and the weights [B, T, S] of the source's places.
    """
    (cache, source), (seen, source_mask) = own, shared
    weights = None
    y, cache = self.attention(self._before(self.attention_norm, x), seen, cache)
    x = self._added(self.attention_norm, x, y, train)
    if self.across:
      y, weights = self.source_attention.across(self._before(self.source_norm, x), source, source_mask)
      x = self._added(self.source_norm, x, y, train)
    y = self.narrow(self._widened(self._before(self.mlp_norm, x)))
    return self._added(self.mlp_norm, x, y, train), (cache, weights)

  def look_at(self, source: jax.Array) -> tuple[jax.Array, KeysValues]:
    """source [B, S, M] -> itself, and what this layer sees of it."""
    return source, self.source_attention.look_at(source)

  def _widened(self, x: jax.Array) -> jax.Array:
    if self.layer.gated:
      return activate(self.layer.activation, self.gate(x)) * self.widen(x)
    return activate(self.layer.activation, self.widen(x))

  def _before(self, norm: nn.Module, x: jax.Array) -> jax.Array:
    return norm(x) if self.layer.norm_first else x

  def _added(self, norm: nn.Module, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
    x += self.drop(y, deterministic=not train)
    return x if self.layer.norm_first else norm(x)


class Stack(nn.Module):
  """Layers one after another, and their last norm."""

  layer: Layer
  num_layers: int
  causal: bool = False
  across: bool = False
  max_length: int = 512
  remat: bool = False

  def setup(self) -> None:
    """The scanned layers."""
    block = nn.remat(Block, prevent_cse=False, static_argnums=(4,)) if self.remat else Block
    each = {
      "variable_axes": {"params": 0, "features": 0, "intermediates": 0},
      "split_rngs": {"params": True, "dropout": True},
      "length": self.num_layers,
      "unroll": min(self.num_layers, _LAYERS_A_TURN),
      "out_axes": 1,
    }
    scanned = nn.scan(
      block,
      methods={
        "__call__": {**each, "in_axes": (1, nn.broadcast, nn.broadcast)},
        "look_at": {**each, "in_axes": ()},
      },
    )
    self.layers = scanned(self.layer, self.causal, self.across, self.max_length)
    if self.layer.norm_first:
      self.norm = self.layer.make_norm()

  def __call__(
    self,
    x: jax.Array,
    seen: Seen,
    source: KeysValues | None = None,
    source_mask: jax.Array | None = None,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array | None]:
    """All layers on a whole sequence.

    Args:
      x: [B, T, M].
      seen: who looks at whom.
      source: [B, L, S, K, D], of `look_at`.
      source_mask: [B, S] bool.
      train: whether to drop out.

    Returns:
      [B, T, M], and the weights [B, T, S] of the source's places in the last layer.
    """
    x, (_, weights) = self.layers(x, (None, source), (seen, source_mask), train)
    return self._normed(x), None if weights is None else weights[:, -1]

  def go_on(
    self,
    x: jax.Array,
    seen: Seen,
    cache: tuple[KeysValues, ...],
    source: KeysValues | None = None,
    source_mask: jax.Array | None = None,
  ) -> tuple[jax.Array, tuple[KeysValues, ...], jax.Array | None]:
    """All layers on what follows, without dropout; as `__call__`, with a cache [B, K, S, D] for each layer.

    The layers are not scanned: that would copy all caches for every token.
    """
    block = Block(self.layer, self.causal, self.across, self.max_length, parent=None)
    kept, weights = [], None
    for i, own in enumerate(cache):
      variables = jax.tree.map(lambda leaf, i=i: leaf[i], dict(self.layers.variables))
      of_source = jax.tree.map(lambda leaf, i=i: leaf[:, i], source)
      x, (own, weights) = block.apply(variables, x, (own, of_source), (seen, source_mask), False)
      kept.append(own)
    return self._normed(x), tuple(kept), weights

  def _normed(self, x: jax.Array) -> jax.Array:
    return self.norm(x) if self.layer.norm_first else x

  def look_at(self, source: jax.Array) -> KeysValues:
    """source [B, S, M] -> what every layer sees of it, [B, L, S, K, D]."""
    return self.layers.look_at(source)[1]


def empty_memory(layer: Layer, num_layers: int, batch_size: int, steps: int) -> Memory:
  """Room for the keys and values of `steps` places."""
  heads, width = layer.heads()
  zeros = jnp.zeros((batch_size, heads, steps, width), jnp.dtype(layer.compute))
  return Memory((KeysValues(zeros, zeros),) * num_layers, jnp.zeros(batch_size, jnp.int32))


class Placed(nn.Module):
  """Says where the places are: by what is added to them, by angles, or by a bias of the scores (H3.12.3)."""

  layer: Layer
  positions: Positions
  both_ways: bool
  """Whether places that come later are seen."""
  max_length: int
  """Of learned positions."""
  buckets: int = 32
  """Of relative positions, as in T5."""
  furthest: int = 128
  """Distance from which on relative positions are the same."""

  def setup(self) -> None:
    """What is learnt of them."""
    if self.positions == "learned":
      self.table = nn.Embed(self.max_length, self.layer.hidden_dim, embedding_init=nn.initializers.normal(0.02))
    elif self.positions == "relative":
      self.table = nn.Embed(self.buckets, self.layer.num_heads)

  def __call__(self, x: jax.Array, seen: Seen, places: jax.Array, keys: jax.Array) -> tuple[jax.Array, Seen]:
    """x [B, T, M], places [B or 1, T] of its steps, keys [S] of what they look at -> both, with positions."""
    match self.positions:
      case "sinusoidal":
        x = x + sinusoidal(places, x.shape[-1]).astype(x.dtype)
      case "learned":
        x = x + self.table(places)
      case "rotary":
        seen = seen._replace(places=places)
      case "relative":
        distance = keys[None, None] - places[:, :, None]  # [B or 1, T, S]
        bias = self.table(relative_bucket(distance, self.buckets, self.furthest, self.both_ways))
        seen = seen._replace(bias=jnp.moveaxis(bias, -1, 1))
    return x, seen


class Transformer(nn.Module):
  """Transformer layers as the body of a sequence network: an encoder, or causal, a decoder alone (H3.12.4).

  `final` is the output of the last place that counts. A causal one can be continued from `initial_carry` with
  room for a number of steps, at a cost that is linear in them.
  """

  layer: Layer = Layer()
  """How a layer is built."""
  num_layers: int = 2
  """Layers."""
  causal: bool = False
  """Whether no place sees what comes later."""
  positions: Positions = "sinusoidal"
  """How places are told apart: none, sinusoidal, learned, rotary or relative (T5)."""
  window: int | None = None
  """Places that each sees at most, itself included; None: all. With rotary or relative positions a causal one
  can so write more than the windows it was trained on (Jiang et al., 2023, arXiv:2310.06825)."""
  max_length: int = 512
  """Places at most, of learned positions and of a linformer."""
  dropout: float = 0.0
  """Probability that an entry of what goes into the first layer is dropped in training."""
  remat: bool = False
  """Whether activations are computed again on the way back: less memory, a third more time."""

  def __post_init__(self) -> None:
    """Refuses no layer at all, and what a linear attention cannot do."""
    check_at_least(1, {f"task.model….{name}": getattr(self, name) for name in ("num_layers", "max_length")})
    check_below_one({"task.model….dropout": self.dropout})
    check_attention(self.layer, self.positions, self.causal)
    if self.window is not None:
      check_at_least(1, {"task.model….window": self.window})
      if not self.causal or self.layer.attention != "softmax":
        raise UserError("window goes with a causal Transformer and attention=softmax")
    super().__post_init__()

  @property
  def hidden_dim(self) -> int:
    """Width of the outputs."""
    return self.layer.hidden_dim

  def initial_carry(self, batch_size: int, steps: int | None = None) -> tuple | Memory:
    """Nothing for windows that stand alone, as in training; else room for as many steps.

    Raises:
      UserError: the layers see what comes later, or keep no keys.
    """
    if steps is None:
      return ()
    if not self.causal:
      raise UserError(
        "a Transformer that is not --task.model.body.causal sees the future: it cannot be continued"
      )
    if self.layer.attention != "softmax":
      raise UserError(f"attention={self.layer.attention} keeps no keys: it cannot be continued; softmax can")
    self._check_length(steps)
    return empty_memory(self.layer, self.num_layers, batch_size, steps)

  def setup(self) -> None:
    """Positions and layers, and a projection where the input may have another width."""
    self.project = Dense(self.layer.hidden_dim, dtype=jnp.dtype(self.layer.compute))
    self.placed = Placed(self.layer, self.positions, not self.causal, self.max_length)
    self.drop = nn.Dropout(self.dropout)
    self.stack = Stack(self.layer, self.num_layers, self.causal, False, self.max_length, self.remat)

  def __call__(
    self,
    x: jax.Array,
    lengths: jax.Array | None = None,
    carry: tuple | Memory | None = None,
    train: bool = False,
  ) -> Encoded:
    """x [B, T, D], lengths [B], carry of the part before -> see `Encoded`; D = M is taken as it is."""
    batch, times, width = x.shape
    if width != self.layer.hidden_dim:
      x = self.project(x)
    if carry:
      x, memory = self._continued(x, carry)
      return Encoded(x, x[:, -1], memory)
    self._check_length(times)
    mask, keys = visible(times, lengths, self.causal, self.window)
    places = jnp.arange(times)
    x, seen = self.placed(x, Seen(mask, keys), places[None], places)
    x, _ = self.stack(self.drop(x, deterministic=not train), seen, train=train)
    x = jnp.where(counted(lengths, x), x, 0.0)
    ends = jnp.full(batch, times) if lengths is None else lengths
    return Encoded(x, x[jnp.arange(batch), jnp.maximum(ends - 1, 0)], ())

  def _continued(self, x: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
    x, seen = self.placed(x, *further(memory, x.shape[1], self.window))
    x, cache, _ = self.stack.go_on(x, seen, memory.cache)
    return x, Memory(cache, memory.time + x.shape[1])

  def _check_length(self, steps: int) -> None:
    if steps > self.max_length and (self.positions == "learned" or self.layer.attention == "linformer"):
      raise UserError(f"{steps} places are more than --task….body.max_length={self.max_length}")


def check_attention(layer: Layer, positions: Positions, causal: bool) -> None:
  """Raises a `UserError` for what a linear attention cannot do."""
  if layer.attention != "softmax" and positions == "relative":
    raise UserError(f"attention={layer.attention} has no scores to which relative positions could be added")
  if layer.attention == "linformer" and causal:
    raise UserError("a linformer mixes all places: it cannot be causal; softmax and performer can")
  if positions == "rotary" and layer.heads()[1] % 2:
    raise UserError(f"rotary positions turn pairs of entries; head_dim={layer.heads()[1]} has to be even")
