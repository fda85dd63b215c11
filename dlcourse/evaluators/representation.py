"""What the latents of an autoencoder know of the images (H5.3.1, H5.3.3, H5.4)."""

import dataclasses

import jax
import numpy as np

from dlcourse.data.batches import unbatched
from dlcourse.data.recipe import Data
from dlcourse.data.splits import ranks
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.latents import MOST, coded, decoder
from dlcourse.report.figures import image_grid
from dlcourse.theory.disentanglement import mutual_information_gap


@dataclasses.dataclass(frozen=True)
class LinearProbe(Evaluator):
  """What a linear classifier reads from the codes, beside as many principal components of the pixels (H5.4)."""

  per_class: int | None = None
  """Labelled training images of each class; None: all, at most 10,000 in all."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars probe_accuracy and pca_accuracy, of logistic regression on standardised features.

    Raises:
      UserError: the task is no autoencoder, or the data has no classes.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not data.spec.classes:
      raise UserError("LinearProbe needs images of classes")
    train, test = (coded(task, state, data, split, "LinearProbe") for split in ("train", "test"))
    pixels = [_pixels(data, split) for split in ("train", "test")]
    components = PCA(min(train.codes.shape[1], *pixels[0].shape), random_state=0).fit(pixels[0])
    chosen = self._chosen(train.facts["label"])
    labels, scores = train.facts["label"][chosen], {}
    for name, known, asked in (
      ("probe", train.codes, test.codes),
      ("pca", components.transform(pixels[0]), components.transform(pixels[1])),
    ):
      classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000)).fit(
        known[chosen], labels
      )
      scores[f"{name}_accuracy"] = float((classifier.predict(asked) == test.facts["label"]).mean())
    return Report(scalars=scores)

  def _chosen(self, labels: np.ndarray) -> np.ndarray:
    """[N] bool: the first images of each class."""
    return ranks(labels) < (len(labels) if self.per_class is None else self.per_class)


def _pixels(data: Data, split: str) -> np.ndarray:
  """The first images, flat, in [0, 1]."""
  images = unbatched(data.eval_batches(split), ("image",))["image"][:MOST]
  return images.reshape(len(images), -1) / np.float32(255)


@dataclasses.dataclass(frozen=True)
class Disentanglement(Evaluator):
  """How far each latent stands for one factor, by the mutual information gap; see `theory.disentanglement`."""

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalar mig, of the test images.

    Raises:
      UserError: the task is no autoencoder, or the factors behind the images are not known.
    """
    codes, facts = coded(task, state, data, "test", "Disentanglement")
    if "factors" not in facts:
      raise UserError("Disentanglement needs data with known factors, such as Sprites")
    return Report({"mig": mutual_information_gap(codes, facts["factors"])})


@dataclasses.dataclass(frozen=True)
class InkArithmetic(Evaluator):
  """Latent arithmetic: codes moved by the difference of bold and thin images give bolder ones (H5.3.1).

  The attribute is the mean brightness, which can be measured in what is decoded. Its vector is the mean code of
  the quarter of the training images with most of it, minus that of the quarter with least.
  """

  images: int = 8
  """Test images in the figure, a row each."""
  steps: int = 9
  """S, how many of each, from -1 to 1 vectors away."""

  def __post_init__(self) -> None:
    """Refuses an empty figure."""
    check_at_least(1, {"evaluators….images": self.images})
    check_at_least(2, {"evaluators….steps": self.steps})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Figure ink; scalars ink_rank, Spearman's ρ of the way moved and the ink found, averaged over the images.

    And ink_gain: the mean ink of images one vector on, over that of those one vector back.

    Raises:
      UserError: the task is no autoencoder.
    """
    from scipy.stats import spearmanr  # 0.3 s

    train, ink = coded(task, state, data, "train", "InkArithmetic"), _pixels(data, "train").mean(axis=1)
    low, high = np.quantile(ink, [0.25, 0.75])
    vector = train.codes[ink >= high].mean(axis=0) - train.codes[ink <= low].mean(axis=0)
    test = coded(task, state, data, "test", "InkArithmetic", self.images)
    moves = np.linspace(-1, 1, self.steps)
    codes = test.codes[:, None] + moves[:, None] * vector
    labels = test.labels.repeat(self.steps)
    made = decoder(task, state, data, "InkArithmetic")(codes.reshape(-1, codes.shape[-1]), labels)
    found = made.reshape(len(codes), self.steps, -1).mean(axis=2)
    correlations = [spearmanr(moves, row).statistic if np.ptp(row) else 0.0 for row in found]
    scalars = {
      "ink_rank": float(np.mean(correlations)),
      "ink_gain": float(found[:, -1].mean() / max(found[:, 0].mean(), 1e-9)),
    }
    return Report(scalars, figures={"ink": image_grid(made, columns=self.steps)})
