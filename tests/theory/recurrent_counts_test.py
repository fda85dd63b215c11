from typing import get_args

import jax
import jax.numpy as jnp
import pytest
from networks import count

from dlcourse.errors import UserError
from dlcourse.models.cells import CellName
from dlcourse.models.recurrent import RecurrentStack
from dlcourse.theory.recurrent_counts import GATES, recurrent_parameters


def test_counts_of_the_exercise():
  counts = {cell: recurrent_parameters(cell, 100, 256) for cell in GATES}
  assert counts == {"rnn": 91_392, "rnn_relu": 91_392, "lstm": 365_568, "gru_original": 274_176, "gru": 274_944}
  assert counts["lstm"] == 4 * counts["rnn"]
  assert counts["gru_original"] == 3 * counts["rnn"] == 0.75 * counts["lstm"]


@pytest.mark.parametrize("cell", get_args(CellName))
@pytest.mark.parametrize(("inputs", "hidden", "directions"), [(1, 1, 1), (7, 12, 2), (100, 256, 1)])
def test_the_formula_counts_what_a_layer_has(cell, inputs, hidden, directions):
  model = RecurrentStack(cell, hidden, bidirectional=directions == 2)
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, inputs)))
  assert recurrent_parameters(cell, inputs, hidden, directions) == count(variables)


def test_an_unknown_cell_is_refused():
  with pytest.raises(UserError, match="unknown cell 'lstmm'; perhaps you meant 'lstm'"):
    recurrent_parameters("lstmm", 1, 1)
