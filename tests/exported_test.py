"""One file instead of a workdir: the same network, for us and for Keras, and nothing in it is believed."""

import json
import shutil
import sys

import h5py
import jax
import numpy as np
import pytest

from dlcourse.classifier import open_classifier
from dlcourse.data.images import Images
from dlcourse.errors import UserError
from dlcourse.experiment import Options, load
from dlcourse.exported import export, open_exported
from dlcourse.interop.h5_file import keras_opens, own_arrays, read_h5, read_texts, write_model
from dlcourse.interop.safetensors_file import read_safetensors, write_safetensors
from dlcourse.interop.weights import DIGEST, digest_of, read_weights
from dlcourse.train import train
from dlcourse.trained import open_trained, report

DATA = ["--data.source=digits", "--data.size=8", "--data.batch_size=12", "--steps=2"]
OVERRIDES = [*DATA, "--task.model.hidden_dims", "6", "5", "--task.model.activation=leaky_relu"]


def trained_in(path, name, overrides):
  train(name, overrides, load(name, overrides), path, Options(devices=1))
  return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A tiny classifier after two steps."""
  return trained_in(tmp_path_factory.mktemp("exported") / "run", "cnn.mlp", OVERRIDES)


@pytest.fixture(scope="module")
def trained(finished):
  return open_trained(finished, devices=1)


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
  return export(trained, "h5", tmp_path_factory.mktemp("file") / "model.h5")


def facts_in(file):
  return read_texts(file)["dlcourse"]


def arrays_in(file):
  """As `read_weights`, without the time that another process takes."""
  return own_arrays(read_h5(file))


def with_digest(arrays, text):
  """What is written beside the arrays, so that a file is whole."""
  return {"dlcourse": text, DIGEST: digest_of(arrays, {"dlcourse": text})}


def changed(file, path, **fields):
  """A copy of an exported file that says something else about its model; None: nothing about that field."""
  table = json.loads(facts_in(file)) | fields
  table = {name: value for name, value in table.items() if value is not ...}
  arrays = arrays_in(file)
  write_model(path, arrays, with_digest(arrays, json.dumps(table)))
  return path


@pytest.mark.parametrize("format", ["h5", "safetensors"])
def test_a_file_is_opened_without_workdir_and_data(trained, finished, tmp_path, format, monkeypatch):
  written = export(trained, format, tmp_path / f"model.{format}")
  pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
  expected = open_classifier(finished).probabilities(pixels)

  monkeypatch.setattr(Images, "build", None)
  opened = open_exported(written)
  ours = trained.program.task.network.variables(trained.state)
  jax.tree.map(np.testing.assert_array_equal, opened.variables, jax.device_get(ours))
  assert opened.model == trained.program.task.network.model
  assert opened.spec.classes == trained.data.spec.classes
  np.testing.assert_allclose(open_classifier(written).probabilities(pixels), expected, rtol=1e-6)


@pytest.mark.parity
def test_keras_opens_the_file_and_predicts_the_same(file, monkeypatch):
  monkeypatch.setenv("KERAS_BACKEND", "jax")
  import keras

  pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
  theirs = keras.models.load_model(file, compile=False).predict(pixels.astype(np.float32), verbose=0)
  np.testing.assert_allclose(theirs, open_classifier(file).probabilities(pixels), atol=1e-5)


def test_a_training_can_begin_with_the_file(file, trained):
  assert set(read_weights(file)) == set(
    read_weights(export(trained, "safetensors", file.with_suffix(".safetensors")))
  )
  overrides = [*OVERRIDES, f"--init_from={file}"]
  path = trained_in(file.parent / "next", "cnn.mlp", overrides)
  assert int(open_trained(path, "last", devices=1).state.step) == 2


def test_the_file_says_what_it_is(file, trained):
  facts = open_exported(file).facts
  assert (facts.experiment, facts.overrides, facts.step) == ("cnn.mlp", tuple(OVERRIDES), 2)
  assert facts.resolved == trained.record["resolved"]
  assert (facts.fit, facts.image_shape) == ("pad", (8, 8, 1))
  assert facts.commit == trained.record["commit"]
  for part, exact in zip(facts.scaling, trained.data.spec.scaling, strict=True):
    np.testing.assert_array_equal(part, exact)


def test_test_metrics_are_those_of_the_checkpoint_or_none(finished, tmp_path):
  path = shutil.copytree(finished, tmp_path / "run")
  opened = open_trained(path, devices=1)
  assert open_exported(export(opened, "h5", tmp_path / "a.h5")).facts.test is None
  result = report(opened)
  assert open_exported(export(opened, "h5", tmp_path / "a.h5")).facts.test == pytest.approx(result["test"])
  (path / "result.json").write_text(json.dumps(result | {"best_step": 7}))
  assert open_exported(export(opened, "h5", tmp_path / "a.h5")).facts.test is None


def test_what_is_no_classifier_is_exported_and_not_rebuilt(tmp_path):
  path = trained_in(tmp_path / "run", "vae.mlp", [*DATA, "--task.model.hidden_dim=8"])
  opened = open_trained(path, devices=1)
  for format in ("h5", "safetensors"):
    written = export(opened, format, tmp_path / f"model.{format}")
    arrays = read_weights(written)
    leaves = jax.tree.leaves(opened.state.params)
    assert len(arrays) >= len(leaves)
    assert sum(a.size for a in arrays.values()) >= sum(leaf.size for leaf in leaves)
    with pytest.raises(UserError, match="not one network"):
      open_exported(written)
  assert not keras_opens(export(opened, "h5", tmp_path / "model.h5"))
  with pytest.raises(UserError, match="no classifier"):
    open_classifier(path)


OWN_FILE = """
from dlcourse.data.images import Images
from dlcourse.experiment import Experiment
from dlcourse.models.mlp import MLP
from dlcourse.optim import Sgd
from dlcourse.tasks.supervised import Classify


