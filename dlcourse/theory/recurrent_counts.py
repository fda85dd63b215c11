"""How many trainable parameters a recurrent layer has (H3.9.4, H3.10.3)."""

from collections.abc import Mapping
from types import MappingProxyType

from dlcourse.errors import unknown

GATES: Mapping[str, int] = MappingProxyType({"rnn": 1, "rnn_relu": 1, "lstm": 4, "gru_original": 3, "gru": 3})


def recurrent_parameters(cell: str, inputs: int, hidden: int, directions: int = 1) -> int:
  """G (d_x + d_h + 1) d_h for a cell of G affine maps of x_t and h_(t-1).

  So an LSTM has exactly four times as many as a simple cell, not about (H3.9.4), and a GRU as published three
  times, a quarter less than an LSTM (H3.10.3). The GRU of cuDNN, PyTorch and Keras adds 3 d_h: its reset comes
  after the product, which has a bias of its own. d_x = 100, d_h = 256: 91,392, 365,568, 274,176 and 274,944.

  Args:
    cell: rnn, rnn_relu, lstm, gru_original, or gru with the reset after the product.
    inputs: d_x.
    hidden: d_h.
    directions: 2 in a bidirectional layer.

  Raises:
    UserError: there is no such cell.
  """
  if cell not in GATES:
    raise unknown("cell", cell, GATES)
  second_bias = 3 * hidden if cell == "gru" else 0
  return directions * (GATES[cell] * (inputs + hidden + 1) * hidden + second_bias)
