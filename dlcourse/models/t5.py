"""T5: an encoder–decoder that is told distances, not places (Raffel et al., 2020; H3.12.4)."""

import dataclasses

from dlcourse.models.encoder_decoder import TransformerEncoderDecoder
from dlcourse.models.transformer import Layer


def t5(
  hidden_dim: int, num_heads: int, mlp_dim: int, num_layers: int, head_dim: int = 64
) -> TransformerEncoderDecoder:
  """T5 of some size (arXiv:1910.10683): RMS norms before each part, no bias, 32 buckets of distances up to 128.

  Args:
    hidden_dim: width of the model.
    num_heads: heads of each attention.
    mlp_dim: width between two dense layers.
    num_layers: layers of the encoder, and of the decoder.
    head_dim: width of a head; all heads together need not be as wide as the model.
  """
  layer = Layer(
    hidden_dim,
    num_heads,
    head_dim=head_dim,
    mlp_dim=mlp_dim,
    activation="relu",
    norm="rms",
    epsilon=1e-6,
    bias=False,
    scaled=False,
    dropout=0.1,
  )
  return TransformerEncoderDecoder(layer, num_layers, positions="relative", scale="logits", dropout=0.1)


def t5_v1_1(
  hidden_dim: int, num_heads: int, mlp_dim: int, num_layers: int, head_dim: int = 64
) -> TransformerEncoderDecoder:
  """T5 1.1 of some size: T5 with gated GELUs and an output layer of its own (Shazeer, 2020, arXiv:2002.05202).

  Args:
    hidden_dim: see `t5`.
    num_heads: see `t5`.
    mlp_dim: see `t5`; the gate is as wide.
    num_layers: see `t5`.
    head_dim: see `t5`.
  """
  first = t5(hidden_dim, num_heads, mlp_dim, num_layers, head_dim)
  layer = dataclasses.replace(first.layer, activation="gelu_tanh", gated=True)
  return first.clone(layer=layer, scale="none", tied=False)


# Numbers at 32,128 tokens.
T5 = {
  "small": t5(512, 8, 2048, 6),  # 60,506,624
  "base": t5(768, 12, 3072, 12),  # 222,903,552
  "large": t5(1024, 16, 4096, 24),  # 737,668,096
  "3b": t5(1024, 32, 16384, 24, head_dim=128),  # 2,851,598,336
  "11b": t5(1024, 128, 65536, 24, head_dim=128),  # 11,307,321,344
  "1.1 small": t5_v1_1(512, 6, 1024, 8),  # 76,961,152
  "1.1 base": t5_v1_1(768, 12, 2048, 12),  # 247,577,856
  "1.1 large": t5_v1_1(1024, 16, 2816, 24),  # 783,150,080
  "1.1 xl": t5_v1_1(2048, 32, 5120, 24),  # 2,849,757,184
  "1.1 xxl": t5_v1_1(4096, 64, 10240, 24),  # 11,135,332,352
}
