import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.corruption import Masking, Noise
from dlcourse.errors import UserError

KEY = jax.random.key(0)


def test_noise_has_mean_0_and_its_deviation():
  noise = np.asarray(Noise(0.3)(KEY, jnp.ones((100, 10, 10, 3)))) - 1
  assert abs(noise.mean()) < 4 * 0.3 / noise.size**0.5
  assert noise.std() == pytest.approx(0.3, rel=0.02)


def test_masking_blanks_whole_pixels_and_leaves_the_others():
  images = jax.random.uniform(KEY, (100, 10, 10, 3), minval=0.1)
  seen = np.asarray(Masking(0.2)(jax.random.key(1), images))
  blank = (seen == 0).all(axis=-1)
  np.testing.assert_array_equal(seen[~blank], np.asarray(images)[~blank])
  assert blank.mean() == pytest.approx(0.2, abs=4 * (0.16 / blank.size) ** 0.5)


@pytest.mark.parametrize("make", [lambda: Noise(-0.1), lambda: Masking(1.5), lambda: Noise(float("nan"))])
def test_damage_that_is_none_is_refused(make):
  with pytest.raises(UserError, match=r"--….(deviation|share)="):
    make()
