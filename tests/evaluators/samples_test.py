import types

import jax
import numpy as np
import pytest
from PIL import Image

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.data.tokens import Tokenizer, train_tokenizer
from dlcourse.errors import UserError
from dlcourse.evaluators import samples
from dlcourse.evaluators.samples import (
  Reconstructions,
  Request,
  SampleGrid,
  TextSamples,
  draw,
  save_samples,
)

TEXT = Spec({}, vocabulary=("\n", "a", "b", "c"))
KEY = jax.random.key(0)


class Echo:
  """A task whose texts are the request itself, with `c` where something is to be drawn."""

  conditional = False

  def generate(self, state, key, request):
    self.request = request
    if "index" in request:
      return {"image": np.zeros((len(request["index"]), 2, 2, 1))}
    return {"tokens": np.where(request["given"] > 0, request["tokens"], 3)}


def test_a_text_request_holds_the_prompt_and_nothing_else():
  task = Echo()
  made = draw(task, None, TEXT, Request(samples=2, prompt="ab", length=5, temperature=0.5), KEY)
  assert [*map(TEXT.decode, made["tokens"])] == ["abccc"] * 2
  np.testing.assert_array_equal(task.request["given"], [[1, 1, 0, 0, 0]] * 2)
  np.testing.assert_array_equal(task.request["temperature"], [0.5, 0.5])


@pytest.mark.parametrize(("vocabulary", "first"), [(("\n", "a", "b", "c"), "\n"), (("a", "b", "c", "d"), "a")])
def test_without_a_prompt_a_text_begins_with_a_line_break_where_there_is_one(vocabulary, first):
  spec = Spec({}, vocabulary=vocabulary)
  made = draw(Echo(), None, spec, Request(samples=1, length=3), KEY)
  assert spec.decode(made["tokens"][0])[0] == first


def test_a_prompt_may_have_fewer_tokens_than_characters():
  tokenizer = train_tokenizer("bpe", ["there is a cat\n"] * 50, 290)
  spec = Spec({}, vocabulary=tokenizer.vocabulary, tokenizer=tokenizer)
  for prompt, said in ((None, "\n"), ("there is", "there is")):
    task, start = Echo(), tokenizer.encode(said)
    assert len(start) < len("there is")
    made = draw(task, None, spec, Request(samples=2, prompt=prompt, length=8), KEY)
    np.testing.assert_array_equal(task.request["given"], [[i < len(start) for i in range(8)]] * 2)
    np.testing.assert_array_equal(made["tokens"][:, : len(start)], [start] * 2)


@pytest.mark.parametrize(
  ("spec", "request_", "said"),
  [
    (TEXT, Request(prompt="abz"), "--prompt has 'z', which is not in the training text"),
    (TEXT, Request(prompt="abc", length=2), "--prompt has 3 symbols, more than --length=2"),
    (TEXT, Request(temperature=float("nan")), "--temperature=nan is no temperature"),
    (TEXT, Request(temperature=float("inf")), "--temperature=inf is no temperature"),
    (TEXT, Request(samples=100_000, length=1_000), "--samples=100000 of --length=1000 are more"),
    (Spec({}), Request(prompt="a"), "this one makes images"),
  ],
)
def test_requests_that_do_not_fit_are_refused(spec, request_, said):
  with pytest.raises(UserError, match=said):
    draw(Echo(), None, spec, request_, KEY)


def test_an_image_request_has_one_index_a_sample():
  task = Echo()
  draw(task, None, Spec({}), Request(samples=3), KEY)
  np.testing.assert_array_equal(task.request["index"], [0, 1, 2])


def test_texts_are_saved_one_a_file(tmp_path):
  files = save_samples({"tokens": np.array([[1, 2], [3, 0]])}, TEXT, tmp_path / "new")
  assert [file.name for file in files] == ["0000.txt", "0001.txt"]
  assert [file.read_text() for file in files] == ["ab\n", "c\n\n"]


