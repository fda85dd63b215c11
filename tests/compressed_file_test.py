"""Files of compressed images: what of a file is refused, and by whom."""

import hashlib
import json
import types

import numpy as np
import pytest

from dlcourse import bits_back, compressed_file, symbol_code
from dlcourse.compressed_file import (
  NUMBERS,
  Compressed,
  check_same,
  digest_of_model,
  packed,
  read_compressed,
  surroundings,
)
from dlcourse.errors import UserError

WORDS = np.array([7, 0, 2**32 - 1], np.uint32)


def trained(weight=1.0, activation="relu"):
  state = types.SimpleNamespace(params={"w": np.float32([weight, 2])}, model_state={})
  record = {"experiment": "vae.tiny", "resolved": {"task.activation": activation, "steps": 3}}
  spec = types.SimpleNamespace(image_shape=(4, 4, 1))
  data = types.SimpleNamespace(spec=spec)
  return types.SimpleNamespace(state=state, record=record, path="runs/tiny", data=data)


def content(kind, words=WORDS):
  model = digest_of_model(trained())
  return Compressed(kind, model, "vae.tiny", surroundings(), (6, 4, 4, 1), {NUMBERS[kind]: 5}, words)


@pytest.fixture(params=[bits_back.KIND, symbol_code.KIND], ids=["lossless", "lossy"])
def compressed(request, tmp_path):
  """A file of six images, and what it says."""
  file = tmp_path / "out.dl"
  file.write_bytes(packed(content(request.param)))
  return file, content(request.param)


def test_a_file_says_what_was_packed(compressed):
  file, expected = compressed
  found = read_compressed(file)
  np.testing.assert_array_equal(found.words, expected.words)
  assert found._replace(words=None) == expected._replace(words=None)
  check_same(file, found, trained())


def test_words_that_end_with_nothing_are_no_stack(tmp_path):
  for words in (WORDS[:2], WORDS[:0]):
    (tmp_path / "stack").write_bytes(packed(content(bits_back.KIND, words)))
    with pytest.raises(UserError, match="a code without an end"):
      read_compressed(tmp_path / "stack")
    (tmp_path / "queue").write_bytes(packed(content(symbol_code.KIND, words)))
    np.testing.assert_array_equal(read_compressed(tmp_path / "queue").words, words)


def test_a_damaged_byte_anywhere_and_a_file_cut_short_are_refused(compressed):
  file, _ = compressed
  whole = file.read_bytes()
  for place in range(0, len(whole), 2):
    broken = bytearray(whole)
    broken[place] ^= 1 << place % 8
    file.write_bytes(broken)
    with pytest.raises(UserError, match=r"is damaged|was not written by|is of version"):
      read_compressed(file)
  for length in range(0, len(whole), 11):
    file.write_bytes(whole[:length])
    with pytest.raises(UserError, match=r"is damaged|was not written by"):
      read_compressed(file)


def rewritten(file, change):
  """The same file with other facts and a checksum that fits."""
  data = file.read_bytes()
  kind, body = data[:4], data[compressed_file._HEAD.size :]
  model, length = compressed_file._MODEL.unpack_from(body)
  facts = json.loads(body[compressed_file._MODEL.size :][:length])
  change(facts)
  text = json.dumps(facts).encode()
  body = compressed_file._MODEL.pack(model, len(text)) + text + body[compressed_file._MODEL.size + length :]
  file.write_bytes(
    compressed_file._HEAD.pack(kind, compressed_file.VERSION, hashlib.sha256(body).digest()) + body
  )


@pytest.mark.parametrize(
  ("fact", "value"),
  [
    ("shape", [6, 4, 4]),
    ("shape", [6, 4, 4, 1.0]),
    ("shape", [0, 4, 4, 1]),
    ("shape", [2**40, 2**40, 4, 1]),
    ("shape", 6),
    ("number", -1),
    ("number", "3"),
    ("surroundings", 3),
  ],
)
def test_facts_that_make_no_sense_are_refused(compressed, fact, value):
  file, content = compressed
  name = fact if fact != "number" else NUMBERS[content.kind]
  rewritten(file, lambda facts: facts.update({name: value}))
  with pytest.raises(UserError, match="says nothing about its images that can be read"):
    read_compressed(file)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (
      lambda facts: facts["surroundings"].update(device="gpu, H100"),
      "compressed with device 'gpu, H100', and here",
    ),
    (lambda facts: facts["surroundings"].update(jaxlib="0.1"), "compressed with jaxlib '0.1', and here is '"),
    (lambda facts: facts.update(shape=[6, 8, 8, 1]), r"says that its images are \(8, 8, 1\), its model has"),
  ],
)
def test_other_surroundings_and_shapes_are_refused(compressed, change, said):
  file, _ = compressed
  rewritten(file, change)
  with pytest.raises(UserError, match=said):
    check_same(file, read_compressed(file), trained())


@pytest.mark.parametrize("other", [{"weight": 1.0000001}, {"activation": "tanh"}])
def test_another_model_is_refused_by_its_weights_and_by_its_recipe(compressed, other):
  file, _ = compressed
  with pytest.raises(UserError, match=r"another model than that of runs/tiny: one of vae.tiny"):
    check_same(file, read_compressed(file), trained(**other))


def test_a_model_is_the_same_whatever_it_was_trained_for():
  longer = trained()
  longer.record["resolved"]["steps"] = 9
  assert digest_of_model(longer) == digest_of_model(trained())
