import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.theory import geometry

SIZES = [(size, kernel, stride) for size in (5, 6, 7, 9) for kernel in (1, 2, 3, 5) for stride in (1, 2, 3)]


@pytest.mark.parametrize("word", ["VALID", "SAME"])
def test_the_words_pad_as_xla_does(word):
  for size, kernel, stride in SIZES:
    expected = jax.lax.padtype_to_pads((size,), (kernel,), (stride,), word)
    assert [geometry.pads(size, kernel, stride, word)] == expected, (size, kernel, stride)


@pytest.mark.parametrize("padding", [0, 1, 2, "VALID", "SAME"])
def test_output_size_is_that_of_xla(padding):
  for size, kernel, stride in SIZES:
    pads = padding if isinstance(padding, str) else [(padding, padding)]
    shape = jax.eval_shape(
      lambda x, k, stride=stride, pads=pads: jax.lax.conv_general_dilated(x, k, (stride,), pads),
      jax.ShapeDtypeStruct((1, 1, size), jnp.float32),
      jax.ShapeDtypeStruct((1, 1, kernel), jnp.float32),
    ).shape
    assert geometry.output_size(size, kernel, stride, padding) == shape[2], (size, kernel, stride)


def test_same_and_circular_keep_the_size_at_stride_1_and_divide_it_rounding_up():
  for size, kernel, stride in SIZES:
    assert geometry.output_size(size, kernel, stride, "SAME") == -(-size // stride)
    assert geometry.output_size(size, kernel, stride, "CIRCULAR") == -(-size // stride)
  assert geometry.pads(6, 3, 1, "SAME") == (1, 1)  # (k - 1) / 2 at either end


def test_output_size_gives_the_handbooks_lenet_5():
  assert geometry.output_size(32, 5, 1, 0) == 28  # H2.10.2.1
  assert geometry.output_size(28, 2, 2, 0) == 14  # H2.10.2.2
  assert geometry.output_size(14, 5, 1, 0) == 10  # H2.10.2.4
  assert geometry.output_size(10, 2, 2, 0) == 5  # H2.10.2.5
  assert geometry.output_size(5, 5, 1, 0) == 1  # H2.10.2.6


def test_a_window_that_hangs_over_the_end_is_left_out():
  assert (6 - 3 + 0) / 2 + 1 == 2.5  # the handbook's formula as printed
  assert geometry.output_size(6, 3, 2) == 2  # and its result


def test_output_shape_has_one_map_a_filter():
  assert geometry.output_shape((6, 6, 3), (3, 3, 3, 2)) == (4, 4, 2)  # H2.5
  assert geometry.output_shape((7, 5, 1), (3, 2, 1, 4), 2, "SAME") == (4, 3, 4)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((3, 5), "a kernel of 5 does not fit into 3 elements padded by 0 \\+ 0"),
    ((3, 6, 1, 1), "a kernel of 6 does not fit into 3 elements padded by 1 \\+ 1"),
    ((6, 3, 0), "stride has to be a whole number from 1, got 0"),
    ((6, 3, 1.5), "stride has to be a whole number from 1, got 1.5"),
    ((6, 0), "kernel has to be a whole number from 1, got 0"),
    ((0, 3), "size has to be a whole number from 1, got 0"),
    ((6, 3, 1, -1), "padding has to be a whole number from 0 or one of VALID, SAME, CIRCULAR, got -1"),
    ((6, 3, 1, "same"), "padding has to be a whole number from 0 or one of VALID, SAME, CIRCULAR, got 'same'"),
    ((6, 3, 1, (1, 1)), "padding has to be a whole number from 0 or one of .*, got \\(1, 1\\)"),
  ],
)
def test_impossible_sizes_are_refused_in_one_line(arguments, message):
  with pytest.raises(ValueError, match=f"^{message}$"):
    geometry.output_size(*arguments)


def test_shapes_that_do_not_belong_together_are_refused():
  with pytest.raises(ValueError, match=r"^the image has 3 channels, the filters have 1$"):
    geometry.output_shape((6, 6, 3), (3, 3, 1, 2))
  with pytest.raises(ValueError, match=r"^expected shapes .* got \(6, 6\) and \(3, 3\)$"):
    geometry.output_shape((6, 6), (3, 3))


def test_receptive_field_is_what_an_output_depends_on():
  layers = [(5, 1), (2, 2), (3, 1), (3, 2), (2, 1)]
  size = 40
  signals = jnp.eye(size)[:, None, :]  # one pixel lit in each
  for depth, (field, jump) in enumerate(geometry.receptive_field(layers), start=1):
    maps = signals
    for kernel, stride in layers[:depth]:
      maps = jax.lax.conv_general_dilated(maps, jnp.ones((1, 1, kernel)), (stride,), "VALID")
    first, second = (np.flatnonzero(maps[:, 0, i]).tolist() for i in (0, 1))
    assert first == list(range(field))
    assert second == list(range(jump, jump + field))


def test_receptive_field_of_known_networks():
  lenet5 = geometry.receptive_field([(5, 1), (2, 2), (5, 1), (2, 2), (5, 1)])
  assert lenet5 == [(5, 1), (6, 2), (14, 2), (16, 4), (32, 4)]
  assert [field.size for field in geometry.receptive_field([(3, 1)] * 3)] == [3, 5, 7]
  assert geometry.receptive_field([]) == []


def test_receptive_field_refuses_a_stride_of_0():
  with pytest.raises(ValueError, match=r"^stride has to be a whole number from 1, got 0$"):
    geometry.receptive_field([(3, 1), (3, 0)])
