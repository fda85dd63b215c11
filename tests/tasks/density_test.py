import dataclasses

import jax
import numpy as np
import pytest

from dlcourse.data.images import Images
from dlcourse.data.points import Gaussians
from dlcourse.errors import UserError
from dlcourse.models.flow import Flow
from dlcourse.models.pixel_cnn import PixelCNN
from dlcourse.optim import Adam
from dlcourse.tasks.density import Density

pytestmark = pytest.mark.data
DIGITS = Images("digits", batch_size=8, size=8)


def built(model, data=DIGITS):
  data = data.build()
  task = Density(model, Adam()).build(data.spec, steps=2)
  return data, task, jax.jit(task.init)(jax.random.key(0), data.batch(0, 0))


@pytest.mark.parametrize("model", [Flow(width=2, depth=1), PixelCNN(width=2, depth=1)])
def test_padding_counts_nothing_and_bits_are_nats_of_a_pixel(model):
  data, task, state = built(model)
  batch = dict(data.batch(0, 0))
  batch["mask"] = batch["mask"].copy()
  batch["mask"][3:] = 0
  measured = jax.jit(task.eval_step)(state, jax.random.key(1), batch)
  nats = np.asarray(task.predict(state, jax.random.key(1), batch)["nats"])
  np.testing.assert_allclose(measured["loss"].value(), nats[:3].mean(), rtol=1e-5)
  bits = nats[:3].mean() / (64 * np.log(2))
  np.testing.assert_allclose(measured["bits_per_dim"].value(), bits, rtol=1e-5)


def test_a_flow_has_latents_both_ways_and_pixel_cnn_none():
  data, task, state = built(Flow(width=2, depth=1))
  batch = data.batch(0, 0)
  codes = task.latents.encode(state, batch)
  assert codes.shape == (8, task.latents.dim)
  made = task.latents.images(state, codes)
  np.testing.assert_allclose(made, np.asarray(batch["image"]) / 255, atol=1e-6)
  assert built(PixelCNN(width=2, depth=1))[1].latents is None


def test_data_that_are_no_images_or_not_in_the_unit_interval_are_refused():
  with pytest.raises(UserError, match="needs images"):
    built(Flow(), Gaussians(batch_size=8))
  with pytest.raises(UserError, match=r"set --data\.scale=unit"):
    built(Flow(), dataclasses.replace(DIGITS, scale="symmetric"))
