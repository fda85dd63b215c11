"""Transfer learning: a new classifier on a trained network, of which all or the most stays as it is (H2.9).

What stays is no parameter: it lies in `TrainState.model_state["frozen"]`, where no gradient, no optimizer and
no weight decay can reach it.
"""

import dataclasses
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict

from dlcourse import platform
from dlcourse.data.batches import in_order, shuffled
from dlcourse.data.recipe import Data, Spec, digest_of
from dlcourse.errors import UserError, check_at_least
from dlcourse.models.transfer import Transferred
from dlcourse.optim import Optimizer
from dlcourse.task import Network, Task, TaskRecipe, TrainState, complete
from dlcourse.tasks.supervised import classification, supervised
from dlcourse.whole_file import whole_file

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Transfer(TaskRecipe):
  """One label an image, from a network that `--init_from` fills with what it has learnt elsewhere.

  With `trainable_layers=0` this is feature extraction (H2.9.1): features are computed once, before training,
  and kept between runs. Else it is fine-tuning (H2.9.2).
  """

  model: nn.Module
  """The backbone: images [B, S, S, C] to feature maps by name."""
  optimizer: Optimizer
  """How the classifier, and what else is trained, is."""
  trainable_layers: int = 0
  """Layers with parameters, from the end of the backbone, that are trained too; all, if there are fewer."""
  hidden_dim: int = 256
  """Units of the new classifier's dense layer."""
  dropout: float = 0.5
  """Probability that one of them is dropped in training."""
  channels: int | None = 3
  """Channels that the backbone takes: grey images are repeated; None: as many as there are."""

  def __post_init__(self) -> None:
    """Refuses fewer than no layers."""
    check_at_least(0, {"task.trainable_layers": self.trainable_layers})

  def build(self, spec: Spec, steps: int) -> Task:
    """Cross-entropy on the logits; `precompute` where no layer of the backbone is trained."""
    model = complete(Transferred(self.model, self.hidden_dim, self.dropout, self.channels), spec)
    image = jax.eval_shape(lambda batch: spec.prepare(None, batch), spec.batch)["image"]
    partly = PartlyFrozen(model, _frozen(model, image, self.trainable_layers))

    def prepare(key, batch):
      return batch if "feature" in batch else spec.prepare(key, batch)

    def call(module, carry, batch, train):
      if "feature" in batch:
        return carry, module.classify(batch["feature"], train)
      return carry, module(batch["image"], train)

    task = supervised(
      partly, call, classification(spec.num_classes), jax.nn.softmax, self.optimizer.build(steps), prepare
    )
    network = Network(
      model,
      lambda state: partly.whole(task.network.variables(state)),
      lambda state, variables: task.network.with_variables(state, partly.split(variables)),
    )

    def precompute(state: TrainState, data: Data) -> Data:
      return with_features(model, network.variables(state), data)

    return task._replace(network=network, precompute=None if self.trainable_layers else precompute)


