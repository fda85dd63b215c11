"""GPT-2: a pre-norm decoder alone, a language model (Radford et al., 2019; H3.12.4)."""

from dlcourse.models.sequence import LanguageModel
from dlcourse.models.transformer import Layer, Transformer


def gpt(hidden_dim: int, num_heads: int, num_layers: int, max_length: int = 1024) -> LanguageModel:
  """GPT-2 of some size.

  Args:
    hidden_dim: width of the model.
    num_heads: heads of each attention, which divide it.
    num_layers: layers.
    max_length: places at most.
  """
  layer = Layer(hidden_dim, num_heads, activation="gelu_tanh", dropout=0.1)
  body = Transformer(layer, num_layers, causal=True, positions="learned", max_length=max_length, dropout=0.1)
  return LanguageModel(body, hidden_dim, tied=True, bias=False)


# Numbers at 50,257 tokens.
GPT2 = {
  "small": gpt(768, 12, 12),  # 124,439,808
  "medium": gpt(1024, 16, 24),  # 354,823,168
  "large": gpt(1280, 20, 36),  # 774,030,080
  "xl": gpt(1600, 25, 48),  # 1,557,611,200
}
