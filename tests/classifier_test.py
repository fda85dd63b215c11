"""Who is asked about single images, and what it answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dlcourse.classifier import Classifier, _classifier, answers
from dlcourse.data.image_files import BadImage
from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.models.mlp import MLP
from dlcourse.optim import Sgd
from dlcourse.tasks.supervised import Classify


def spec(channels=1, classes=("a", "b", "c")):
  shapes = {
    "image": jax.ShapeDtypeStruct((7, 4, 4, channels), np.uint8),
    "label": jax.ShapeDtypeStruct((7,), np.int32),
    "mask": jax.ShapeDtypeStruct((7,), np.float32),
  }

  def prepare(key, batch):
    return {**batch, "image": batch["image"] / 255.0}

  return Spec(shapes, classes, prepare=prepare)


def test_probabilities_are_those_of_the_network_for_any_number_of_images(tmp_path):
  task = Classify(MLP((5,)), Sgd(learning_rate=0.1)).build(spec(), 1)
  state = task.init(jax.random.key(0), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(spec().batch)))
  variables = task.network.variables(state)
  asked = _classifier(tmp_path, task, spec(), variables, "pad")
  for count in (1, 3):
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
    expected = jax.nn.softmax(task.network.model.apply(variables, images / 255.0))
    np.testing.assert_allclose(asked.probabilities(images), expected, rtol=1e-5)


@pytest.mark.parametrize("changed", [{"channels": 2}, {"classes": ()}])
def test_what_gives_no_classes_of_pictures_is_refused(tmp_path, changed):
  task = Classify(MLP((5,)), Sgd(learning_rate=0.1)).build(spec(), 1)
  with pytest.raises(UserError, match="is no classifier of grey or colour images"):
    _classifier(tmp_path, task, spec(**changed), {}, "pad")


def test_a_task_that_predicts_something_else_is_refused(tmp_path):
  task = Classify(MLP((5,)), Sgd(learning_rate=0.1)).build(spec(), 1)
  state = jax.eval_shape(task.init, jax.random.key(0), dict(spec().batch))
  other = task._replace(predict=lambda state, key, batch: batch["image"])
  with pytest.raises(UserError, match="predicts something else than the class"):
    _classifier(tmp_path, other, spec(), task.network.variables(state), "pad")


def test_answers_are_the_likeliest_classes_of_each_file_that_can_be_read(tmp_path):
  classes = tuple("abcdefg")
  seen = []

  def probabilities(images):
    seen.append(images)
    return np.float32([[0.1, 0.3, 0.05, 0.2, 0.1, 0.2, 0.05]])

  asked = Classifier(classes, (4, 4, 3), "pad", probabilities)
  Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
  (tmp_path / "text.png").write_text("no image")
  files = [str(tmp_path / name) for name in ("text.png", "clear.png", "gone.png")]
  broken, answer, gone = answers(asked, files)
  assert isinstance(broken, BadImage)
  assert isinstance(gone, BadImage)
  assert answer.image == files[1]
  assert "".join(name for name, _ in answer.likeliest) == "bdfae"  # of equal ones the first
  assert answer.likeliest[0][1] == pytest.approx(0.3)
  assert len(next(answers(asked, files[1:2], top=2)).likeliest) == 2
  assert (seen[0].shape, seen[0].dtype, seen[0].min()) == ((1, 4, 4, 3), np.uint8, 255)  # laid over white
