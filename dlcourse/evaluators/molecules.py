"""How many of the molecules that a model writes there could be, differ, and are new (H5.4.4).

Measures of Polykovskiy et al. (2020, arXiv:1811.12823, section 4), of molecules in the SMILES notation.
"""

import dataclasses
import types

import jax
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.samples import Request, draw
from dlcourse.evaluators.sentences import texts_of
from dlcourse.report.figures import labelled_images

_SIDE = 240  # pixels of a drawing
_LONG_NAME = 18  # symbols of its title


@dataclasses.dataclass(frozen=True)
class Molecules(Evaluator):
  """Validity, uniqueness and novelty of molecules that are drawn from the model, by RDKit."""

  samples: int = 1_000
  """How many are drawn."""
  length: int = 100
  """Tokens of one, at most."""
  drawings: int = 12
  """How many of the valid ones are in the figure, at most."""

  def __post_init__(self) -> None:
    """Refuses to draw nothing."""
    check_at_least(1, {"evaluators….samples": self.samples, "evaluators….length": self.length})
    check_at_least(0, {"evaluators….drawings": self.drawings})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars valid, unique@N and novel; table molecules and, of valid ones, a figure.

    `valid` is the share of the N samples that RDKit can read and that has no impossible valence; `unique@N` the
    share of different molecules among those; `novel` that of different ones which are not trained on.

    Raises:
      UserError: RDKit is not installed, or the task does not write text.
    """
    chemistry = _chemistry()
    request = Request(self.samples, None, self.length)
    texts = [data.spec.decode(row) for row in draw(task, state, data.spec, request, key)["tokens"]]
    read = [canonical(chemistry, text) for text in texts]
    valid = [text for text in read if text is not None]
    different = set(valid)
    known = {canonical(chemistry, text) for text in texts_of(data, "train")} if different else set()
    scalars = {
      "valid": len(valid) / len(texts),
      f"unique@{len(texts)}": len(different) / max(len(valid), 1),
      "novel": len(different - known) / max(len(different), 1),
    }
    rows = [{"sample": text, "canonical": name or ""} for text, name in zip(texts, read, strict=True)]
    shown = list(dict.fromkeys(valid))[: self.drawings]
    figures = {"molecules": _figure(shown)} if shown else {}
    return Report(scalars, {"molecules": rows}, figures)


def canonical(chemistry: types.ModuleType, smiles: str) -> str | None:
  """The one notation of a molecule; None of what is none, or has no atom.

  Args:
    chemistry: `rdkit.Chem`.
    smiles: in any notation.
  """
  molecule = chemistry.MolFromSmiles(smiles)
  return chemistry.MolToSmiles(molecule) if molecule is not None and molecule.GetNumAtoms() else None


def _chemistry() -> types.ModuleType:
  """RDKit, which is silent about what it cannot read."""
  try:
    from rdkit import Chem, RDLogger
  except ImportError as error:
    raise UserError(f"RDKit is missing ({error}); pip install 'dlcourse[molecules]'") from error
  RDLogger.DisableLog("rdApp.*")
  return Chem


def _figure(smiles: list[str]):
  from rdkit.Chem import Draw, MolFromSmiles

  pictures = [np.asarray(Draw.MolToImage(MolFromSmiles(text), size=(_SIDE, _SIDE))) for text in smiles]
  return labelled_images(np.stack(pictures), [text[:_LONG_NAME] for text in smiles])
