import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import once, variables_of

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.errors import UserError
from dlcourse.evaluators.explain import (
  COLUMNS,
  GRAD_CAM,
  INTEGRATED,
  Explain,
  deletion,
  explanations,
  feature_maps,
  grad_cam,
  integrated_gradients,
  of_each_class,
)
from dlcourse.models.mlp import MLP
from dlcourse.models.resnet import ResNet
from dlcourse.models.small_cnn import SmallCNN
from dlcourse.optim import Sgd
from dlcourse.parallel import compile_task, make_mesh
from dlcourse.tasks.supervised import Classify

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
X = RNG.normal(size=(3, 8, 8, 2)).astype(np.float32)
LABELS = np.array([2, 0, 1])
RESNET = ResNet((1, 1), "basic", width=4, stem="small", num_classes=3)


class Network(nn.Module):
  """Whatever a function of the flattened image says, without a parameter."""

  function: object

  def __call__(self, x, train=False):
    return self.function(x.reshape(x.shape[0], -1))


class Twice(nn.Module):
  """The same convolution twice, then the mean of its maps."""

  @nn.compact
  def __call__(self, x, train=False):
    conv = nn.Conv(3, (3, 3), name="conv")
    return conv(nn.relu(conv(x))).mean(axis=(1, 2))


def normalised(heat):
  heat = np.maximum(heat, 0)
  return heat / heat.max(axis=(1, 2), keepdims=True)


def test_with_global_average_pooling_grad_cam_is_cam():
  variables = variables_of(RESNET, X)
  heat = once(functools.partial(grad_cam, RESNET))(variables, X, LABELS)
  maps = once(functools.partial(RESNET.apply, features=True))(variables, X)["conv3"]  # [B, h, w, K]
  weights = variables["params"]["output"]["kernel"].T[LABELS]  # [B, K]
  cam = np.einsum("bhwk,bk->bhw", maps, weights)  # Zhou et al., 2016, equation 2
  assert (cam < 0).any()
  np.testing.assert_allclose(heat, normalised(cam), atol=1e-5)


def test_the_last_maps_are_the_default_and_any_layer_can_be_named():
  variables = variables_of(RESNET, X)
  names = list(feature_maps(RESNET, variables, X))
  assert names[0] == "conv1"
  assert names[-2:] == ["conv3_1/norm_project", "conv3_1"]  # a module stands after its parts
  given = (RESNET, variables, X, LABELS)
  default, last, first = (
    once(lambda layer=layer: grad_cam(*given, layer))() for layer in (None, "conv3_1", "conv1")
  )
  np.testing.assert_array_equal(default, last)
  assert default.shape == (3, 4, 4)
  assert first.shape == (3, 8, 8)
  assert 0 <= first.min() <= first.max() <= 1


def test_of_a_module_that_is_called_twice_each_call_has_maps():
  model = Twice()
  x = X[..., :1].repeat(3, axis=-1)
  variables = variables_of(model, x)
  assert list(feature_maps(model, variables, x)) == ["conv", "conv#2"]
  heat = once(lambda variables: grad_cam(model, variables, x, LABELS, "conv#2"))(variables)

  @once
  def second(params):
    conv = functools.partial(nn.Conv(3, (3, 3)).apply, {"params": params})
    return conv(nn.relu(conv(x)))

  maps = second(variables["params"]["conv"])
  expected = normalised(np.take_along_axis(np.asarray(maps), LABELS[:, None, None, None], 3)[..., 0])
  np.testing.assert_allclose(heat, expected, atol=1e-5)


def test_where_nothing_speaks_for_a_class_the_map_is_zero():
  model = SmallCNN((2, 2), 3, num_classes=3)
  variables = variables_of(model, X)
  variables["params"]["output"]["kernel"][:] = 0
  heat = once(lambda variables: grad_cam(model, variables, X, LABELS))(variables)
  np.testing.assert_array_equal(heat, np.zeros((3, 4, 4)))


def test_a_layer_that_does_not_exist_is_answered_with_those_there_are():
  variables = variables_of(RESNET, X)
  with pytest.raises(UserError, match="unknown layer 'conv3_2'; perhaps you meant 'conv3_1'"):
    grad_cam(RESNET, variables, X, LABELS, "conv3_2")
  small = SmallCNN((2, 2), 3, num_classes=3)
  with pytest.raises(UserError, match="unknown layer 'output'; there are: conv1, conv2"):
    grad_cam(small, variables_of(small, X), X, LABELS, "output")


def test_a_network_without_maps_has_no_grad_cam():
  model = MLP((4,), num_classes=3)
  with pytest.raises(UserError, match="no layer of this network gives feature maps"):
    grad_cam(model, variables_of(model, X), X, LABELS)


def logits_of(model, variables, x):
  return np.take_along_axis(np.asarray(once(model.apply)(variables, x)), LABELS[:, None], 1)[:, 0]


