import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.errors import UserError
from dlcourse.evaluators.codebook import CodebookUsage

KEY = jax.random.key(0)
CODES = np.array([[[1, 1], [3, 3]], [[1, 1], [3, 0]], [[1, 1], [3, 3]]], np.int32)  # 1: 6, 3: 5, 0: 1 of 12


def measured(count, codes=CODES):
  data = types.SimpleNamespace(eval_batches=lambda split: in_order({"image": codes}, 2))
  read = types.SimpleNamespace(count=count, read=lambda state, batch: jnp.asarray(batch["image"]))
  return CodebookUsage()(types.SimpleNamespace(codes=read), None, data, KEY)


def test_usage_and_perplexity_are_of_the_codes_of_all_test_images_and_not_of_padding():
  report = measured(5)
  shares = np.array([1, 6, 5]) / 12
  bits = -(shares * np.log2(shares)).sum()
  assert report.scalars["codebook_usage"] == pytest.approx(3 / 5)
  assert report.scalars["code_bits"] == pytest.approx(bits)
  assert report.scalars["codebook_perplexity"] == pytest.approx(2**bits)
  heights = [bar.get_height() for bar in report.figures["codebook"].axes[0].patches]
  np.testing.assert_allclose(heights, [50, 500 / 12, 100 / 12, 0, 0])


def test_equal_shares_have_the_perplexity_of_their_number():
  report = measured(4, np.arange(4, dtype=np.int32).reshape(1, 2, 2))
  assert report.scalars == pytest.approx({"codebook_usage": 1.0, "codebook_perplexity": 4.0, "code_bits": 2.0})


def test_a_collapse_is_logged(caplog):
  measured(100)
  assert "codebook collapse: 3 of 100 codes" in caplog.text


def test_a_task_without_codes_is_refused():
  with pytest.raises(UserError, match="needs an autoencoder with a codebook"):
    CodebookUsage()(types.SimpleNamespace(codes=None), None, None, KEY)
