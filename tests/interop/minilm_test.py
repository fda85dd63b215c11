"""A published encoder of sentences: what means the same lies close, as exactly as in `transformers`."""

import functools
import importlib

import jax
import numpy as np
import pytest
from networks import once

from dlcourse.data.archives import fetch
from dlcourse.data.ragged import side_by_side
from dlcourse.data.wordpiece import pretrained
from dlcourse.interop.weights import fill_model, read_weights
from dlcourse.models.bert import BERT, mean_of

pytestmark = pytest.mark.data

PAIRS = (
  ("A man is playing a guitar.", "Someone is strumming a guitar."),
  ("The film was a waste of time.", "I regret having watched this movie."),
  ("How do I reset my password?", "What can I do if I forgot my password?"),
  ("Interest rates rose again this month.", "The central bank has raised rates once more."),
)
SENTENCES = [sentence for pair in PAIRS for sentence in pair]
MODEL = BERT["minilm"].clone(vocab_size=30_522)


@functools.cache
def arrays():
  (path,) = fetch("minilm").iterdir()
  return read_weights(path)


@functools.cache
def inputs():
  tokenizer = pretrained("minilm")
  return side_by_side([tokenizer.encode(sentence) for sentence in SENTENCES])


@functools.cache
def embedded():
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), *inputs())
  variables = fill_model(MODEL, shapes, arrays(), "model.safetensors")

  @once
  def embed(variables, tokens, lengths):
    return mean_of(MODEL.apply(variables, tokens, lengths), lengths)

  return np.asarray(embed(variables, *inputs()))


def cosines(x):
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  return x @ x.T


def test_paraphrases_are_nearer_than_all_other_sentences():
  found = cosines(embedded())
  pair = np.arange(len(SENTENCES)) // 2
  same = (pair[:, None] == pair) & ~np.eye(len(SENTENCES), dtype=bool)
  other = pair[:, None] != pair
  assert found[same].min() > found[other].max() + 0.2


@pytest.mark.parity
def test_cosines_are_those_of_transformers():
  torch = importlib.import_module("torch")
  bert = importlib.import_module("transformers.models.bert.modeling_bert").BertModel
  configuration = importlib.import_module("transformers.models.bert").BertConfig(
    hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
  )
  network = bert(configuration).eval()
  state = {name: torch.tensor(array) for name, array in arrays().items() if name != "embeddings.position_ids"}
  network.load_state_dict(state)
  tokens, lengths = inputs()
  mask = torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]
  with torch.no_grad():
    hidden = network(torch.tensor(tokens), attention_mask=mask).last_hidden_state
  theirs = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
  np.testing.assert_allclose(embedded(), theirs, rtol=0, atol=1e-5)
  np.testing.assert_allclose(cosines(embedded()), cosines(theirs), rtol=0, atol=1e-5)