def test_attributions_sum_up_to_the_change_of_the_logit():
  model = ResNet((1,), "basic", width=4, stem="small", activation="tanh", num_classes=3)
  variables = variables_of(model, X)
  baseline = RNG.normal(size=(8, 8, 2)).astype(np.float32)
  start = np.broadcast_to(baseline, X.shape)
  change = logits_of(model, variables, X) - logits_of(model, variables, start)

  @once
  def sums(variables, x):
    given = (model, variables, x, LABELS)
    right = integrated_gradients(*given, 64, baseline)
    one_gradient = (x - baseline) * jax.grad(
      lambda x: jnp.take_along_axis(model.apply(variables, x), LABELS[:, None], 1).sum()
    )(x)
    return [attributed.sum(axis=(1, 2, 3)) for attributed in (right, one_gradient)]

  right, one_gradient = sums(variables, X)
  np.testing.assert_allclose(right, change, rtol=5e-3, atol=5e-3)
  assert np.abs(one_gradient - change).max() > 0.1  # gradient times input would not do


def test_attributions_of_a_linear_network_are_its_weights_times_the_difference():
  weights = RNG.normal(size=(128, 3)).astype(np.float32)
  model = Network(lambda x: x @ weights + 5)
  given = (model, {}, X, LABELS)
  expected = (X - 0.5) * weights.T[LABELS].reshape(X.shape)
  for steps in (1, 7):
    np.testing.assert_allclose(integrated_gradients(*given, steps, 0.5), expected, atol=1e-5)


def test_what_saturates_still_counts_and_what_is_not_read_does_not():
  def saturated(x):  # the example of the paper's section 2.1: its gradient at 2 is 0
    return 1 - nn.relu(1 - x[:, :1])

  images = np.array([2.0, 3.0], np.float32).reshape(1, 2, 1, 1)
  model, labels = Network(saturated), np.zeros(1, np.int32)
  assert jax.grad(lambda x: model.apply({}, x).sum())(images).sum() == 0
  np.testing.assert_allclose(integrated_gradients(model, {}, images, labels).ravel(), [1, 0])


def test_the_program_does_not_grow_with_the_steps():
  model = Network(lambda x: x[:, :3] ** 2)

  def equations(steps):
    return len(jax.make_jaxpr(lambda x: integrated_gradients(model, {}, x, LABELS, steps))(X).eqns)

  assert equations(2) == equations(1000)


def test_deletion_is_the_area_under_the_probability_that_is_left():
  images = np.array([4.0, 1.0, 3.0, 2.0], np.float32).reshape(1, 2, 2, 1)

  def share(x):
    return x.sum(axis=(1, 2, 3)) / 10

  best, worst = (deletion(share, images, sign * images[..., 0], steps=4) for sign in (1, -1))
  np.testing.assert_allclose(best, [(1 / 2 + 0.6 + 0.3 + 0.1) / 4], rtol=1e-6)
  np.testing.assert_allclose(worst, [(1 / 2 + 0.9 + 0.7 + 0.4) / 4], rtol=1e-6)
  to_two = deletion(share, images, images[..., 0], baseline=2.0, steps=4)
  np.testing.assert_allclose(to_two, [(1 / 2 + 0.8 + 0.7 + 0.7 + 0.8 / 2) / 4], rtol=1e-6)


ARRAYS = {
  "image": RNG.integers(0, 256, size=(13, 8, 8, 1)).astype(np.uint8),
  "label": np.array([1, 1, 1, 2, 2, 0, 1, 0, 2, 2, 0, 1, 1], np.int32),
  "row": np.arange(13, dtype=np.int32),
}
BATCH = next(iter(in_order(ARRAYS, 4)))
SPEC = Spec(
  {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in BATCH.items()},
  ("ant", "bee", "cat"),
  prepare=lambda key, batch: {**batch, "image": batch["image"].astype(jnp.float32) / 255 - 0.5},
)
DATA = Data(SPEC, None, lambda split: in_order(ARRAYS, 4), {}, "", "")


def program_of(model):
  """A task compiled for two devices, and its initial state."""
  task = Classify(model, Sgd(learning_rate=0.1)).build(SPEC, 1)
  program = compile_task(task, SPEC.batch, make_mesh(2), "jit")
  return program, program.init(KEY)


@pytest.fixture(scope="module")
def small():
  return program_of(SmallCNN((3, 4), 8))


@pytest.mark.parametrize(("count", "rows"), [(3, [5, 0, 3]), (5, [5, 0, 3, 7, 1]), (99, None)])
def test_images_are_of_every_class_in_turn_and_no_padding(count, rows):
  chosen = of_each_class(DATA, count)
  if rows is None:
    rows = [5, 0, 3, 7, 1, 4, 10, 2, 8, 6, 9, 11, 12]
  assert chosen["row"].tolist() == rows
  np.testing.assert_array_equal(chosen["image"], ARRAYS["image"][rows])


