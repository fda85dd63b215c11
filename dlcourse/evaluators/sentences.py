"""What an autoencoder of text knows and writes (Bowman et al., 2016; H5.2.2, H5.3.2, H5.4.3).

Shapes: N sentences, K draws, P pairs, S steps, Z latents.
"""

import dataclasses

import jax
import numpy as np

from dlcourse.data.recipe import Data
from dlcourse.errors import UserError, check_at_least
from dlcourse.evaluators import Evaluator, Report
from dlcourse.evaluators.latents import examined, linear, with_latents
from dlcourse.losses import importance_bound
from dlcourse.report.figures import text_page
from dlcourse.task import Latents


def _latents_of_text(task, name: str) -> Latents:
  """Of an autoencoder of text; a `UserError` of any other task."""
  latents = with_latents(task, name, "encode")
  if latents.texts is None:
    raise UserError(f"{name} needs an autoencoder of text, such as AutoencodeText")
  return latents


def texts_of(data: Data, split: str) -> list[str]:
  """The sentences of a split, in its order, as their tokens say them."""
  batches = data.eval_batches(split)
  return [data.spec.decode(row) for batch in batches for row in batch["targets"][batch["mask"] > 0]]


@dataclasses.dataclass(frozen=True)
class SentenceLikelihood(Evaluator):
  """-log p(x) of the test sentences by importance weighting (Burda et al., 2016, arXiv:1509.00519, equation 8).

  Every score is called METRIC/iwK@N, by the draws and the sentences that it was measured with.
  """

  draws: int = 50
  """K, draws of the latents for each sentence."""

  def __post_init__(self) -> None:
    """Refuses to measure nothing."""
    check_at_least(1, {"evaluators….draws": self.draws})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Scalars nll, nats of a sentence, and perplexity, exp of the nats of a token, <eos> counted.

    Raises:
      UserError: the task is no autoencoder of text, or gives NaN.
    """
    latents = _latents_of_text(task, "SentenceLikelihood")

    @jax.jit
    def looked_at(state, key, batch):
      keys = jax.random.split(key, self.draws)
      weights = jax.lax.map(lambda key: latents.log_weight(state, key, batch), keys)  # [K, B]
      return {"nats": -importance_bound(weights), "tokens": batch["target_lengths"]}

    found = examined(looked_at, state, data, "test", key)
    nats, tokens = found["nats"], found["tokens"]
    if not np.isfinite(nats).all():
      raise UserError(
        "the likelihood of a sentence is NaN: training has diverged, or the checkpoint is damaged"
      )
    protocol = f"iw{self.draws}@{len(nats)}"
    perplexity = float(np.exp(nats.sum() / tokens.sum()))
    return Report({f"nll/{protocol}": float(nats.mean()), f"perplexity/{protocol}": perplexity})


@dataclasses.dataclass(frozen=True)
class SentenceInterpolations(Evaluator):
  """The likeliest sentences on the line between the codes of two test sentences (section 4.3; H5.3.2)."""

  pairs: int = 6
  """P, how many pairs, drawn from the test split."""
  steps: int = 7
  """S, sentences from one code to the other, both included."""

  def __post_init__(self) -> None:
    """Refuses an empty page."""
    check_at_least(1, {"evaluators….pairs": self.pairs})
    check_at_least(2, {"evaluators….steps": self.steps})

  def __call__(self, task, state, data: Data, key: jax.Array) -> Report:
    """Table and page sentence_interpolations, a paragraph a pair, and scalars of them all.

    interpolation_distinct is the mean number of different sentences of a pair, 1 where the latents say nothing,
    and interpolation_new the share of the sentences between the ends that the training split does not have.

    Raises:
      UserError: the task is no autoencoder of text, or there are too few test sentences.
    """
    latents = _latents_of_text(task, "SentenceInterpolations")
    encode, write = jax.jit(latents.encode), jax.jit(latents.texts)
    codes = examined(lambda state, _, batch: {"": encode(state, batch)}, state, data, "test", key)[""]
    if len(codes) < 2 * self.pairs:
      raise UserError(f"--evaluators….pairs={self.pairs} needs {2 * self.pairs} test sentences; lower it")
    ends = np.random.default_rng(0).choice(len(codes), (2, self.pairs), replace=False)
    shares = np.linspace(0, 1, self.steps)
    between = linear(*codes[ends], shares).reshape(-1, latents.dim).astype(np.float32)
    written = [data.spec.decode(row) for row in jax.device_get(write(state, between))]
    ways = [written[start : start + self.steps] for start in range(0, len(written), self.steps)]
    known, test, name = set(texts_of(data, "train")), texts_of(data, "test"), "sentence_interpolations"
    inner = [text not in known for way in ways for text in way[1:-1]]
    scalars = {"interpolation_distinct": float(np.mean([len(set(way)) for way in ways]))}
    if inner:
      scalars["interpolation_new"] = float(np.mean(inner))
    rows, pages = [], []
    for first, last, way in zip(*ends, ways, strict=True):
      lines = [f"{share:.2f}  {text}" for share, text in zip(shares, way, strict=True)]
      pages.append("\n".join([f"from  {test[first]}", *lines, f"to    {test[last]}"]))
      rows += [{"share": float(share), "text": text} for share, text in zip(shares, way, strict=True)]
    return Report(scalars, {name: rows}, {name: text_page(pages)})
