"""Images that a generator makes as data: more of a rare class (H4.9.4), or a test of who can tell (H4.10.3)."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import jax
import numpy as np

from dlcourse.data.batches import shuffled, splits_in_order, unbatched
from dlcourse.data.images import Arrays, Images
from dlcourse.data.recipe import Data, Spec, digest_of
from dlcourse.errors import UserError, check_at_least, unknown

if TYPE_CHECKING:
  from dlcourse.generator import Generator

_OWN = ("batch_size", "scale", "augment")  # which a classifier and a generator do not share
_DRAWN = 5  # keeps these draws apart from the others of a seed
_KINDS = ("real", "generated")
_COPIES = "copies"


@dataclasses.dataclass(frozen=True)
class Generated(Images):
  """`Images` and those of generators, each of which is a workdir or an experiment.

  An experiment is trained first, on the same splits, in a folder of the workdir that is called as its field.
  Without one, in which nothing has been trained, the shapes of the data are known but not the images.
  """

  generator_flags: str = ""
  """Flags of an experiment that is trained first, such as "--steps=2000 --task.ema_decay=0.99"."""

  def first(self) -> dict[str, tuple[str, list[str]]]:
    """Folder of the workdir -> experiment that is trained there first, and its overrides.

    Raises:
      UserError: it does not learn from labelled images.
    """
    from dlcourse.experiment import catalogue  # which imports the data recipes, as `dlcourse.generator` does

    found = {field: source for field, source in self._sources().items() if source in catalogue()}
    return {field: (source, self._overrides(source)) for field, source in found.items()}

  def within(self, path: Path) -> "Generated":
    """The recipe of a run in this workdir, where what comes first has been trained."""
    return dataclasses.replace(self, **{field: str(path / field) for field in self.first()})

  def build(self) -> Data:
    """Loads the images and draws the others; see `Data`.

    Raises:
      UserError: as `Images.build`, or a generator cannot be had, or makes images that do not fit these.
    """
    from dlcourse.generator import open_generator

    images, first = super().build(), self.first()
    generators = {
      field: open_generator(source, first.get(field, (source, []))[1], images)
      for field, source in self._sources().items()
    }
    spec = self._spec(images.spec, generators)
    if any(generator.trained is None for generator in generators.values()):
      return images._replace(spec=spec, batch=_refuse, eval_batches=_refuse)
    splits = self._splits(images, generators)

    # Of the weights and not of what they make, which another device rounds otherwise.
    digests = "".join([images.digest, *(generator.digest for generator in generators.values())])
    arrays = [np.frombuffer(digests.encode(), np.uint8), *(part["label"] for part in splits.values())]
    return Data(
      spec=spec,
      batch=shuffled(splits["train"], self.batch_size),
      eval_batches=splits_in_order(splits, self.batch_size),
      sizes={name: len(part["label"]) for name, part in splits.items()},
      digest=digest_of(arrays),
      description="; ".join([images.description, *(f"images made by {g.name}" for g in generators.values())]),
    )

  def _sources(self) -> dict[str, str]:
    """Field -> generator, of those that there are."""
    raise NotImplementedError

  def _spec(self, spec: Spec, generators: Mapping[str, "Generator"]) -> Spec:
    """That of the data, of which generators make a part."""
    raise NotImplementedError

  def _splits(self, images: Data, generators: Mapping[str, "Generator"]) -> dict[str, Arrays]:
    """Split -> uint8 `image` [N, S, S, C] and int32 `label` [N]."""
    raise NotImplementedError

  def _overrides(self, name: str) -> list[str]:
    """Those by which an experiment learns from the same splits."""
    from dlcourse.experiment import load

    theirs = load(name).data
    if not isinstance(theirs, Images):
      raise UserError(f"{name} does not learn from labelled images, and makes none like these")
    fields = [field.name for field in dataclasses.fields(Images) if field.name not in _OWN]
    ours = {field: getattr(self, field) for field in fields}
    shared = [f"--data.{field}={value}" for field, value in ours.items() if value != getattr(theirs, field)]
    return [*shared, *shlex.split(self.generator_flags)]

  def _key(self, number: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.split_seed), _DRAWN), number)


@dataclasses.dataclass(frozen=True)
class WithGenerated(Generated):
  """`Images` of which a conditional generator has made more to train on; the other splits are as they were."""

  generator: str | None = "gan.cgan"
  """What makes them: a workdir, or an experiment, which is trained first in the folder `generator` of the
  workdir, on the same splits; copies: nothing does, they are those of the class again; None: none are added."""
  added: tuple[str, ...] = ()
  """Classes of which images are added; without any, the starved one."""
  added_images: int = 350
  """How many of each."""

  def __post_init__(self) -> None:
    """Refuses to add nothing of nothing."""
    super().__post_init__()
    check_at_least(1, {"data.added_images": self.added_images})
    if self.generator is not None and not self._classes:
      raise UserError("--data.added: say of which classes images are added, or which one is --data.starved")

  @property
  def _classes(self) -> tuple[str, ...]:
    return self.added or (() if self.starved is None else (self.starved,))

  def _sources(self) -> dict[str, str]:
    return {} if self.generator in (None, _COPIES) else {"generator": self.generator}

  def _spec(self, spec: Spec, generators: Mapping[str, "Generator"]) -> Spec:
    for name in self._classes:
      if name not in spec.classes:
        raise unknown("class of --data.added", name, spec.classes)
    for generator in generators.values():
      if not generator.task.conditional:
        raise UserError(f"{generator.source} cannot be asked for a class; a conditional GAN (gan.cgan) can")
    return spec

  def _splits(self, images: Data, generators: Mapping[str, "Generator"]) -> dict[str, Arrays]:
    splits = {name: unbatched(images.eval_batches(name), ("image", "label")) for name in images.sizes}
    train = splits["train"]
    for name in self._classes if self.generator else ():
      number = images.spec.classes.index(name)
      if generators:
        made = generators["generator"].draw(self.added_images, self._key(number), condition=name)
      else:
        made = self._copied(train["image"][train["label"] == number], name)
      label = np.full(self.added_images, number, train["label"].dtype)
      splits["train"] = _joined(splits["train"], {"image": made, "label": label})
    return splits

  def _copied(self, images: np.ndarray, name: str) -> np.ndarray:
    if not len(images):
      raise UserError(f"--data.generator={_COPIES} has no image of class {name!r} to copy")
    return images[np.arange(self.added_images) % len(images)]


@dataclasses.dataclass(frozen=True)
class RealOrGenerated(Generated):
  """`Images` that are real, and in each split as many that a generator has made: what a detector learns from.

  The two classes are real and generated, whatever is on the images; no generated one is in two splits.
  """

  generator: str = "gan.cgan"
  """What makes them: a workdir, or an experiment, which is trained first in the folder `generator` of the
  workdir, on the same splits."""
  test_generator: str | None = None
  """What makes those of the test split, likewise, where that is to be another generator than the detector has
  seen; None: the same."""

  def _sources(self) -> dict[str, str]:
    other = {} if self.test_generator is None else {"test_generator": self.test_generator}
    return {"generator": self.generator, **other}

  def _spec(self, spec: Spec, generators: Mapping[str, "Generator"]) -> Spec:
    del generators
    return dataclasses.replace(spec, classes=_KINDS)

  def _splits(self, images: Data, generators: Mapping[str, "Generator"]) -> dict[str, Arrays]:
    splits, seen = {}, generators["generator"]
    for number, (name, count) in enumerate(images.sizes.items()):
      real = unbatched(images.eval_batches(name), ("image", "label"))["image"]
      generator = generators.get("test_generator", seen) if name == "test" else seen
      kinds = (real, generator.draw(count, self._key(number)))
      labelled = [{"image": x, "label": np.full(count, kind, np.int32)} for kind, x in enumerate(kinds)]
      splits[name] = _joined(*labelled)
    return splits


def _joined(part: Arrays, other: Arrays) -> Arrays:
  return {name: np.concatenate([array, other[name]]) for name, array in part.items()}


def _refuse(*_: object) -> NoReturn:
  raise UserError("these images have to be made by a generator that `dlcourse train` trains first")
