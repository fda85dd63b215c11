"""The archive that is handed in (Practical Work, 8), with a manifest by which damage shows.

The manifest finds damage and careless edits. Whoever changes a file and the manifest with it is found only by
running the model again: see `dlcourse.grading`.
"""

import hashlib
import importlib.util
import inspect
import json
import shlex
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from dlcourse.errors import UserError
from dlcourse.experiment import find
from dlcourse.exported import export
from dlcourse.slides.recorded import read_recorded
from dlcourse.slides.words import Language
from dlcourse.trained import Trained
from dlcourse.whole_file import whole_file
from dlcourse.workdir import RECORD

MANIFEST, MODEL, RESULT, SLIDES = "manifest.json", "model.h5", "result.json", "slides.pptx"
VERSION = 1  # of the manifest
_REPORT = ("learning_curves.png", "confusion_matrix.png", "confusion_matrix.json", "summary.json")
_MIDNIGHT = (1980, 1, 1, 0, 0, 0)  # the first that a zip knows: the same files are the same archive


def submit(trained: Trained, file: Path, language: Language = "en", recipe: str | None = None) -> Path:
  """Writes the archive of a trained image classifier, whole or not at all.

  It holds the source of the recipe and of the network, the model as .h5, curves and confusion matrix, the
  record and the result, and the slides: those in the workdir, which a person may have edited, or new ones.

  Args:
    trained: with its best checkpoint, after its report.
    file: is replaced if there is one.
    language: of new slides.
    recipe: with which it was opened, where that is a person's own.

  Returns:
    `file`.

  Raises:
    UserError: no classifier, no report yet, or the file cannot be written.
  """
  if file.suffix != ".zip":
    raise UserError(f"--output={file} should end in .zip, which is what the file will be")
  if not file.parent.is_dir():
    raise UserError(f"--output={file} cannot be written: {file.parent} is no folder")
  name = recipe or trained.record["experiment"]
  members = _members(trained, name, language)
  manifest = json.dumps(_manifest(trained.record, name, members), indent=1, ensure_ascii=False) + "\n"
  with whole_file(file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
    for name, data in sorted({**members, MANIFEST: manifest.encode()}.items()):
      entry = zipfile.ZipInfo(name, _MIDNIGHT)
      entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
      archive.writestr(entry, data)
  return file


def _members(trained: Trained, name: str, language: Language) -> dict[str, bytes]:
  """Name in the archive -> contents."""
  path = trained.path
  read_recorded(path)  # says what is missing
  missing = [name for name in _REPORT if not (path / "report" / name).exists()]
  if missing:
    raise UserError(
      f"{path / 'report'} lacks {missing[0]}; make it again with `dlcourse report --workdir={path}`"
    )
  files = {name: path / "report" / name for name in _REPORT}
  files |= {
    name: path / name for name in (RECORD, RESULT, "metrics.jsonl", "data.json") if (path / name).exists()
  }
  files |= _sources(trained, name)
  slides = _slides(path, language)
  files |= {SLIDES: slides} if slides else {}
  with tempfile.TemporaryDirectory(prefix="dlcourse-") as folder:
    files[MODEL] = export(trained, "h5", Path(folder) / MODEL)
    return {name: source.read_bytes() for name, source in files.items()}


def _sources(trained: Trained, name: str) -> dict[str, Path]:
  """The Python files of the recipe and of its network; no file is run for it."""
  recipe = name.rpartition(":")[0] if ".py:" in name else inspect.getsourcefile(find(name))
  files = {f"source/{Path(recipe).name}": Path(recipe)}
  model = getattr(trained.experiment.task, "model", None)
  file = inspect.getsourcefile(type(model)) if model is not None else None
  return files | ({f"source/models/{Path(file).name}": Path(file)} if file else {})


def _slides(path: Path, language: Language) -> Path | None:
  slides = path / SLIDES
  if slides.exists():
    if slides.stat().st_mtime < (path / RESULT).stat().st_mtime:
      logging.warning("%s is older than the result: remove it, and new ones are made", slides)
    return slides
  if importlib.util.find_spec("pptx") is None:
    logging.warning("handed in without slides, which need python-pptx: pip install 'dlcourse[report]'")
    return None
  from dlcourse.slides.write import write_slides

  return write_slides(path, slides, language)


def _manifest(record: Mapping[str, Any], name: str, members: Mapping[str, bytes]) -> dict[str, Any]:
  if ".py:" in name:  # found where the archive is unpacked
    name = f"source/{Path(name).name}"
  seed = [f"--seed={record['seed']}"] if record["seed"] else []
  return {
    "version": VERSION,
    "experiment": name,
    "overrides": record["overrides"],
    "seed": record["seed"],
    "commit": record.get("commit"),
    "versions": record["versions"],
    "command": shlex.join(["dlcourse", "train", f"--experiment={name}", *seed, *record["overrides"]]),
    "members": {
      member: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
      for member, data in sorted(members.items())
    },
  }