def test_images_are_saved_as_a_grid_and_one_by_one(tmp_path):
  pictures = np.array([0.0, 1.0, 0.5])[:, None, None, None] * np.ones((3, 4, 5, 1))
  files = save_samples({"image": pictures}, Spec({}), tmp_path / "new")
  assert [file.name for file in files] == ["grid.png", "0000.png", "0001.png", "0002.png"]
  assert [np.unique(Image.open(file)).tolist() for file in files[1:]] == [[0], [255], [128]]
  assert Image.open(files[1]).size == (5, 4)


def test_texts_are_utf_8_whatever_the_machine_prefers(tmp_path, monkeypatch):
  monkeypatch.setattr("io.text_encoding", lambda encoding, *_: encoding or "ascii")
  (file,) = save_samples({"tokens": np.array([[0, 1]])}, Spec({}, vocabulary=("ß", "→")), tmp_path)
  assert file.read_bytes().decode("utf-8") == "ß→\n"


def test_only_the_newest_samples_and_the_files_of_others_stay(tmp_path):
  others = {"notes.txt", "my_grid.png", "12.png", "00004.png", "20240131.png", "0001.jpg", "0001.txt.bak"}
  for name in others | {"0007.txt", "12345.txt"}:
    (tmp_path / name).touch()
  pictures = np.zeros((5, 2, 2, 1))
  save_samples({"image": pictures}, Spec({}), tmp_path)
  files = save_samples({"image": pictures[:2]}, Spec({}), tmp_path)
  assert {file.name for file in tmp_path.iterdir()} == others | {"grid.png", "0000.png", "0001.png"}
  assert all(file.exists() for file in files)
  save_samples({"tokens": np.array([[1, 2]])}, TEXT, tmp_path)
  assert {file.name for file in tmp_path.iterdir()} == others | {"0000.txt"}


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_a_page_at_no_temperature_is_refused(temperature):
  with pytest.raises(UserError, match=r"--evaluators….temperature=.* is no temperature"):
    TextSamples(temperature=temperature)


def test_evaluators_draw_as_many_as_asked():
  data = Data(TEXT, None, None, {}, "", "")
  report = TextSamples(samples=3, length=4)(Echo(), None, data, KEY)
  assert [row["text"] for row in report.tables["samples"]] == ["\nccc"] * 3
  assert set(report.figures) == {"samples"}
  task = Echo()
  report = SampleGrid(samples=5)(task, None, data._replace(spec=Spec({})), KEY)
  assert len(task.request["index"]) == 5
  assert set(report.figures) == {"samples"}


@pytest.mark.parametrize(
  ("images", "available", "shown"), [(16, 40, 16), (5, 40, 5), (10, 40, 10), (16, 11, 11)]
)
def test_every_reconstruction_stands_below_its_original(monkeypatch, images, available, shown):
  originals = (np.arange(available, dtype=np.uint8) + 1)[:, None, None, None] * np.ones((1, 1, 1, 1), np.uint8)
  data = Data(Spec({}), None, lambda split: in_order({"image": originals}, 20), {}, "", "")
  task = types.SimpleNamespace(
    predict=lambda state, key, batch: {"image": batch["image"].astype(np.float32) / 255 + 0.5}
  )
  drawn = {}
  monkeypatch.setattr(
    samples, "image_grid", lambda pictures, columns: drawn.update(p=pictures.ravel(), c=columns)
  )
  Reconstructions(images)(task, None, data, KEY)
  columns, pictures = drawn["c"], drawn["p"]
  seen = 0
  for place, value in enumerate(pictures):
    if 0 < value < 0.5:  # an original
      assert pictures[place + columns] == pytest.approx(value + 0.5)
      seen += 1
  assert seen == shown


def test_what_the_encoder_was_shown_stands_between_original_and_reconstruction(monkeypatch):
  originals = np.full((3, 1, 1, 1), 51, np.uint8)
  data = Data(Spec({}), None, lambda split: in_order({"image": originals}, 4), {}, "", "")
  made = {"image": np.full((4, 1, 1, 1), 0.7), "shown": np.full((4, 1, 1, 1), 0.4)}
  task = types.SimpleNamespace(predict=lambda state, key, batch: made)
  drawn = {}
  monkeypatch.setattr(samples, "image_grid", lambda pictures, columns: drawn.update(p=pictures, c=columns))
  Reconstructions(8)(task, None, data, KEY)
  np.testing.assert_allclose(drawn["p"].reshape(-1, drawn["c"]), [[0.2] * 3, [0.4] * 3, [0.7] * 3], rtol=1e-6)


