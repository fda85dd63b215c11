"""T5: published sizes, no bias, and logits that are divided."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from networks import count, once

from dlcourse.models.t5 import T5, t5

PUBLISHED = {
  "small": 60_506_624,
  "base": 222_903_552,
  "large": 737_668_096,
  "3b": 2_851_598_336,
  "11b": 11_307_321_344,
  "1.1 small": 76_961_152,
  "1.1 base": 247_577_856,
  "1.1 large": 783_150_080,
  "1.1 xl": 2_849_757_184,
  "1.1 xxl": 11_135_332_352,
}
TOKENS = np.ones((1, 3), np.int32)


def shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0), TOKENS, TOKENS)["params"]


@pytest.mark.parametrize("name", T5)
def test_the_published_counts(name):
  assert count(shapes(T5[name].clone(vocab_size=32_128))) == PUBLISHED[name]


def test_nothing_is_added_but_by_attention_and_logits_are_divided():
  model = t5(16, 2, 12, 2, head_dim=3).clone(vocab_size=5)
  assert not any(path[-1] == "bias" for path in flatten_dict(shapes(model)))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes(model))
  logits, _ = once(model.apply)({"params": params}, TOKENS, TOKENS)
  norm = params["decoder"]["norm"]
  norm["scale"] = 4.0 * norm["scale"]  # not in place: JAX may not have read it yet
  whole, _ = once(model.clone(scale="none").apply)({"params": params}, TOKENS, TOKENS)
  np.testing.assert_allclose(whole, 16 * np.asarray(logits), rtol=1e-5)  # 4 of the norm, sqrt(16) of the scale
