"""Masked-language modelling: what is hidden, and that only that is learnt from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.recipe import Spec
from dlcourse.data.tokens import BOS
from dlcourse.errors import UserError
from dlcourse.optim import Sgd
from dlcourse.tasks.masked import MaskLanguage, hide

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(95)))
TOKENS = jax.random.randint(jax.random.key(0), (400, 50), 5, 100).at[:, 0].set(2)
LENGTHS = jnp.full(400, 40)


def test_tokens_are_hidden_in_the_shares_of_the_paper():
  seen, chosen = hide(jax.random.key(1), TOKENS, LENGTHS, WORDS, 0.15)
  assert not chosen[:, 0].any()  # [CLS]
  assert not chosen[:, 40:].any()  # after the end
  np.testing.assert_array_equal(seen[~chosen], TOKENS[~chosen])
  assert float(chosen[:, 1:40].mean()) == pytest.approx(0.15, abs=0.01)
  masked, same = seen[chosen] == 4, seen[chosen] == TOKENS[chosen]
  assert float(masked.mean()) == pytest.approx(0.8 + 0.1 / 100, abs=0.03)
  assert float(same.mean()) == pytest.approx(0.1 + 0.1 / 100, abs=0.03)


def test_without_a_mask_among_the_tokens_it_is_one_that_no_sentence_has():
  seen, chosen = hide(
    jax.random.key(1), TOKENS, LENGTHS, ("<pad>", "<unk>", "<bos>", *map(str, range(97))), 1.0
  )
  assert float((seen[chosen] == BOS).mean()) == pytest.approx(0.8, abs=0.03)


class Guess(nn.Module):
  """The token that is seen, with some certainty."""

  vocab_size: int | None = None

  @nn.compact
  def __call__(self, tokens, lengths, train=False):
    scale = self.param("scale", nn.initializers.ones, ())
    return scale * jax.nn.one_hot(tokens, self.vocab_size) * 5.0


def test_only_what_was_hidden_counts():
  batch = {
    "inputs": TOKENS,
    "lengths": LENGTHS,
    "label": jnp.zeros(400, int),
    "mask": jnp.ones(400).at[7].set(0),
  }
  spec = Spec(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch), ("a", "b"), WORDS)
  task = MaskLanguage(Guess(), Sgd()).build(spec, 1)
  state = task.init(jax.random.key(0), batch)
  measured = task.eval_step(state, jax.random.key(0), batch)
  _, chosen = hide(jax.random.key(0), TOKENS, LENGTHS, WORDS, 0.15)
  assert float(measured["loss"].weight) == chosen.sum() - chosen[7].sum()
  assert float(measured["accuracy"].total / measured["accuracy"].weight) == pytest.approx(
    0.1, abs=0.03
  )  # what was left as it is
  first, second = (task.train_step(state.replace(step=state.step + i), batch)[1]["loss"].weight for i in (0, 1))
  assert first != second  # other places every step


def test_data_without_sentences_are_refused():
  spec = Spec({"inputs": jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)}, ("a",))
  with pytest.raises(UserError, match="needs sentences of tokens"):
    MaskLanguage(Guess(), Sgd()).build(spec, 1)
