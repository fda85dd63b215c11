import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import once, variables_of
from scipy.ndimage import shift as scipy_shift

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.translation import Translation, equivariance_error, moved
from dlcourse.models.mlp import MLP
from dlcourse.models.resnet import ResNet
from dlcourse.models.small_cnn import SmallCNN
from dlcourse.optim import Sgd
from dlcourse.parallel import compile_task, make_mesh
from dlcourse.tasks.supervised import Classify

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
X = RNG.normal(size=(2, 16, 17, 2)).astype(np.float32)


@pytest.mark.parametrize("rows", [-3, 0, 2])
@pytest.mark.parametrize("columns", [-1, 0, 4])
def test_images_move_as_in_scipy(rows, columns):
  np.testing.assert_array_equal(moved(X, rows, columns), scipy_shift(X, (0, rows, columns, 0), order=0))


class Begins(nn.Module):
  """A convolution on the image, or on the image times a ramp."""

  size: tuple = (3, 3)
  strides: object = 1
  dilation: object = 1
  padding: object = "SAME"
  ramp: bool = False

  @nn.compact
  def __call__(self, x, train=False):
    if self.ramp:
      x = x * jnp.linspace(0, 1, x.shape[1])[:, None, None]
    x = nn.Conv(3, self.size, self.strides, self.padding, kernel_dilation=self.dilation)(x)
    return x.mean(axis=(1, 2))


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"size": (5, 3), "strides": (2, 1)},
    {"size": (2, 4), "strides": None, "padding": "VALID"},
    {"strides": 2, "padding": ((2, 1), (0, 2))},
    {"dilation": (2, 1)},
  ],
)
def test_the_maps_of_a_shifted_image_are_the_shifted_maps(fields):
  model = Begins(**fields)
  variables = variables_of(model, X)
  assert equivariance_error(model, variables, X) < 1e-6
  assert equivariance_error(model, variables, X, shift=2) < 1e-6


def test_what_knows_where_it_is_does_not_move_with_the_image():
  model = Begins(ramp=True)
  assert equivariance_error(model, variables_of(model, X), X) > 0.05


def test_the_first_convolution_of_a_network_is_measured_whatever_follows():
  model = ResNet((1,), "basic", width=4, stem="small", num_classes=3)
  assert equivariance_error(model, variables_of(model, X), X) < 1e-6


@pytest.mark.parametrize("model", [MLP((4,), num_classes=3), Begins(size=(9, 9))])
def test_without_a_convolution_or_a_place_inside_there_is_no_error(model):
  assert equivariance_error(model, variables_of(model, X), X) is None


PICTURES = np.zeros((10, 8, 8, 1), np.uint8)
PICTURES[np.arange(10), 2 + np.arange(10) % 3, 3] = 255  # a dot in row 2, 3 or 4, which is the class
ARRAYS = {"image": PICTURES, "label": (np.arange(10) % 3).astype(np.int32)}
BATCH = next(iter(in_order(ARRAYS, 4)))
SPEC = Spec(
  {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in BATCH.items()},
  ("two", "three", "four"),
  prepare=lambda key, batch: {**batch, "image": batch["image"].astype(jnp.float32) / 255},
)
DATA = Data(SPEC, None, lambda split: in_order(ARRAYS, 4), {}, "", "")


def reads_the_row():
  """A linear network whose largest logit is that of the row of the dot; it starts as if it had learnt."""
  task = Classify(MLP(hidden_dims=()), Sgd(learning_rate=0.1)).build(SPEC, 1)
  state = once(task.init)(KEY, BATCH)
  kernel = np.zeros((8, 8, 3), np.float32)
  for row in range(8):
    kernel[row, :, np.clip(row - 2, 0, 2)] = 1
  params = {"output": {"kernel": kernel.reshape(64, 3), "bias": np.zeros(3, np.float32)}}
  return compile_task(task, SPEC.batch, make_mesh(1), "jit"), state.replace(params=params)


def test_accuracy_by_shift_is_that_of_a_network_that_reads_rows():
  program, state = reads_the_row()
  report = Translation(pixels=2)(program, state, DATA, KEY)
  rows = {(row["down"], row["right"]): row["accuracy"] for row in report.tables["translation"]}
  assert len(rows) == 9
  assert [rows[0, shift] for shift in range(-2, 3)] == [1.0] * 5
  assert [rows[shift, 0] for shift in (-2, -1, 1, 2)] == pytest.approx([0.4, 0.4, 0.3, 0.3])
  assert report.scalars == {
    "accuracy_shifted": pytest.approx((1 + 1 + 0.4 + 0.3) / 4),
    "agreement": pytest.approx((1 + 1 + 0.4 + 0.3) / 4),  # it is always right where nothing is moved
  }
  lines = {line.get_label(): line for line in report.figures["translation"].axes[0].get_lines()}
  np.testing.assert_allclose(lines["down"].get_ydata(), [0.4, 0.4, 1, 0.3, 0.3])
  np.testing.assert_array_equal(lines["right"].get_xdata(), range(-2, 3))


def test_agreement_does_not_ask_who_is_right():
  program, state = reads_the_row()
  wrong = {**ARRAYS, "label": (ARRAYS["label"] + 1) % 3}
  report = Translation(pixels=1)(program, state, DATA._replace(eval_batches=lambda _: in_order(wrong, 4)), KEY)
  assert report.scalars["agreement"] == pytest.approx((1 + 1 + 0.4 + 0.3) / 4)
  assert report.scalars["accuracy_shifted"] != pytest.approx(report.scalars["agreement"])


def test_a_network_of_maps_that_are_averaged_stays_and_a_convolution_moves():
  task = Classify(SmallCNN((2, 2), 4, global_pool=True), Sgd(learning_rate=0.1)).build(SPEC, 1)
  images = np.zeros((4, 24, 24, 1), np.uint8)
  images[:, 8:16, 8:16] = RNG.integers(0, 256, size=(4, 8, 8, 1))
  batch = {**BATCH, "image": images, "mask": np.ones(4, np.float32)}
  data = DATA._replace(eval_batches=lambda split: iter([batch]))
  report = Translation(pixels=4)(task, once(task.init)(KEY, batch), data, KEY)
  assert report.scalars["agreement"] == 1.0  # 4 pixels are one of the maps that are averaged
  assert report.scalars["equivariance_error"] < 1e-6


def test_what_cannot_be_measured_is_refused_in_one_line():
  program, state = reads_the_row()
  other = program.task._replace(predict=lambda state, key, batch: {"image": batch["image"]})
  text = DATA._replace(eval_batches=lambda split: in_order({"tokens": np.zeros((4, 3), np.int32)}, 4))
  for evaluator, given, said in (
    (Translation(), (other, state, DATA, KEY), "Translation needs a task that classifies images"),
    (Translation(), (program, state, text, KEY), "Translation needs labelled images"),
    (Translation(8), (program, state, DATA, KEY), "pixels=8 leaves nothing of an image of 8x8"),
  ):
    with pytest.raises(UserError, match=said) as info:
      evaluator(*given)
    assert "\n" not in str(info.value)
  with pytest.raises(UserError, match=r"evaluators….pixels=0 is too small"):
    Translation(0)
