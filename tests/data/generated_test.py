import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.generated import RealOrGenerated, WithGenerated
from dlcourse.data.images import Images
from dlcourse.errors import UserError
from dlcourse.trained import Trained

SPLITS = ("train", "validation", "test")
DIGITS = {"source": "digits", "batch_size": 64, "size": 8, "starved": "3"}


def generate(state, key, request):
  """Noise, whose first pixel is the class that was asked for (or 99), and whose second one is the weight."""
  shape = (len(request["index"]), 8, 8, 1)
  image = jax.random.uniform(key, shape, minval=0.5)
  label = request.get("label", jnp.full(shape[0], 99))
  image = image.at[:, 0, 0, 0].set(label / 255).at[:, 0, 1, 0].set(state.params["weight"] / 255)
  return {"image": image}


def opened(weight, conditional=True, makes=generate, **fields):
  """As `open_trained`, of a generator that nobody has to train."""
  task = types.SimpleNamespace(generate=makes, conditional=conditional)
  state = types.SimpleNamespace(params={"weight": jnp.float32(weight)}, model_state={})
  recipe = Images(**DIGITS | {"scale": "symmetric"} | fields)
  program = types.SimpleNamespace(generate=makes, conditional=conditional, task=task)
  return Trained(Path(), None, recipe.build(), program, state, None, {"experiment": "gan.mine"})


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
  """Workdirs of generators, in which nothing is."""
  known = {
    "one": opened(1),
    "two": opened(2),
    "unconditional": opened(3, conditional=False),
    "classifier": opened(4, makes=None),
    "larger": opened(5, size=9),
    "fewer": opened(6, left_out="9"),
  }
  folder = tmp_path_factory.mktemp("runs")
  for name in known:
    (folder / name).mkdir()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("dlcourse.generator.open_trained", lambda path: known[path.name])
    yield {name: str(folder / name) for name in known}


@pytest.fixture(scope="module")
def plain():
  return Images(**DIGITS).build()


def whole(data, split):
  """(images, labels) of a split without padding."""
  parts = list(data.eval_batches(split))
  mask = np.concatenate([part["mask"] for part in parts]) > 0
  return tuple(np.concatenate([part[name] for part in parts])[mask] for name in ("image", "label"))


def assert_same(ours, theirs, split):
  for mine, other in zip(whole(ours, split), whole(theirs, split), strict=True):
    np.testing.assert_array_equal(mine, other)
    assert mine.dtype == other.dtype


def test_images_of_the_starved_class_are_added_to_those_for_training_alone(workdirs, plain):
  data = WithGenerated(**DIGITS, generator=workdirs["one"], added_images=70).build()
  (images, labels), (real, known) = whole(data, "train"), whole(plain, "train")
  np.testing.assert_array_equal(images[:-70], real)
  np.testing.assert_array_equal(labels[:-70], known)
  assert np.bincount(labels)[3] == 10 + 70
  assert set(labels[-70:].tolist()) == {3}
  np.testing.assert_array_equal(images[-70:, 0, 0, 0], 3)  # what was asked for
  assert len({image.tobytes() for image in images[-70:]}) == 70  # also of the second request
  for split in ("validation", "test"):
    assert_same(data, plain, split)
  assert data.sizes == plain.sizes | {"train": plain.sizes["train"] + 70}
  assert data.spec.classes == plain.spec.classes
  assert "images made by gan.mine" in data.description


def test_several_classes_are_added_each_with_its_own_images(workdirs):
  data = WithGenerated(**DIGITS, generator=workdirs["one"], added=("7", "0"), added_images=5).build()
  images, labels = whole(data, "train")
  assert labels[-10:].tolist() == [7] * 5 + [0] * 5
  np.testing.assert_array_equal(images[-10:, 0, 0, 0], labels[-10:])
  assert not np.any(images[-10:-5, 1:] == images[-5:, 1:], axis=(1, 2, 3)).all()


def test_without_a_generator_they_are_the_images(plain):
  data = WithGenerated(**DIGITS, generator=None).build()
  for split in SPLITS:
    assert_same(data, plain, split)
  np.testing.assert_array_equal(data.batch(3, 50)["image"], plain.batch(3, 50)["image"])


def test_copies_are_as_many_images_of_the_class_that_are_no_new_ones(plain):
  data = WithGenerated(**DIGITS, generator="copies", added_images=35).build()
  (images, labels), (real, known) = whole(data, "train"), whole(plain, "train")
  found, counts = np.unique(images[labels == 3], axis=0, return_counts=True)
  np.testing.assert_array_equal(found, np.unique(real[known == 3], axis=0))
  assert sorted(counts.tolist()) == [4] * 5 + [5] * 5
  np.testing.assert_array_equal(images[labels != 3], real[known != 3])
  assert_same(data, plain, "test")


def test_training_batches_are_a_function_of_seed_and_step(workdirs):
  recipe = WithGenerated(**DIGITS, generator=workdirs["one"], added_images=200)
  data, again = recipe.build(), recipe.build()
  again.batch(0, 0)
  for seed, step in ((0, 40), (5, 2)):
    for name, array in data.batch(seed, step).items():
      np.testing.assert_array_equal(array, again.batch(seed, step)[name])
  batch = data.batch(0, 0)
  assert {k: (x.shape, x.dtype) for k, x in batch.items()} == {
    k: (x.shape, x.dtype) for k, x in data.spec.batch.items()
  }
  assert np.any(batch["label"] != data.batch(1, 0)["label"])
  made = np.concatenate([data.batch(0, step)["image"][:, 0, 1, 0] == 1 for step in range(22)])
  assert made.mean() == pytest.approx(200 / data.sizes["train"], abs=0.03)


