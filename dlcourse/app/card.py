"""What is said of a model: where it comes from, what it is and how good it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlcourse.exported import Exported
from dlcourse.models.trace import Layer
from dlcourse.report.layers import task_summary
from dlcourse.trained import Trained
from dlcourse.workdir import read_json

_MOST_CLASSES = 20  # that are named


def card_of(trained: Trained, layers: Sequence[Layer]) -> dict[str, str]:
  """What a workdir says of its model, by name; its scores as `result.json` has them, if it is there.

  Raises:
    UserError: `result.json` is damaged.
  """
  record, data = trained.record, trained.data
  result = read_json(trained.path / "result.json") if (trained.path / "result.json").exists() else {}
  devices = record["devices"]
  card = {
    "experiment": record["experiment"],
    "overrides": " ".join(record["overrides"]),
    "data": data.description,
    "examples": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
    **_of_images(data.spec.classes, data.spec.image_shape),
    "parameters": _parameters(layers),
    "checkpoint": f"step {int(trained.state.step):,} of {result.get('steps', trained.experiment.steps):,}",
    f"test at step {result.get('best_step') or result.get('steps')}": _metrics(result.get("test")),
    "seed": str(record["seed"]),
    "training": f"{result['seconds']:.1f} s" if "seconds" in result else "",
    "device": f"{devices.get('count')} × {devices.get('kind')}",
    "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    "commit": str(record.get("commit") or ""),
    "created": str(record.get("created") or ""),
  }
  return {name: text for name, text in card.items() if text}


def card_of_file(path: Path, exported: Exported, layers: Sequence[Layer]) -> dict[str, str]:
  """What an exported file says of its model, by name; it holds no seed and no data."""
  facts = exported.facts
  card = {
    "file": path.name,
    "experiment": facts.experiment,
    "overrides": " ".join(facts.overrides),
    **_of_images(facts.classes, facts.image_shape),
    "parameters": _parameters(layers),
    "checkpoint": f"step {facts.step:,}",
    "test": _metrics(facts.test),
    "commit": facts.commit or "",
  }
  return {name: text for name, text in card.items() if text}


def layers_of(made: Trained | Exported) -> list[Layer]:
  """The layers of the model's networks."""
  if isinstance(made, Trained):
    return task_summary(made.program.task, made.data.spec)
  return task_summary(made.task, made.spec)


def _of_images(classes: Sequence[str], shape: tuple[int, int, int] | None) -> dict[str, str]:
  named = ", ".join(classes[:_MOST_CLASSES]) + (" …" if len(classes) > _MOST_CLASSES else "")
  return {
    "classes": f"{len(classes)}: {named}" if classes else "",
    "images": " × ".join(map(str, shape)) + " (height, width, channels)" if shape else "",
  }


def _parameters(layers: Sequence[Layer]) -> str:
  return f"{sum(layer.parameters for layer in layers):,}"


def _metrics(test: Mapping[str, Any] | None) -> str:
  numbers = {name: value for name, value in (test or {}).items() if isinstance(value, int | float)}
  return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
