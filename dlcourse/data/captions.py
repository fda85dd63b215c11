"""Images of handwritten digits side by side and their names: from one image to a text (one-to-many, H3.6.2).

The digits are real, the rows of digits are composed.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np

from dlcourse.data.image_sources import load_images
from dlcourse.data.procedural import EVALUATION, made
from dlcourse.data.ragged import side_by_side
from dlcourse.data.recipe import Data, DataRecipe, Spec
from dlcourse.data.splits import stratified
from dlcourse.data.token_batches import check_split, teacher_forced
from dlcourse.data.tokens import SPECIAL, Tokenizer
from dlcourse.errors import check_at_least

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclasses.dataclass(frozen=True)
class DigitCaptions(DataRecipe):
  """Rows of digits of MNIST, each row at a random place of its image, and their names, "four seven".

  Training rows are drawn anew for every (seed, step), those of evaluation once. No digit is in two splits.
  """

  batch_size: int = 64
  """Images in a global batch, over all devices."""
  shortest: int = 2
  """Digits of a row, at least."""
  longest: int = 3
  """Digits of a row, at most; the images are as wide as so many."""
  tokens: Literal["chars", "words"] = "chars"
  """What a token of the text is."""
  images: int = 1_000
  """Images of each split in evaluation."""
  validation: float = 0.1
  """Share of the digits that validates."""
  test: float = 0.2
  """Share of the digits that tests."""
  split_seed: int = 0
  """Seed of the splits and of the images of evaluation."""

  def __post_init__(self) -> None:
    """Refuses rows of nothing."""
    check_at_least(1, {f"data.{name}": getattr(self, name) for name in ("batch_size", "shortest", "images")})
    check_at_least(self.shortest, {"data.longest": self.longest})
    check_at_least(0, {"data.split_seed": self.split_seed})
    check_split(self.validation, self.test, self.split_seed)

  def build(self) -> Data:
    """Loads, splits, composes; see `Data`.

    A batch has image uint8 [B, 28, 28 `longest`, 1], which `Spec.prepare` scales to [0, 1], and tokens,
    targets, mask [B, T] and target_lengths [B].

    Raises:
      UserError: the digits cannot be had.
    """
    source = load_images("mnist_5k")
    digits = stratified(source.splits["all"], self.validation, self.test, self.split_seed)
    symbols = NAMES if self.tokens == "words" else sorted(set(" ".join(NAMES)))
    tokenizer = Tokenizer(self.tokens, (*SPECIAL, *symbols))
    splits = {
      name: self._rows(
        tokenizer, part, self.images, np.random.default_rng((self.split_seed, number, EVALUATION))
      )
      for number, (name, part) in enumerate(digits.items())
    }
    counts = ", ".join(f"{len(part['label']):,} to {name}" for name, part in digits.items())
    return made(
      splits,
      lambda count, rng: self._rows(tokenizer, digits["train"], count, rng),
      self.batch_size,
      Spec(
        {},
        vocabulary=tokenizer.vocabulary,
        tokenizer=tokenizer,
        prepare=lambda key, batch: {**batch, "image": batch["image"].astype(jnp.float32) / 255.0},
      ),
      f"rows of {self.shortest} to {self.longest} digits ({counts} on), composed of {source.description}. "
      f"Licence: {source.licence}. Citation: {source.citation}",
    )

  def _rows(self, tokenizer: Tokenizer, digits: dict, count: int, rng: np.random.Generator) -> dict:
    """`count` rows of these digits, drawn with replacement."""
    side = digits["image"].shape[1]
    lengths = rng.integers(self.shortest, self.longest + 1, count)
    chosen = rng.integers(len(digits["label"]), size=(count, self.longest))
    starts = rng.integers(0, (self.longest - lengths) * side + 1)
    images = np.zeros((count, side, self.longest * side, 1), np.uint8)
    answers = []
    for image, row, length, start in zip(images, chosen, lengths, starts, strict=True):
      row = row[:length]
      image[:, start : start + length * side] = np.concatenate(list(digits["image"][row]), axis=1)
      answers.append(tokenizer.encode(" ".join(NAMES[label] for label in digits["label"][row])))
    longest = len(tokenizer.encode(" ".join(["three"] * self.longest)))
    return {"image": images, **teacher_forced(side_by_side(answers, longest)[0])}