def net() -> Experiment:
  return Experiment(
    data=Images("digits", size=8, batch_size=12),
    task=Classify(MLP(hidden_dims=(4,)), Sgd(learning_rate=0.1)),
    steps=1)
"""


def test_a_file_does_not_choose_code_that_is_run(tmp_path):
  mine = tmp_path / "mine.py"
  mine.write_text(OWN_FILE)
  opened = open_trained(trained_in(tmp_path / "run", f"{mine}:net", []), devices=1)
  written = export(opened, "h5", tmp_path / "model.h5")
  sys.modules.pop("dlcourse_file_mine")  # as in a process to which nobody has named the file
  with pytest.raises(
    UserError, match=r"a recipe of somebody's own, '.*mine.py:net'.*--recipe=FILE.py:FUNCTION"
  ):
    open_exported(written)
  here = mine.rename(tmp_path / "moved.py")
  assert open_exported(written, f"{here}:net").model.hidden_dims == (4,)
  here.write_text(OWN_FILE.replace("(4,)", "(4, 4)"))
  assert open_exported(written, f"{here}:net").model.hidden_dims == (4,)  # as it was recorded
  here.write_text(OWN_FILE.replace("Sgd", "AdamW"))
  with pytest.raises(UserError, match=r"another version of the code: task\.optimizer was 'Sgd'"):
    open_exported(written, f"{here}:net")


def test_what_has_changed_in_the_recipe_since_is_put_back(file, tmp_path):
  assert open_exported(changed(file, tmp_path / "m.h5", overrides=[])).model.hidden_dims == (6, 5)


def test_fields_of_the_recipe_that_the_network_does_not_need_may_change(file, tmp_path):
  resolved = json.loads(facts_in(file))["resolved"]
  del resolved["data.fit"]
  resolved["best.gone"] = 3
  assert open_exported(changed(file, tmp_path / "m.h5", resolved=resolved)).model


def with_field(field, value):
  def change(table):
    table["resolved"][field] = value

  return change


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"version": 3}, "only versions up to 2 are read"),
    ({"experiment": 3}, "'experiment' is missing"),
    ({"experiment": ...}, "'experiment' is missing"),
    ({"experiment": "cnn.gone"}, "unknown experiment 'cnn.gone'"),
    ({"experiment": "../evil.x"}, "unknown experiment"),
    ({"experiment": "vae.mlp"}, "no network can be built"),
    ({"overrides": "--steps=1"}, "'overrides' is missing"),
    ({"overrides": [1]}, "'overrides' is missing"),
    ({"overrides": ["--help"]}, "no network can be built"),
    ({"overrides": ["--task.model.width=3"]}, "no network can be built"),
    ({"resolved": []}, "'resolved' is missing"),
    ({"resolved": {"task!": {}}}, "'resolved' is missing"),
    ({"resolved": {}}, "another version of the code"),
    ({"classes": []}, "only classifiers of images"),
    ({"classes": ["a", 1]}, "'classes' is missing"),
    ({"classes": ["a"] * 9}, "of another shape, the first 'params/output"),
    ({"image_shape": None}, "only classifiers of images|does not fit"),
    ({"image_shape": [8, 8]}, "'image_shape' is missing"),
    ({"image_shape": [2**40, 8, 1]}, "'image_shape' is missing"),
    ({"image_shape": [8, 8, -1]}, "'image_shape' is missing"),
    ({"image_shape": [9, 8, 1]}, "of another shape"),
    ({"scaling": None}, "only classifiers of images"),
    ({"scaling": [[0.5]]}, "'scaling' is missing"),
    ({"scaling": [["x"], [1.0]]}, "'scaling' is missing"),
    ({"scaling": [[0.5, 0.5], [1.0]]}, "'scaling' does not fit"),
    ({"scaling": [[0.5], [0.0]]}, "'scaling' does not fit"),
    ({"scaling": [[0.5], [float("nan")]]}, "'scaling' is missing"),
    ({"scaling": [[1e300], [1.0]]}, "'scaling' does not fit"),
    ({"fit": "stretch"}, "'fit' is missing"),
    ({"fit": []}, "'fit' is missing"),
    ({"step": "1"}, "'step' is missing"),
    ({"test": {"accuracy": "all"}}, "'test' is missing"),
    ({"commit": 1}, "'commit' is missing"),
    ({"more": "x" * 2**21}, "its digest is another"),  # than that of a file without so long a text
    (with_field("task.model.activation", 5), "no network can be built"),
    (with_field("task.model.hidden_dims", [6, "5"]), "no network can be built|of another shape"),
    (with_field("task.model.hidden_dims", [2**40, 2**40]), "of another shape|no network can be built"),
    (with_field("task.model.hidden_dims", [1] * 5000), "more layers than arrays"),
    (with_field("task.model.hidden_dims", -3), "no network can be built"),
    (with_field("task.model.dropout", 7.0), r"--task\.model\.dropout=7\.0"),
    (with_field("task.model.__class__", "os"), "is gone"),
    (with_field("task.model!", "VGGNet"), "another version of the code"),
  ],
  ids=lambda value: None if isinstance(value, dict) else "",
)
def test_what_a_file_says_of_its_model_is_checked(file, tmp_path, capfd, fields, said):
  table = json.loads(facts_in(file))
  if callable(fields):
    fields(table)
    fields = table
  with pytest.raises(UserError, match=said) as refused:
    open_exported(changed(file, tmp_path / "m.h5", **fields))
  assert "\n" not in str(refused.value)
  assert len(str(refused.value)) < 600
  assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
  "text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"version": 1' + "0" * 5000 + "}"]
)
def test_what_is_no_json_is_one_line(file, tmp_path, text):
  arrays = arrays_in(file)
  write_model(tmp_path / "m.h5", arrays, with_digest(arrays, text))
  write_safetensors(tmp_path / "m.safetensors", arrays, with_digest(arrays, text))
  for path in (tmp_path / "m.h5", tmp_path / "m.safetensors"):
    with pytest.raises(UserError, match="says nothing about its model") as refused:
      open_exported(path)
    assert "\n" not in str(refused.value)


def lying(file, path):
  """The length of the text, wherever HDF5 keeps it, is a gigabyte."""
  content, length = file.read_bytes(), len(facts_in(file).encode())
  assert length.to_bytes(4, "little") in content
  path.write_bytes(content.replace(length.to_bytes(4, "little"), (2**30).to_bytes(4, "little")))


def endless(file, path):
  """A text of variable length that is said to have a gigabyte."""
  with h5py.File(path, "w") as other:
    other.attrs["dlcourse"] = "x" * 77_777
  content = path.read_bytes()
  path.write_bytes(content.replace((77_777).to_bytes(4, "little"), (2**30).to_bytes(4, "little")))


def half(file, path):
  path.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def header(file, path):
  path.write_bytes((2**30).to_bytes(8, "little") + b'{"a": 1}')


def other_kind(file, path):
  with h5py.File(path, "w") as other:
    other.attrs["dlcourse"] = np.zeros(4)


def huge(file, path):
  shutil.copy(file, path)
  with h5py.File(path, "a") as other:
    other.create_dataset("dlcourse/params/more", (2**40,), "f4", chunks=(2**20,))


def array_of_another_shape(file, path):
  arrays = arrays_in(file)
  arrays["params/output/bias"] = np.zeros(3)
  write_model(path, arrays, with_digest(arrays, facts_in(file)))


def array_missing(file, path):
  arrays = arrays_in(file)
  del arrays["params/output/bias"]
  write_model(path, arrays, with_digest(arrays, facts_in(file)))


def without_facts(file, path):
  write_model(path, arrays_in(file), {})


@pytest.mark.parametrize(
  ("harm", "said"),
  [
    (lying, "cannot be read as HDF5"),
    (endless, "was not written by `dlcourse export`"),
    (half, "cannot be read as HDF5"),
    (header, "cannot be read as safetensors"),
    (other_kind, "was not written by `dlcourse export`"),
    (huge, "declares 4,398"),
    (array_of_another_shape, r"'params/output/bias' \(3,\) where the model has \(10,\)"),
    (array_missing, "1 missing, the first 'params/output/bias'"),
    (without_facts, "was not written by `dlcourse export`"),
    (lambda file, path: path.write_bytes(b"PK no model"), "cannot be read as PyTorch|is no weight file"),
    (lambda file, path: path.write_bytes(b""), "is no weight file"),
    (lambda file, path: None, "cannot be read: No such file"),
  ],
)
def test_a_harmed_file_is_one_line(file, tmp_path, harm, said):
  harm(file, tmp_path / "m.h5")
  with pytest.raises(UserError, match=said) as refused:
    open_exported(tmp_path / "m.h5")
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("format", ["h5", "safetensors"])
def test_a_changed_bit_of_an_array_or_of_the_facts_is_found(trained, tmp_path, format):
  whole = export(trained, format, tmp_path / f"model.{format}").read_bytes()
  kernel = np.asarray(trained.state.params["Dense_0"]["kernel"]).tobytes()
  for piece, said in (
    (kernel, "its digest is another"),
    (b"classes", "its digest is another|metadata checksum"),
  ):
    broken = bytearray(whole)
    broken[whole.index(piece) + len(piece) // 2] ^= 1
    (tmp_path / f"broken.{format}").write_bytes(broken)
    for read in (open_exported, read_weights):  # the second for a training that begins with it
      with pytest.raises(UserError, match=said):
        read(tmp_path / f"broken.{format}")


def test_a_file_of_before_there_was_a_digest_is_opened_and_a_later_one_has_it(file, tmp_path):
  arrays, table = arrays_in(file), json.loads(facts_in(file))
  write_model(tmp_path / "m.h5", arrays, {"dlcourse": json.dumps(table)})
  with pytest.raises(UserError, match="its digest is missing"):
    open_exported(tmp_path / "m.h5")
  write_model(tmp_path / "m.h5", arrays, {"dlcourse": json.dumps(table | {"version": 1})})
  assert open_exported(tmp_path / "m.h5").model.hidden_dims == (6, 5)


def test_a_safetensors_file_keeps_its_text(trained, tmp_path):
  arrays, texts = read_safetensors(export(trained, "safetensors", tmp_path / "m.safetensors"))
  assert set(texts) == {"dlcourse", DIGEST}
  assert all(array.dtype == np.float32 for array in arrays.values())


def test_what_cannot_be_written_is_one_line(trained, tmp_path):
  with pytest.raises(UserError, match="cannot be written"):
    export(trained, "h5", tmp_path / "gone" / "m.h5")


def test_a_name_of_another_kind_and_a_place_that_is_none_are_refused(trained, tmp_path):
  (tmp_path / "experiment.json").write_text("{}")
  for place in (tmp_path / "experiment.json", tmp_path / "no" / "model.h5"):
    with pytest.raises(UserError, match="--output="):
      export(trained, "h5", place)
  assert (tmp_path / "experiment.json").read_text() == "{}"
