import jax
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.conv_vae import ConvVAE

KEY = jax.random.key(1)


@pytest.mark.parametrize(("side", "channels", "start", "doublings"), [(28, 1, 7, 2), (32, 3, 4, 3)])
def test_maps_halve_to_the_smallest_and_double_again(side, channels, start, doublings):
  model = ConvVAE(latent_dim=5, width=2, image_shape=(side, side, channels))
  x = np.zeros((3, side, side, channels), np.float32)
  (outputs, (group,), _), variables = jax.eval_shape(model.init_with_output, KEY, x, KEY)
  params, widest = variables["params"], 2 * 2 ** (doublings - 1)
  assert outputs.shape == x.shape
  assert group.z.shape == (3, 5)
  assert params["posterior_mean"]["kernel"].shape == (start**2 * widest, 5)
  assert params["first_maps"]["kernel"].shape == (5, start**2 * widest)
  kernels = [params[f"down_{i}"]["kernel"].shape for i in range(doublings)]
  assert kernels == [(4, 4, channels if i == 0 else 2**i, 2 ** (i + 1)) for i in range(doublings)]
  assert params["pixels"]["kernel"].shape == (4, 4, 2, channels)


def test_code_and_class_reach_every_image_and_no_other():
  model = ConvVAE(latent_dim=2, width=2, conditional=True, num_classes=3, image_shape=(8, 8, 1))
  x = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype(np.float32)
  labels = np.array([0, 1, 2, 0])
  variables = jax.jit(model.init)(KEY, x, KEY, labels)
  both = jax.jit(lambda x, labels: model.apply(variables, x, KEY, labels))
  whole = both(x, labels)
  np.testing.assert_allclose(
    whole.outputs, model.apply(variables, whole.code, labels, method="decode"), atol=1e-6
  )
  moved = x.copy()
  moved[1] += 0.5
  np.testing.assert_array_equal(np.any(both(moved, labels).code != whole.code, axis=1), [0, 1, 0, 0])
  other = labels.copy()
  other[2] = 1
  changed = np.any(both(x, other).outputs != whole.outputs, axis=(1, 2, 3))
  np.testing.assert_array_equal(changed, [0, 0, 1, 0])


def test_images_that_do_not_halve_are_refused():
  model = ConvVAE(image_shape=(30, 30, 1))
  with pytest.raises(UserError, match=r"not 30; set --data\.size"):
    jax.eval_shape(model.init, KEY, np.zeros((1, 30, 30, 1)), KEY)
  with pytest.raises(UserError, match=r"--task\.model\.width=0 is too small"):
    ConvVAE(width=0)
