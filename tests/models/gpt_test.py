"""GPT-2: published sizes, and an output layer that is the embedding and nothing more."""

import jax
import numpy as np
import pytest
from networks import count, once

from dlcourse.models.gpt import GPT2, gpt
from dlcourse.models.sequence import LanguageModel

PUBLISHED = {
  "small": 124_439_808,
  "medium": 354_823_168,
  "large": 774_030_080,
  "xl": 1_557_611_200,
}
TOKENS = np.ones((1, 3), np.int32)


def shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0), model.initial_carry(1), TOKENS, np.zeros(1))["params"]


@pytest.mark.parametrize("name", GPT2)
def test_the_published_counts(name):
  assert count(shapes(GPT2[name].clone(vocab_size=50_257))) == PUBLISHED[name]


def test_a_token_of_zeros_has_the_logit_0():
  model = gpt(8, 2, 2, max_length=4).clone(vocab_size=5)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes(model))
  params["embed"]["embedding"][4] = 0
  _, logits = once(model.apply)({"params": params}, (), TOKENS, np.zeros(1))
  assert not np.asarray(logits)[..., 4].any()
  assert np.asarray(logits)[..., :4].all()


def test_an_output_layer_of_its_own_may_be_without_a_bias_too():
  model = LanguageModel(gpt(8, 2, 1).body, 8, bias=False, vocab_size=5)
  assert {name: leaf.shape for name, leaf in shapes(model)["output"].items()} == {"kernel": (8, 5)}
  assert set(shapes(model.clone(bias=True))["output"]) == {"kernel", "bias"}
