"""Fields against gradients: a pixel that is seen changes what is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.models.receptive_field import image_field, propagate


def follow(function, shape):
  """The field of a function of an image, equation by equation."""
  traced = jax.make_jaxpr(function)(jnp.zeros(shape)).jaxpr
  fields = {traced.invars[0]: image_field(shape)}
  for eqn in traced.eqns:
    field = propagate(eqn, [None if hasattr(v, "val") else fields.get(v) for v in eqn.invars])
    fields |= dict.fromkeys(eqn.outvars, field)
  return fields[traced.outvars[0]]


def conv(x, size, stride=1, dilation=1, gap=1):
  kernel = jnp.ones((size, size, x.shape[-1], 2))
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    "SAME" if gap == 1 else [(size - 1, size - 1)] * 2,
    (gap, gap),
    (dilation, dilation),
    ("NHWC", "HWIO", "NHWC"),
  )


def pool(x, size, stride):
  window, strides = (1, size, size, 1), (1, stride, stride, 1)
  return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, "VALID")


def patches(x):
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 4, 4, width // 4, 4, channels).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(batch, -1, 16 * channels)
  return x @ jnp.ones((x.shape[-1], 3))


def repeated(x):
  return conv(jnp.repeat(jnp.repeat(pool(x, 2, 2), 2, 1), 2, 2), 3)


@pytest.mark.parametrize(
  ("function", "side"),
  [
    (lambda x: conv(x, 5), 5),
    (lambda x: conv(conv(x, 3, stride=2), 3), 7),
    (lambda x: conv(conv(x, 3, dilation=2), 3, dilation=4), 13),
    (lambda x: conv(pool(conv(x, 3), 2, 2), 3), 8),
    (lambda x: conv(x[:, ::2, ::2], 3), 5),
    (lambda x: conv(conv(x, 3, gap=2), 3), 3),
    (repeated, 4),
    (
      lambda x: conv(jax.lax.rev(jax.lax.pad(x, 0.0, [(0, 0, 0), (2, 2, 0), (2, 2, 0), (0, 0, 0)]), (1,)), 3),
      3,
    ),
    (lambda x: conv(jnp.concatenate([x, conv(x, 5)], -1), 3) + x[..., :1], 7),
    (patches, 4),
    (lambda x: jnp.einsum("bnc,bmc->bnm", patches(x), patches(x)).sum(2), 16),
    (lambda x: x.reshape(x.shape[0], -1) @ jnp.ones((256, 3)), 16),
    (lambda x: conv(x, 3).mean((1, 2)), 18),
    (lambda x: x.max((1, 2)), 16),
    (lambda x: jnp.sort(x.reshape(2, 2, -1), 1), 16),  # too tangled: all of it
  ],
)
def test_the_field_of_an_operation(function, side):
  assert follow(function, (2, 16, 16, 1)).side == side


@pytest.mark.parametrize(
  "function",
  [
    lambda x: conv(conv(pool(conv(x, 3), 2, 2), 5), 3, stride=2),
    lambda x: conv(conv(x, 3, stride=2), 4, gap=2),
    lambda x: conv(repeated(x), 3, dilation=2),
  ],
)
def test_as_many_pixels_have_a_gradient_as_the_field_has(function):
  shape = (1, 64, 64, 1)

  def middle(x):
    y = function(x)
    return y[0, y.shape[1] // 2 - 1 : y.shape[1] // 2 + 1, y.shape[2] // 2, 0]

  seen = np.abs(jax.jacobian(middle)(jnp.ones(shape)))[:, 0, :, :, 0].any(-1).sum(-1)
  assert seen.max() == follow(function, shape).side


def test_what_only_weighs_a_map_adds_nothing():
  def gated(x):
    return conv(x, 3) * conv(x, 7).mean((1, 2), keepdims=True)

  assert follow(gated, (2, 16, 16, 1)).side == 3


def test_what_sees_no_image_has_no_field():
  traced = jax.make_jaxpr(jnp.sin)(1.0).jaxpr
  assert propagate(traced.eqns[0], [None]) is None
