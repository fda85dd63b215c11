"""Convolutions with gradients of their own, against JAX's and Flax's."""

from functools import partial

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dlcourse import platform
from dlcourse.models import convolution

NHWC = ("NHWC", "HWIO", "NHWC")

# Input [N, H, W, C], kernel [kh, kw, C, O], strides, padding, input dilation, kernel dilation.
CASES = {
  "lenet": ((3, 14, 14, 6), (5, 5, 6, 4), (1, 1), "VALID", (1, 1), (1, 1)),
  "same": ((2, 8, 9, 3), (3, 3, 3, 5), (1, 1), "SAME", (1, 1), (1, 1)),
  "strided": ((3, 15, 16, 4), (4, 3, 4, 5), (2, 2), "SAME", (1, 1), (1, 1)),
  "strides differ": ((2, 11, 12, 2), (3, 5, 2, 3), (3, 2), [(1, 0), (0, 2)], (1, 1), (1, 1)),
  "rest of a stride": ((2, 10, 9, 2), (3, 3, 2, 3), (4, 4), "VALID", (1, 1), (1, 1)),
  "pointwise": ((3, 9, 9, 4), (1, 1, 4, 5), (2, 2), "VALID", (1, 1), (1, 1)),
  "kernel dilated": ((2, 12, 11, 3), (3, 2, 3, 4), (1, 1), "SAME", (1, 1), (2, 3)),
  "kernel dilated, strided": ((2, 13, 12, 3), (3, 3, 3, 4), (2, 1), "SAME", (1, 1), (2, 2)),
  "transposed": ((2, 5, 4, 4), (4, 4, 4, 3), (1, 1), [(2, 2), (2, 2)], (2, 2), (1, 1)),
  "transposed, odd": ((2, 5, 6, 3), (5, 3, 3, 2), (1, 1), [(4, 1), (2, 3)], (3, 2), (1, 1)),
  "transposed, dilated": ((2, 5, 4, 3), (3, 3, 3, 2), (1, 1), [(4, 3), (3, 4)], (2, 2), (2, 2)),
  "everything": ((2, 7, 6, 3), (3, 2, 3, 4), (2, 1), [(3, 2), (1, 4)], (3, 2), (1, 2)),
  "cropped": ((2, 9, 9, 2), (3, 3, 2, 3), (1, 1), [(-1, -2), (0, -1)], (1, 1), (1, 1)),
  "larger than the kernel's reach": ((1, 4, 4, 2), (2, 2, 2, 2), (1, 1), [(3, 4), (5, 2)],
                                     (1, 1), (1, 1)),
}  # fmt: skip

COVERED = ((3, 5, 4, 6), (5, 4, 6, 7), (2, 1), "VALID", (1, 1), (1, 1))


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
  shape, kernel_shape, *options = request.param
  return normal(0, shape), normal(1, kernel_shape), options