@pytest.mark.parametrize(("condition", "numbers"), [(None, [0, 1, 0]), ("Lear", [1, 1, 1])])
def test_texts_are_of_the_class_that_is_asked_for_or_of_all_in_turn(condition, numbers):
  task, spec = Echo(), Spec({}, ("Hamlet", "Lear"), TEXT.vocabulary)
  draw(task, None, spec, Request(samples=3, length=4, condition=condition), KEY)
  np.testing.assert_array_equal(task.request["condition"][:, 0], numbers)


def test_a_class_that_there_is_not_is_refused():
  with pytest.raises(UserError, match="class of --condition"):
    draw(Echo(), None, Spec({}, ("Hamlet",), TEXT.vocabulary), Request(condition="Macbeth"), KEY)
  with pytest.raises(UserError, match="knows no classes"):
    draw(Echo(), None, TEXT, Request(condition="Hamlet"), KEY)


def test_a_question_is_asked_as_often_as_answers_are_wanted():
  class Answering(Echo):
    def generate(self, state, key, request):
      self.request = request
      return {"tokens": np.array([[5, 3, 0]] * len(request["inputs"]))}

  words = Tokenizer("words", ("<pad>", "<unk>", "<bos>", "<eos>", "hello", "bonjour"))
  spec = Spec({"inputs": None}, vocabulary=words.vocabulary, tokenizer=words)
  task = Answering()
  made = draw(task, None, spec, Request(samples=2, prompt="Hello", temperature=0.0), KEY)
  np.testing.assert_array_equal(task.request["inputs"], [[4], [4]])
  assert [spec.decode(row) for row in made["tokens"]] == ["bonjour", "bonjour"]
  with pytest.raises(UserError, match="--prompt says what is to be answered"):
    draw(task, None, spec, Request(samples=2), KEY)


@pytest.mark.parametrize(("condition", "numbers"), [(None, [0, 1, 2, 0]), ("cat", [1, 1, 1, 1])])
def test_a_conditional_model_draws_the_class_that_is_asked_for_or_all_in_turn(condition, numbers):
  task, spec = Echo(), Spec({}, ("ant", "cat", "dog"))
  task.conditional = True
  draw(task, None, spec, Request(samples=4, condition=condition), KEY)
  np.testing.assert_array_equal(task.request["label"], numbers)
  with pytest.raises(UserError, match="class of --condition"):
    draw(task, None, spec, Request(condition="cow"), KEY)


def test_an_unconditional_model_of_classes_is_told_none():
  task, spec = Echo(), Spec({}, ("ant", "cat"))
  draw(task, None, spec, Request(samples=2), KEY)
  assert set(task.request) == {"index", "temperature"}
  with pytest.raises(UserError, match="this one knows no classes"):
    draw(task, None, spec, Request(condition="cat"), KEY)


def test_a_picture_says_what_made_it(tmp_path):
  files = save_samples({"image": np.zeros((1, 2, 2, 1))}, Spec({}), tmp_path, {"Experiment": "gan.dcgan"})
  assert [Image.open(file).text for file in files] == [{"Experiment": "gan.dcgan"}] * 2


def test_points_are_saved_as_a_table(tmp_path):
  points = np.array([[0.5, -1.0], [2.0, 0.25]])
  (file,) = save_samples({"point": points}, Spec({}), tmp_path)
  assert file.read_text().splitlines()[0] == "x,y"
  np.testing.assert_allclose(np.loadtxt(file, delimiter=",", skiprows=1), points)


def test_a_grid_of_a_conditional_model_has_a_column_for_each_class(monkeypatch):
  task, data = Echo(), Data(Spec({}, ("ant", "cat", "dog")), None, None, {}, "", "")
  task.conditional = True
  shown = {}
  monkeypatch.setattr(
    samples, "image_grid", lambda images, columns: shown.update(n=len(images), columns=columns)
  )
  SampleGrid(samples=4)(task, None, data, KEY)
  assert shown == {"n": 6, "columns": 3}
  np.testing.assert_array_equal(task.request["label"], [0, 1, 2, 0, 1, 2])
