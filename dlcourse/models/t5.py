"""T5: an encoder–decoder that is told distances, not places (Raffel et al., 2020; H3.12.4)."""

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


# Numbers at 32,128 tokens.
T5 = {
  "small": t5(512, 8, 2048, 6),  # 60,506,624
  "base": t5(768, 12, 3072, 12),  # 222,903,552
  "large": t5(1024, 16, 4096, 24),  # 737,668,096
  "3b": t5(1024, 32, 16384, 24, head_dim=128),  # 2,851,598,336
  "11b": t5(1024, 128, 65536, 24, head_dim=128),  # 11,307,321,344
}
