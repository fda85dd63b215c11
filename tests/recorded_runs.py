"""Workdirs of image classifiers as a training and its report leave them, without the training."""

import json

import numpy as np
from PIL import Image

from dlcourse.models.trace import Layer

SETTINGS = {
  "data!": "Images",
  "data.source": "folder:/home/somebody/photos",
  "data.batch_size": 64,
  "data.size": 16,
  "data.scale": "unit",
  "data.augment!": 2,
  "data.augment.0!": "Shift",
  "data.augment.0.pixels": 2,
  "data.augment.1!": "Flip",
  "data.folds": 5,
  "data.validation": 0.1,
  "task!": "Classify",
  "task.model!": "MLP",
  "task.model.dropout": 0.25,
  "task.optimizer!": "AdamW",
  "task.optimizer.learning_rate": 0.001,
  "task.optimizer.schedule": "cosine",
  "task.optimizer.weight_decay": 0.01,
  "steps": 600,
  "eval_every": 40,
  "best.metric": "accuracy",
  "best.patience": 4,
}
CURVES = ((40, 0.8, 0.70), (80, 0.9, 0.85), (240, 1.0, 0.80))  # step, accuracy in training, in validation


def matrix(classes, right=20, wrong=2, rare=8):
  """Counts of a test split whose last class is rare, each taken for the one before it now and then."""
  counts = np.diag([right] * (classes - 1) + [rare // 2])
  for i in range(1, classes):
    counts[i, i - 1] = rare - rare // 2 if i == classes - 1 else wrong
  return counts


def layers(count, classes):
  rows = [
    Layer("", f"dense_{i}", *["Dense"] * 2, *[(768,), (64,)] * 2, 49_216, 49_152, 49_216, None)
    for i in range(count)
  ]
  return [*rows, Layer("", "output", *["Dense"] * 2, *[(64,), (classes,)] * 2, 650, 640, 650, None)]


def write_run(path, classes, counts=None, settings=None, depth=1, facts=None, curves=CURVES):
  """A workdir; of what is None, something usual."""
  counts = matrix(len(classes)) if counts is None else counts
  report = path / "report"
  report.mkdir(parents=True)
  total = int(counts.sum())
  accuracy = float(np.diag(counts).sum() / total)
  record = {
    "experiment": "cnn.mlp",
    "overrides": [],
    "seed": 3,
    "resolved": SETTINGS | (settings or {}),
    "data": {
      "train": round(total * 4 * 0.9),
      "validation": round(total * 4 * 0.1),
      "test": total,
      "digest": "x",
    },
    "devices": {"platform": "cpu", "kind": "Some CPU, 2 cores", "count": 1},
    "versions": {},
    "created": "2026-01-02T03:04:05+0000",
  }
  test = {"accuracy": accuracy, "loss": 0.5, "macro_f1": 0.7, "macro_recall": 0.72}
  result = {"experiment": "cnn.mlp", "steps": 240, "best_step": 80, "seconds": 12.3, "test": test}
  rows = [{"label": a, "counts": {b: int(n) for b, n in zip(classes, row, strict=True)}}
          for a, row in zip(classes, counts, strict=True)]  # fmt: skip
  metrics = [
    {"step": step, "split": split, "accuracy": value, "loss": 1 - value}
    for step, *values in curves
    for split, value in zip(("train", "validation"), values, strict=True)
  ]
  files = {
    "experiment.json": record,
    "result.json": result,
    "report/confusion_matrix.json": rows,
    "report/summary.json": [layer._asdict() for layer in layers(depth, len(classes))],
    **({"data.json": facts} if facts else {}),
  }
  for name, value in files.items():
    (path / name).write_text(json.dumps(value))
  (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
  Image.new("RGB", (1263, 1063)).save(report / "worst_confusions.png")
  (report / "index.md").write_text("# x\n\n## Data\n\nPhotographs. Licence: mine\n\n| split |\n")
  return path
