"""FLOPs of training steps against hand counts; nothing here is compiled."""

import jax
import jax.numpy as jnp
import pytest

from dlcourse.data.recipe import Spec
from dlcourse.flops import step_flops, utilisation
from dlcourse.models.attention import Seen
from dlcourse.models.mobilenet_v2 import MobileNetV2
from dlcourse.models.resnet import ResNet
from dlcourse.models.transformer import Layer, Stack
from dlcourse.optim import Sgd
from dlcourse.report.layers import task_summary
from dlcourse.tasks.supervised import Classify
from dlcourse.tasks.transfer import Transfer

B, D, F, G, T = 5, 3, 7, 2, 6
IMAGES = Spec(
  {
    "image": jax.ShapeDtypeStruct((B, 32, 32, 1), jnp.float32),
    "label": jax.ShapeDtypeStruct((B,), jnp.int32),
    "mask": jax.ShapeDtypeStruct((B,), jnp.float32),
  },
  classes=("a", "b", "c"),
)


def shape(*axes, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(axes, dtype)


def step_of(task, spec=IMAGES):
  """FLOPs of a task's training step."""
  batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in spec.batch.items()}
  state = jax.eval_shape(lambda: task.init(jax.random.key(0), batch))
  return step_flops(task.train_step, state, spec.batch)


def two_layers(params, x):
  first, second = params
  return jax.grad(lambda params: jnp.sum(jnp.tanh(x @ params[0]) @ params[1]))([first, second])


def test_a_dense_layer_costs_three_products_and_the_first_one_two():
  flops = step_flops(two_layers, [shape(D, F), shape(F, G)], shape(B, D))
  assert flops == {"float32": 2 * (2 * B * D * F + 3 * B * F * G)}
  halves = [shape(D, F, dtype=jnp.bfloat16), shape(F, G, dtype=jnp.bfloat16)]
  assert step_flops(two_layers, halves, shape(B, D, dtype=jnp.bfloat16)) == {"bfloat16": flops["float32"]}


def test_a_convolution_costs_three_too_with_strides_and_in_groups():
  def step(kernels, x):
    def loss(kernels):
      layout = ("NHWC", "HWIO", "NHWC")
      y = jax.lax.conv_general_dilated(x, kernels[0], (2, 2), "SAME", dimension_numbers=layout)
      y = jax.lax.conv_general_dilated(
        y, kernels[1], (1, 1), "VALID", dimension_numbers=layout, feature_group_count=4
      )
      return jnp.sum(y**2)

    return jax.grad(loss)(kernels)

  flops = step_flops(step, [shape(5, 5, 3, 4), shape(3, 3, 1, 4)], shape(B, 16, 16, 3))
  assert flops == {"float32": 2 * (2 * B * 8 * 8 * 5 * 5 * 3 * 4 + 3 * B * 6 * 6 * 3 * 3 * 4)}


def test_a_network_costs_three_times_what_its_summary_says_on_any_platform(monkeypatch):
  model = MobileNetV2(filters=(4, 8), depths=(1, 1), strides=(1, 2))  # depthwise: no convolution on a CPU
  task = Classify(model, Sgd()).build(IMAGES, 9)
  layers = task_summary(task, IMAGES)
  forward = sum(layer.multiply_adds for layer in layers)
  expected = {"float32": 2 * B * (3 * forward - layers[0].multiply_adds)}
  assert step_of(task) == expected
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert step_of(task) == expected


def test_a_scan_costs_as_often_as_it_runs_and_a_condition_its_dearest_branch():
  def recurrent(times):
    def step(kernel, x):
      def loss(kernel):
        return jnp.sum(jax.lax.scan(lambda h, _: (jnp.tanh(h @ kernel), None), x, None, times)[0])

      return jax.grad(loss)(kernel)

    return step_flops(step, shape(D, D), shape(B, D))["float32"]

  assert recurrent(T) == T * recurrent(1) == T * 2 * 3 * B * D * D

  def either(kernel, x):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ kernel, lambda: x @ kernel @ kernel)

  assert step_flops(either, shape(D, D), shape(B, D)) == {"float32": 2 * 2 * B * D * D}


def test_what_remat_computes_again_is_not_the_models():
  def flops(remat, compute="float32"):
    stack = Stack(Layer(8, 2, compute=compute), 3, remat=remat)
    params = jax.eval_shape(lambda: stack.init(jax.random.key(0), jnp.zeros((B, T, 8)), Seen()))

    def loss(params, x):
      return jnp.sum(stack.apply(params, x, Seen())[0] ** 2)

    return step_flops(jax.grad(loss, (0, 1)), params, shape(B, T, 8))

  layer = 4 * T * 8 * 8 + 2 * T * T * 8 + 2 * T * 8 * 32
  assert flops(remat=False) == flops(remat=True) == {"float32": 2 * 3 * 3 * B * layer}
  assert flops(remat=False, compute="bfloat16") == {"bfloat16": 2 * 3 * 3 * B * layer}


def test_a_frozen_network_costs_no_gradients():
  def flops(trainable):
    model = ResNet((1, 1), "basic", width=4, stem="small")
    return step_of(Transfer(model, Sgd(), trainable, hidden_dim=8, channels=None).build(IMAGES, 9))["float32"]

  task = Transfer(ResNet((1, 1), "basic", width=4, stem="small"), Sgd(), hidden_dim=8, channels=None)
  layers = task_summary(task.build(IMAGES, 9), IMAGES)
  classifier = sum(layer.multiply_adds for layer in layers if "backbone" not in layer.path)
  backbone = sum(layer.multiply_adds for layer in layers if "backbone" in layer.path)
  first = next(layer.multiply_adds for layer in layers if layer.multiply_adds and "backbone" not in layer.path)
  assert flops(0) == 2 * B * (backbone + 3 * classifier - first)
  assert flops(0) < flops(2) < flops(100) == 2 * B * (3 * (backbone + classifier) - layers[0].multiply_adds)


def test_utilisation_is_the_time_at_the_peak_over_the_time_taken():
  kind = "NVIDIA H100 80GB HBM3"
  assert utilisation({"bfloat16": 989.4e12}, 2.0, kind, 1) == pytest.approx(0.5)
  assert utilisation({"bfloat16": 989.4e12, "float32": 494.7e12}, 2.0, kind, 4) == pytest.approx(0.25)
  assert utilisation({"bfloat16": 1e12}, 2.0, "some processor, 2 cores", 1) is None
  assert utilisation({"float64": 1e12}, 2.0, kind, 1) is None