@dataclasses.dataclass(frozen=True)
class PartlyFrozen:
  """A Linen module whose frozen parameters are a collection of their own, with `init` and `apply` like its.

  Attributes:
    model: the module.
    frozen: paths of the parameters that are not trained.
  """

  model: nn.Module
  frozen: Collection[tuple[str, ...]]

  def split(self, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of the module -> with `params` divided into `params` and `frozen`."""
    params = flatten_dict(variables["params"])
    parts = {
      "params": {path: leaf for path, leaf in params.items() if path not in self.frozen},
      "frozen": {path: leaf for path, leaf in params.items() if path in self.frozen},
    }
    return {**variables, **{name: unflatten_dict(part) for name, part in parts.items()}}

  def whole(self, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `split`."""
    rest = {name: tree for name, tree in variables.items() if name != "frozen"}
    params = flatten_dict(variables["params"]) | flatten_dict(variables["frozen"])
    return {**rest, "params": unflatten_dict(params)}

  def init(self, *args, **options) -> dict[str, Any]:
    """`self.model.init`, divided."""
    return self.split(self.model.init(*args, **options))

  def apply(self, variables: Mapping[str, Any], *args, **options) -> Any:
    """`self.model.apply` on divided variables; what is frozen comes back as it was."""
    result = self.model.apply(self.whole(variables), *args, **options)
    if "mutable" not in options:
      return result
    outputs, changed = result
    return outputs, {**changed, "frozen": variables["frozen"]}


def _frozen(model: Transferred, image: jax.ShapeDtypeStruct, trainable_layers: int) -> set[tuple[str, ...]]:
  """Paths of the parameters of the backbone, without those of its last layers."""
  called: list[tuple[str, ...]] = []

  def note(function, args, options, context):
    result = function(*args, **options)
    called.append(context.module.path)
    return result

  with nn.intercept_methods(note):
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
  params = flatten_dict(variables["params"])
  owners = [path for path in dict.fromkeys(called) if any(leaf[:-1] == path for leaf in params)]
  backbone = [path for path in owners if path[:1] == ("backbone",)]
  kept = backbone[: max(0, len(backbone) - trainable_layers)]
  return {leaf for leaf in params if leaf[:-1] in kept}


def with_features(model: Transferred, variables: Mapping[str, Any], data: Data) -> Data:
  """The data with features [F] in place of images, computed once and kept in the cache folder.

  Args:
    model: whose backbone makes them.
    variables: of the model.
    data: batches with "image".

  Raises:
    UserError: the images are changed at random in training, which features computed once cannot follow.
  """
  if data.spec.augments:
    raise UserError(
      "features are computed once, so random changes of the images would be lost: leave --data.augment out, or "
      "train layers of the backbone too (--task.trainable_layers)"
    )
  extract = jax.jit(
    lambda variables, batch: model.apply(variables, data.spec.prepare(None, batch)["image"], method="extract")
  )
  file = _cache_file(model, variables, data)
  arrays = _read(file)
  if arrays is None:
    logging.warning("computing the features of the images, once")
    arrays = {}
    for split in SPLITS:
      rows = [_features(extract, variables, batch) for batch in data.eval_batches(split)]
      arrays |= {f"{split}_{field}": np.concatenate([row[field] for row in rows]) for field in rows[0]}
    _write(file, arrays)
  splits = {split: {field: arrays[f"{split}_{field}"] for field in ("feature", "label")} for split in SPLITS}
  size = data.spec.batch["image"].shape[0]
  return data._replace(
    batch=shuffled(splits["train"], size), eval_batches=lambda split: in_order(splits[split], size)
  )


def _features(extract, variables, batch) -> dict[str, np.ndarray]:
  real = batch["mask"] > 0
  return {"feature": np.asarray(extract(variables, batch))[real], "label": batch["label"][real]}


def _cache_file(model: Transferred, variables: Mapping[str, Any], data: Data) -> Path:
  """Named after all that features depend on: network, weights, images and how they are scaled."""
  weights = [leaf for tree in variables.values() for leaf in jax.tree.leaves(tree.get("backbone", {}))]
  scaled = data.spec.prepare(None, data.batch(0, 0))["image"]
  network = np.frombuffer(repr(model.backbone).encode(), np.uint8)
  name = digest_of(np.asarray(array) for array in (*weights, scaled, network))
  return platform.cache_folder("DLCOURSE_FEATURES", "features") / f"{name}-{data.digest}.npz"


def _read(file: Path) -> dict[str, np.ndarray] | None:
  try:
    with np.load(file) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):  # not there, or cut short
    return None


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Whole or not at all; a cache that cannot be written costs time and nothing else."""
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as temporary, open(temporary, "wb") as opened:
      np.savez(opened, **arrays)
  except (OSError, UserError) as error:
    logging.warning("the features are not kept: %s", error)
