"""Transfer learning: what is frozen stays bit for bit, and what is computed once is what would be computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlcourse.data.augment import Shift
from dlcourse.data.images import Images
from dlcourse.errors import UserError
from dlcourse.evaluators import measure
from dlcourse.models.densenet import DenseNet
from dlcourse.models.mlp import MLP
from dlcourse.models.resnet import ResNet
from dlcourse.models.vgg import VGGNet
from dlcourse.optim import AdamW
from dlcourse.parallel import compile_task, make_mesh
from dlcourse.tasks.transfer import Transfer

BACKBONE = ResNet((1, 1), "basic", width=4, stem="small")
LAYERS = [  # with parameters, in the order in which they are called
  "conv1", "norm1",
  "conv2_1/conv1", "conv2_1/norm1", "conv2_1/conv2", "conv2_1/norm2",
  "conv3_1/conv1", "conv3_1/norm1", "conv3_1/conv2", "conv3_1/norm2", "conv3_1/project", "conv3_1/norm_project",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("DLCOURSE_FEATURES", str(tmp_path / "features"))
  return tmp_path / "features"


@pytest.fixture(scope="module")
def data():
  return Images("digits", batch_size=64, size=8, per_class=40).build()


def build(data, model=BACKBONE, **fields):
  return Transfer(model, AdamW(learning_rate=0.01, weight_decay=0.1), hidden_dim=8, **fields).build(
    data.spec, 20
  )


def trained(task, data, steps=3):
  """(first state, last state)"""
  state = first = jax.jit(task.init)(jax.random.key(0), data.batch(0, 0))
  # Statistics other than 0 and 1, as a trained backbone has.
  state = first = state.replace(
    model_state=jax.tree.map(lambda x: 1.25 * x + 0.01 if x.dtype == jnp.float32 else x, state.model_state)
  )
  step = jax.jit(task.train_step)
  for i in range(steps):
    state, _ = step(state, data.batch(0, i))
  return first, state


def changed(task, first, last):
  before, after = (flatten_dict(task.network.variables(s), sep="/") for s in (first, last))
  assert set(before) == set(after)
  return {path for path in before if before[path].tobytes() != after[path].tobytes()}


@pytest.mark.parametrize("layers", [0, 1, 5, 100])
def test_only_the_last_layers_and_the_classifier_change_and_no_statistic_does(layers, data):
  task = build(data, trainable_layers=layers)
  moved = changed(task, *trained(task, data))
  owners = {path.rpartition("/")[0].removeprefix("params/").removeprefix("backbone/") for path in moved}
  assert owners == {"hidden", "output", *(LAYERS[-layers:] if layers else ())}
  assert not any(path.startswith("batch_stats") for path in moved)


def test_the_optimizer_knows_nothing_of_what_is_frozen(data):
  state = jax.eval_shape(build(data).init, jax.random.key(0), data.spec.batch)
  paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
  assert any("hidden" in path for path in paths)
  assert not any("backbone" in path for path in paths)


def test_features_computed_once_train_as_images_do(data):
  task = build(data, dropout=0.0)
  first, last = trained(task, data)
  computed = task.precompute(first, data)
  assert set(computed.batch(0, 0)) == {"feature", "label", "mask"}
  state = first
  for i in range(3):
    np.testing.assert_array_equal(computed.batch(0, i)["label"], data.batch(0, i)["label"])
    state, _ = jax.jit(task.train_step)(state, computed.batch(0, i))
  for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(last.params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  program = compile_task(task, data.spec.batch, make_mesh(1), "jit")
  for split in ("train", "validation", "test"):
    of_images, of_features = (measure(program, state, d, split) for d in (data, computed))
    assert of_images == pytest.approx(of_features, rel=1e-4)


def test_features_are_kept_between_runs_and_belong_to_weights_images_and_scale(data, cache):
  task = build(data)
  first, _ = trained(task, data, 0)
  once = task.precompute(first, data).batch(0, 0)["feature"]
  (file,) = cache.iterdir()
  written = file.stat().st_mtime_ns
  np.testing.assert_array_equal(task.precompute(first, data).batch(0, 0)["feature"], once)
  assert file.stat().st_mtime_ns == written
  file.write_bytes(file.read_bytes()[:100])  # cut short: computed again
  np.testing.assert_array_equal(task.precompute(first, data).batch(0, 0)["feature"], once)
  other = task.network.with_variables(first, jax.tree.map(lambda x: x * 1.5, task.network.variables(first)))
  assert not np.array_equal(task.precompute(other, data).batch(0, 0)["feature"], once)
  scaled = Images("digits", batch_size=64, size=8, per_class=40, scale="symmetric").build()
  build(scaled).precompute(first, scaled)
  assert len(list(cache.iterdir())) == 3


def test_random_changes_of_images_are_not_lost_in_silence():
  moving = Images("digits", batch_size=64, size=8, augment=(Shift(1),)).build()
  task = build(moving)
  with pytest.raises(UserError, match="random changes of the images would be lost"):
    task.precompute(jax.eval_shape(task.init, jax.random.key(0), moving.spec.batch), moving)
  assert build(moving, trainable_layers=1).precompute is None


@pytest.mark.parametrize(
  ("model", "features"),
  [(BACKBONE, 8), (DenseNet((2, 2), growth=4, stem="small"), 16), (VGGNet((1, 1, 1, 1, 1), 2, "small"), 16)],
)
def test_the_classifier_stands_on_means_of_the_last_maps(model, features):
  large = Images("digits", batch_size=4, size=32).build()
  task = build(large, model, channels=None)
  params = jax.eval_shape(task.init, jax.random.key(0), large.spec.batch).params
  assert params["hidden"]["kernel"].shape == (features, 8)


def test_grey_images_are_repeated_for_a_backbone_that_takes_colours(data):
  state = jax.eval_shape(build(data).init, jax.random.key(0), data.spec.batch)
  assert state.model_state["frozen"]["backbone"]["conv1"]["kernel"].shape == (3, 3, 3, 4)


def test_a_model_without_feature_maps_is_refused(data):
  with pytest.raises(TypeError, match="features"):
    build(data, MLP())