def normal(seed, shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def ours(x, kernel, options):
  return convolution.conv_general_dilated(x, kernel, *options, dimension_numbers=NHWC)


def reference(x, kernel, options):
  return lax.conv_general_dilated(x, kernel, *options, dimension_numbers=NHWC)


def assert_close(actual, expected):
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    scale = float(jnp.abs(b).max())
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


def first_order(convolve, options):
  """Gradient with respect to input and kernel of a loss that is not linear in either."""
  return jax.grad(lambda x, kernel: jnp.sin(convolve(x, kernel, options)).sum(), (0, 1))


def second_order(convolve, options):
  """Gradient of the squared norms of both gradients, as a gradient penalty takes it."""

  def penalty(x, kernel):
    return sum((g**2).sum() for g in first_order(convolve, options)(x, kernel))

  return jax.grad(penalty, (0, 1))


def test_values_equal_lax(case):
  x, kernel, options = case
  assert_close(ours(x, kernel, options), reference(x, kernel, options))


@pytest.mark.parametrize("order", [first_order, second_order])
def test_gradients_equal_lax(case, order):
  x, kernel, options = case
  actual = jax.jit(order(ours, options))(x, kernel)
  expected = jax.jit(order(reference, options))(x, kernel)
  assert_close(actual, expected)


@pytest.mark.parametrize("order", [first_order, second_order])
def test_kernel_that_covers_its_input(order):
  shape, kernel_shape, *options = COVERED
  x, kernel = normal(0, shape), normal(1, kernel_shape)
  assert_close(ours(x, kernel, options), reference(x, kernel, options))
  assert_close(order(ours, options)(x, kernel), order(reference, options)(x, kernel))
  if platform.own_gradients():
    assert layouts(order(ours, options), x, kernel) == set()


def test_gradients_inside_scan(case):
  x, kernel, options = case

  def train(convolve):
    def step(kernel, x):
      return kernel - 1e-3 * first_order(convolve, options)(x, kernel)[1], None

    return jax.jit(lambda kernel, xs: lax.scan(step, kernel, xs)[0])

  xs = jnp.stack([x, 2 * x, -x])
  assert_close(train(ours)(kernel, xs), train(reference)(kernel, xs))


def test_gradients_under_vmap():
  xs = normal(0, (5, 2, 8, 8, 3))
  kernel = normal(1, (3, 3, 3, 4))
  options = [(2, 2), "SAME"]
  actual = jax.vmap(first_order(ours, options), (0, None))(xs, kernel)
  assert_close(actual, jax.vmap(first_order(reference, options), (0, None))(xs, kernel))


def convolutions(jaxpr):
  """Every convolution in a jaxpr, those of its inner jaxprs included."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "conv_general_dilated":
      yield equation
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from convolutions(inner)


def layouts(function, *arguments):
  found = convolutions(jax.make_jaxpr(function)(*arguments).jaxpr)
  return {equation.params["dimension_numbers"] for equation in found}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other platforms take JAX's gradients")
@pytest.mark.parametrize("order", [first_order, second_order])
def test_every_convolution_of_a_gradient_is_nhwc(case, order):
  x, kernel, options = case
  nhwc = lax.conv_dimension_numbers(x.shape, kernel.shape, NHWC)
  assert layouts(order(ours, options), x, kernel) <= {nhwc}  # none at all for a kernel of one pixel
  assert layouts(order(reference, options), x, kernel) != {nhwc}


def is_left_to_jax(x, kernel, **options):
  """Whether no custom_vjp appears; also checks the value."""

  def convolve(x, kernel):
    return convolution.conv_general_dilated(x, kernel, (1, 1)[: x.ndim - 2], "SAME", **options)

  expected = lax.conv_general_dilated(x, kernel, (1, 1)[: x.ndim - 2], "SAME", **options)
  assert_close(convolve(x, kernel), expected)
  return "custom_vjp" not in str(jax.make_jaxpr(convolve)(x, kernel))


def test_other_convolutions_are_left_to_jax():
  x = normal(0, (4, 8, 8, 4))
  kernel = normal(1, (3, 3, 4, 4))
  assert not is_left_to_jax(x, kernel, dimension_numbers=NHWC)
  assert is_left_to_jax(x, kernel[:, :, :2], dimension_numbers=NHWC, feature_group_count=2)
  assert is_left_to_jax(x, kernel, dimension_numbers=NHWC, batch_group_count=2)
  assert is_left_to_jax(x, kernel, dimension_numbers=NHWC, preferred_element_type=jnp.float32)
  assert is_left_to_jax(x, kernel.transpose(3, 2, 0, 1), dimension_numbers=("NHWC", "OIHW", "NHWC"))
  assert is_left_to_jax(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1))
  assert is_left_to_jax(x[0], kernel[0], dimension_numbers=("NHC", "HIO", "NHC"))


def test_other_platforms_are_left_to_jax(monkeypatch):
  monkeypatch.setattr(platform, "own_gradients", lambda: False)
  x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
  assert is_left_to_jax(x, kernel, dimension_numbers=NHWC)
  jax.jvp(lambda x: ours(x, kernel, [(1, 1), "SAME"]), (x,), (x,))  # forbidden under custom_vjp


def test_bfloat16_gradients_keep_their_type():
  x, kernel = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)
  gradients = first_order(ours, [(1, 1), "SAME"])(x, kernel)
  assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.bfloat16]


@pytest.mark.parametrize(
  "options",
  [
    {"features": 5, "kernel_size": (3, 3)},
    {"features": 4, "kernel_size": (4, 4), "strides": 2, "padding": 1, "use_bias": False},
    {"features": 5, "kernel_size": (3, 3), "padding": "CIRCULAR"},
    {"features": 6, "kernel_size": (3, 3), "feature_group_count": 3},
    {"features": 2, "kernel_size": (3, 3), "kernel_dilation": (2, 1)},
  ],
)
def test_conv_equals_flax(options):
  assert_same_module(convolution.Conv(**options), nn.Conv(**options))


def test_conv_keeps_the_name_of_flax():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return convolution.Conv(2, (3, 3))(convolution.Conv(3, (1, 1))(x))

  params = Net().init(jax.random.key(0), jnp.ones((1, 4, 4, 1)))["params"]
  assert set(params) == {"Conv_0", "Conv_1"}


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("kernel_size", [(1, 1), (2, 3), (4, 4), (5, 2)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 4)])
def test_conv_transpose_equals_flax(padding, kernel_size, strides):
  options = {"features": 5, "kernel_size": kernel_size, "strides": strides, "padding": padding}
  assert_same_module(convolution.ConvTranspose(**options), nn.ConvTranspose(**options))


def assert_same_module(module, flax_module):
  """Equal parameters from one key, outputs, and gradients of first and second order."""
  x = normal(0, (2, 7, 6, 3))
  variables = module.init(jax.random.key(1), x)
  assert_close(variables, flax_module.init(jax.random.key(1), x))

  @partial(jax.jit, static_argnums=0)
  def results(module, variables, x):
    def loss(variables, x):
      return jnp.sin(module.apply(variables, x)).sum()

    def penalty(variables, x):
      return (jax.grad(loss, 1)(variables, x) ** 2).sum()

    return module.apply(variables, x), jax.grad(loss)(variables, x), jax.grad(penalty)(variables, x)

  assert_close(results(module, variables, x), results(flax_module, variables, x))


def test_conv_transpose_of_dcgan_doubles_the_size_and_equals_same():
  x = normal(0, (2, 4, 4, 3))
  explicit = convolution.ConvTranspose(5, (4, 4), (2, 2), ((1, 1), (1, 1)))
  same = convolution.ConvTranspose(5, (4, 4), (2, 2), "SAME")
  variables = explicit.init(jax.random.key(1), x)
  assert explicit.apply(variables, x).shape == (2, 8, 8, 5)
  np.testing.assert_array_equal(explicit.apply(variables, x), same.apply(variables, x))


def test_explicit_padding_cuts_the_full_output():
  x = normal(0, (1, 4, 5, 2))
  full = convolution.ConvTranspose(3, (3, 4), (2, 3), ((0, 0), (0, 0)))
  cut = convolution.ConvTranspose(3, (3, 4), (2, 3), ((1, 2), (0, 3)))
  variables = full.init(jax.random.key(1), x)
  whole = full.apply(variables, x)
  assert whole.shape == (1, 3 * 2 + 3, 4 * 3 + 4, 3)
  np.testing.assert_allclose(cut.apply(variables, x), whole[:, 1:-2, :-3], atol=1e-6)


def test_conv_transpose_refuses_what_it_cannot_do():
  key = jax.random.key(0)
  with pytest.raises(ValueError, match="'SAME', 'VALID' or pairs, got 'FULL'"):
    convolution.ConvTranspose(3, (3, 3), padding="FULL").init(key, jnp.ones((1, 4, 4, 2)))
  with pytest.raises(ValueError, match=r"got shape \(4, 4, 2\)"):
    convolution.ConvTranspose(3, (3, 3)).init(key, jnp.ones((4, 4, 2)))


@pytest.mark.parity
def test_dcgan_layer_equals_torch():
  import torch  # extra `parity`; half a second that the other tests need not wait for

  x = normal(0, (2, 4, 4, 3))
  layer = convolution.ConvTranspose(5, (4, 4), (2, 2), ((1, 1), (1, 1)))
  variables = layer.init(jax.random.key(1), x)
  kernel = np.flip(np.asarray(variables["params"]["kernel"]), (0, 1))
  expected = torch.nn.functional.conv_transpose2d(
    torch.tensor(np.transpose(x, (0, 3, 1, 2))),
    torch.tensor(kernel.transpose(2, 3, 0, 1).copy()),
    stride=2,
    padding=1,
  )
  actual = layer.apply(variables, x)
  np.testing.assert_allclose(actual, expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)
