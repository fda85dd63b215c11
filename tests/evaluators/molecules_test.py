import sys
import types

import jax
import numpy as np
import pytest

from dlcourse.data.batches import in_order
from dlcourse.data.recipe import Data, Spec
from dlcourse.data.tokens import train_tokenizer
from dlcourse.errors import UserError
from dlcourse.evaluators.molecules import Molecules

KEY = jax.random.key(0)
TRAIN = ("OCC", "c1ccccc1", "CC(=O)O")
WRITTEN = (
  *("CCO", "C1=CC=CC=C1", "OCC"),  # ethanol twice and benzene, both known by other names
  *("CCN", "NCC", "C(C)N", "CCCl"),  # ethylamine three times and chloroethane, which are new
  *("CC(C", "c1cccc1", "CF(C)C", ""),  # an open branch, no aromatic ring, a valence of 3, nothing
)
TOKENIZER = train_tokenizer("smiles", [*TRAIN, *WRITTEN], 50)


def padded(texts):
  out = np.zeros((len(texts), 20), np.int32)
  for row, text in zip(out, texts, strict=True):
    tokens = TOKENIZER.encode(text)
    row[: len(tokens)] = tokens
  return out


def generate(state, key, request):
  assert not request["given"].any()
  assert request["tokens"].shape == (len(WRITTEN), 20)
  assert (request["temperature"] == 1).all()
  return {"tokens": padded(WRITTEN)}


def data():
  spec = Spec({}, vocabulary=TOKENIZER.vocabulary, tokenizer=TOKENIZER)
  return Data(spec, None, lambda split: in_order({"targets": padded(TRAIN)}, 2), {}, "", "")


EVALUATOR = Molecules(samples=len(WRITTEN), length=20, drawings=2)


def test_shares_are_of_all_of_the_valid_and_of_the_different_ones():
  pytest.importorskip("rdkit")
  report = EVALUATOR(types.SimpleNamespace(generate=generate), None, data(), KEY)
  assert report.scalars == {
    "valid": pytest.approx(7 / 11),
    "unique@11": pytest.approx(4 / 7),  # ethanol, benzene, ethylamine, chloroethane
    "novel": pytest.approx(2 / 4),
  }
  rows = report.tables["molecules"]
  assert [row["sample"] for row in rows] == list(WRITTEN)
  assert [row["canonical"] for row in rows] == ["CCO", "c1ccccc1", "CCO", *["CCN"] * 3, "CCCl", *[""] * 4]
  drawn = [axes.get_title() for axes in report.figures["molecules"].axes if axes.images]
  assert drawn == ["CCO", "c1ccccc1"]


def test_a_missing_rdkit_is_said_in_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "rdkit", None)
  with pytest.raises(UserError, match=r"RDKit is missing .*pip install 'dlcourse\[molecules\]'"):
    EVALUATOR(types.SimpleNamespace(generate=generate), None, data(), KEY)


@pytest.mark.parametrize("fields", [{"samples": 0}, {"length": 0}, {"drawings": -1}])
def test_numbers_of_nothing_are_refused(fields):
  with pytest.raises(UserError, match="is too small"):
    Molecules(**fields)
