"""Masked-language modelling: words from what stands on both sides of them (Devlin et al., 2019; H3.12.4)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlcourse import metrics
from dlcourse.data.recipe import Spec
from dlcourse.data.tokens import BOS
from dlcourse.errors import UserError, check_between
from dlcourse.optim import Optimizer
from dlcourse.task import Task, TaskRecipe, complete
from dlcourse.tasks.supervised import cross_entropy, inputs_of, supervised

_MASK, _NEVER = "[MASK]", ("[PAD]", "[CLS]", "[SEP]", "<pad>")


@dataclasses.dataclass(frozen=True)
class MaskLanguage(TaskRecipe):
  """Names tokens that were hidden (Devlin et al., 2019, section 3.1); labels of the data are of no concern.

  Of the chosen tokens 80 % are replaced by the mask, 10 % by any token, 10 % stay. `predict` gives
  probabilities [B, T, V]; evaluation hides the same places every time.
  """

  model: nn.Module
  """The network: tokens [B, T] and their lengths to logits [B, T, V]."""
  optimizer: Optimizer
  """How it is trained."""
  share: float = 0.15
  """Probability that a token is chosen."""

  def __post_init__(self) -> None:
    """Refuses to choose no token, or more than all."""
    check_between(1e-3, 1, {"task.share": self.share})

  def build(self, spec: Spec, steps: int) -> Task:
    """Cross-entropy of the chosen tokens, in nats.

    Raises:
      UserError: the data has no tokens on whose both sides something stands.
    """
    if not spec.vocabulary or "inputs" not in spec.batch or spec.batch["inputs"].ndim != 2:
      raise UserError("MaskLanguage needs sentences of tokens, such as --data.source=imdb of Sentences")

    def prepare(key, batch):
      batch = spec.prepare(key, batch)
      key = jax.random.key(0) if key is None else key
      hidden, chosen = hide(key, batch["inputs"], batch["lengths"], spec.vocabulary, self.share)
      counts = chosen * batch["mask"][:, None]
      return {**batch, "inputs": hidden, "targets": batch["inputs"], "mask": counts}

    def call(module, carry, batch, train):
      return carry, module(*inputs_of(batch), train=train)

    def objective(logits, batch):
      total, weight, measured = cross_entropy(logits, batch["targets"], batch["mask"])
      return total, weight, measured | {"perplexity": metrics.Perplexity(total, weight)}

    model, optimizer = complete(self.model, spec), self.optimizer.build(steps)
    return supervised(model, call, objective, jax.nn.softmax, optimizer, prepare)


def hide(
  key: jax.Array, tokens: jax.Array, lengths: jax.Array, vocabulary: tuple[str, ...], share: float
) -> tuple[jax.Array, jax.Array]:
  """Replaces some tokens.

  Args:
    key: of all draws.
    tokens: [B, T] int.
    lengths: [B] int; nothing is hidden after the end.
    vocabulary: all tokens; [PAD], [CLS] and [SEP] are never hidden. Without a "[MASK]", <bos> stands for it,
      with which no sentence begins.
    share: probability that a token is chosen.

  Returns:
    The tokens as the network sees them, and [B, T] bool, which were chosen.
  """
  mask = vocabulary.index(_MASK) if _MASK in vocabulary else BOS
  kept = jnp.array([token in _NEVER for token in vocabulary])[tokens]
  choose, how, which = jax.random.split(key, 3)
  inside = jnp.arange(tokens.shape[1]) < lengths[:, None]
  chosen = (jax.random.uniform(choose, tokens.shape) < share) & inside & ~kept
  part = jax.random.uniform(how, tokens.shape)
  other = jax.random.randint(which, tokens.shape, 0, len(vocabulary))
  replaced = jnp.where(part < 0.8, mask, jnp.where(part < 0.9, other, tokens))
  return jnp.where(chosen, replaced, tokens), chosen