def test_the_report_says_what_the_functions_say(small):
  program, state = small
  report = Explain(images=2, steps=16, scored=3, baseline="mean")(program, state, DATA, KEY)
  rows = report.tables["explanations"]
  assert [row["label"] for row in rows] == ["ant", "bee", "cat"]
  model, variables = program.task.network.model, program.task.network.variables(state)
  x = ARRAYS["image"][[5, 0, 3]].astype(np.float32) / 255 - 0.5
  mean = x.mean(axis=0, keepdims=True)
  apply = once(model.apply)
  logits, start = (np.asarray(apply(variables, x)) for x in (x, np.broadcast_to(mean, x.shape)))
  guessed = logits.argmax(axis=-1)
  assert [row["predicted"] for row in rows] == [SPEC.classes[number] for number in guessed]
  np.testing.assert_allclose([row["probability"] for row in rows], nn.softmax(logits).max(axis=-1), rtol=1e-5)
  change = (logits - start)[np.arange(3), guessed]
  np.testing.assert_allclose([row["logit_change"] for row in rows], change, atol=1e-5)
  attributed = once(lambda x: integrated_gradients(model, variables, x, guessed, 16, mean))(x)
  attributed = attributed.sum(axis=(1, 2, 3))
  np.testing.assert_allclose([row["attributed"] for row in rows], attributed, atol=1e-5)
  error = np.abs(attributed - change).sum() / np.abs(change).sum()
  assert report.scalars["completeness_error"] == pytest.approx(error, abs=1e-4)
  for name in ("deletion_grad_cam", "deletion_integrated_gradients", "deletion_random"):
    assert report.scalars[name] == pytest.approx(np.mean([row[name] for row in rows]))
  titles = [axes.get_title() for axes in report.figures["explanations"].axes]
  assert [title.split()[0] for title in titles if title] == ["ant", "bee"]


def test_a_network_without_maps_is_explained_by_integrated_gradients_alone():
  program, state = program_of(MLP((4,)))
  report = Explain(images=2, steps=2, scored=1)(program, state, DATA, KEY)
  assert set(report.scalars) == {"completeness_error", "deletion_integrated_gradients", "deletion_random"}
  with pytest.raises(UserError, match="no layer of this network gives feature maps"):
    Explain(images=2, steps=2, layer="Dense_0")(program, state, DATA, KEY)


def test_what_cannot_be_explained_is_refused_in_one_line(small):
  program, state = small
  broken = jax.tree.map(lambda leaf: leaf * np.nan, state)
  text = in_order({"tokens": np.zeros((4, 3), np.int32)}, 4)

  def pictures(state, key, batch):
    return {"image": batch["image"]}

  without, other = (program.task._replace(**changed) for changed in ({"network": None}, {"predict": pictures}))
  for given, said in (
    ((without, state, DATA, KEY), "does not train a single one"),
    ((other, state, DATA, KEY), "Explain needs a task that classifies images"),
    ((program, state, DATA._replace(eval_batches=lambda split: text), KEY), "this data has mask, tokens"),
    ((program, broken, DATA, KEY), "the model predicts NaN"),
  ):
    with pytest.raises(UserError, match=said) as info:
      Explain(images=1, steps=1, scored=1)(*given)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("field", ["images", "steps", "scored"])
def test_to_explain_nothing_is_refused(field):
  with pytest.raises(UserError, match=f"--evaluators….{field}=0 is too small"):
    Explain(**{field: 0})


@pytest.mark.parametrize("count", [1, COLUMNS, COLUMNS + 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_stands_above_its_maps(count, channels):
  images = RNG.integers(0, 256, size=(count, 4, 4, channels)).astype(np.uint8)
  maps = {GRAD_CAM: RNG.uniform(size=(count + 1, 4, 4)), INTEGRATED: RNG.normal(size=(count + 1, 4, 4))}
  figure = explanations(images, [f"title {number}" for number in range(count)], maps)
  columns = min(count, COLUMNS)
  grid = np.array(figure.axes).reshape(-1, columns)
  for number in range(count):
    block, column = divmod(number, columns)
    image, heat, signed = (axes.get_images() for axes in grid[3 * block : 3 * block + 3, column])
    np.testing.assert_array_equal(image[0].get_array(), images[number].squeeze())
    np.testing.assert_array_equal(heat[1].get_array(), maps[GRAD_CAM][number])
    np.testing.assert_array_equal(signed[0].get_array(), maps[INTEGRATED][number])
    assert grid[3 * block, column].get_title() == f"title {number}"
  assert sum(bool(axes.get_images()) for axes in grid.ravel()) == 3 * count