def test_the_digest_changes_with_whatever_the_images_depend_on(workdirs):
  recipes = [
    WithGenerated(**DIGITS | changed)
    for changed in (
      {"generator": None},
      {"generator": workdirs["one"]},
      {"generator": workdirs["two"]},
      {"generator": workdirs["one"], "added_images": 351},
      {"generator": workdirs["one"], "added": ("4",)},
      {"generator": workdirs["one"], "split_seed": 1},
      {"generator": workdirs["one"], "starved_images": 11},
    )
  ]
  digests = [recipe.build().digest for recipe in recipes]
  assert len(set(digests)) == len(digests)
  assert recipes[1].build().digest == digests[1]


def test_each_split_has_as_many_generated_images_as_real_ones(workdirs, plain):
  data = RealOrGenerated(**DIGITS, generator=workdirs["unconditional"]).build()
  seen = []
  for split in SPLITS:
    (images, labels), (real, _) = whole(data, split), whole(plain, split)
    np.testing.assert_array_equal(images[labels == 0], real)
    made = images[labels == 1]
    assert len(made) == len(real)
    np.testing.assert_array_equal(made[:, 0, :2, 0], [[99, 3]] * len(made))
    seen += [image.tobytes() for image in made]
  assert len(set(seen)) == len(seen)  # no image is in two splits, or twice in one
  assert data.spec.classes == ("real", "generated")
  assert data.sizes == {split: 2 * plain.sizes[split] for split in SPLITS}
  assert set(data.batch(0, 0)["label"].tolist()) == {0, 1}


def test_a_conditional_generator_is_asked_for_all_classes_in_turn(workdirs):
  images, labels = whole(RealOrGenerated(**DIGITS, generator=workdirs["one"]).build(), "test")
  counts = np.bincount(images[labels == 1][:, 0, 0, 0], minlength=10)
  assert counts.max() - counts.min() <= 1


def test_the_generator_of_the_test_split_may_be_one_that_the_detector_has_not_seen(workdirs):
  same = RealOrGenerated(**DIGITS, generator=workdirs["one"]).build()
  data = RealOrGenerated(**DIGITS, generator=workdirs["one"], test_generator=workdirs["two"]).build()
  for split in ("train", "validation"):
    assert_same(data, same, split)
  images, labels = whole(data, "test")
  assert set(images[labels == 1][:, 0, 1, 0].tolist()) == {2}
  assert data.digest != same.digest


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"generator": "unconditional"}, "cannot be asked for a class; a conditional GAN"),
    ({"generator": "classifier"}, "makes no images; a GAN of chapter 4"),
    ({"generator": "larger"}, "makes images of 9x9x1, and these have 8x8x1"),
    ({"generator": "one", "added": ("33",)}, "unknown class of --data.added '33'; perhaps you meant '3'"),
    ({"generator": "one", "starved": None}, "--data.added: say of which classes images are added"),
    ({"generator": "one", "added_images": 0}, "--data.added_images=0 is too small"),
    ({"generator": "gan.cgann"}, "unknown generator, which is a workdir or 'gan.cgann'; .* 'gan.cgan'"),
    ({"generator": "copies", "left_out": "9", "added": ("9",)}, "has no image of class '9' to copy"),
    ({"generator": "cnn.lenet5"}, "cnn.lenet5 makes no images"),
    ({"generator": "recurrent.char_lstm"}, "recurrent.char_lstm does not learn from labelled images"),
  ],
)
def test_a_generator_that_does_not_fit_is_refused(workdirs, fields, said):
  fields = fields | {"generator": workdirs.get(fields["generator"], fields["generator"])}
  with pytest.raises(UserError, match=said):
    WithGenerated(**DIGITS | fields).build()


def test_a_generator_that_was_trained_on_other_images_is_named_in_the_log(workdirs, caplog):
  WithGenerated(**DIGITS, generator=workdirs["one"]).build()
  assert not caplog.records
  WithGenerated(**DIGITS, generator=workdirs["fewer"]).build()
  assert "was trained on other images" in caplog.text


def test_an_experiment_comes_first_on_the_same_splits(tmp_path):
  recipe = WithGenerated(
    **DIGITS | {"batch_size": 32, "scale": "standard", "left_out": "9", "fit": "resize"},
    generator_flags="--steps=2 --data.batch_size=16",
  )
  assert recipe.first() == {
    "generator": (
      "gan.cgan",
      [
        *("--data.source=digits", "--data.size=8", "--data.fit=resize", "--data.left_out=9"),
        *("--data.starved=3", "--steps=2", "--data.batch_size=16"),
      ],
    )
  }
  assert recipe.within(tmp_path).generator == str(tmp_path / "generator")
  assert recipe.within(tmp_path).first() == {}


def test_of_a_generator_that_is_not_trained_the_shapes_are_known(plain):
  recipe = {**DIGITS, "size": 32, "fit": "resize", "generator_flags": "--task.generator.width=4"}
  larger = Images(**DIGITS | {"size": 32, "fit": "resize"}).build()
  for kind, classes in ((WithGenerated, plain.spec.classes), (RealOrGenerated, ("real", "generated"))):
    data = kind(**recipe).build()
    assert data.spec.batch == larger.spec.batch
    assert data.spec.classes == classes
    for ask in (lambda data=data: data.batch(0, 0), lambda data=data: data.eval_batches("test")):
      with pytest.raises(UserError, match="that `dlcourse train` trains first"):
        ask()
