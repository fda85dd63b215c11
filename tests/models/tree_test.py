import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.errors import UserError
from dlcourse.models.tree import TreeClassifier

V, D, H, C, K = 6, 3, 4, 2, 3
RNG = np.random.default_rng(0)
#     4        2          5
#   / | \      |
#  1  3  0     0
#     | \
#     2  5
TREES = [
  ([1, 2, 5, 3, 0, 4], [(), (), (), (1, 2), (), (0, 3, 4)]),
  ([0, 2], [(), (0,)]),
  ([5], [()]),
]


def padded(trees, width, filler=0):
  nodes = np.full((len(trees), width), filler, np.int32)
  children = np.full((len(trees), width, K), -1, np.int32)
  for row, (symbols, below) in enumerate(trees):
    nodes[row, : len(symbols)] = symbols
    for node, places in enumerate(below):
      children[row, node, : len(places)] = places
  return nodes, children, np.array([len(symbols) for symbols, _ in trees], np.int32)


@functools.cache
def network(cell):
  model = TreeClassifier(cell, D, H, vocab_size=V, num_classes=C)
  shapes = jax.eval_shape(model.init, jax.random.key(0), *padded(TREES, 6))
  return model, jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape), jnp.float32), shapes)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def dense(p, x):
  return x @ p["kernel"] + p.get("bias", 0.0)


def by_recursion(cell, p, tree, node):
  """h, memory of a node from those of its children, computed when they are needed."""
  symbols, below = tree
  h, memory = np.zeros((K, H)), np.zeros((K, H))
  for slot, child in enumerate(below[node]):
    h[slot], memory[slot] = by_recursion(cell, p, tree, child)
  x, c = p["embed"]["embedding"][symbols[node]], p["cell"]
  if cell == "rnn":
    u = c["recurrent"]["kernel"].reshape(K, H, H)
    return np.tanh(dense(c["input"], x) + sum(h[k] @ u[k] for k in range(K))), np.zeros(H)
  i, o, u = np.split(dense(c["input"], x) + dense(c["recurrent"], h.ravel()), 3)
  matrices = c["forget_recurrent"]["kernel"].reshape(K, H, K, H)  # from child l to the gate of child k
  forget = [
    sigmoid(dense(c["forget_input"], x) + sum(h[l] @ matrices[l, :, k] for l in range(K))) for k in range(K)
  ]
  new = sigmoid(i) * np.tanh(u) + sum(forget[k] * memory[k] for k in range(K))
  return sigmoid(o) * np.tanh(new), new


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_scan_equals_plain_recursion(cell):
  model, variables = network(cell)
  logits = model.apply(variables, *padded(TREES, 6))
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
  for row, tree in enumerate(TREES):
    h, _ = by_recursion(cell, p, tree, len(tree[0]) - 1)
    np.testing.assert_allclose(logits[row], dense(p["output"], h), atol=1e-5)


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_padding_changes_neither_answer_nor_gradient(cell):
  model, variables = network(cell)

  def loss(variables, width, filler):
    logits = model.apply(variables, *padded(TREES, width, filler))
    return jnp.sum(logits**2), logits

  a, b = (jax.grad(loss, has_aux=True)(variables, *case) for case in ((6, 0), (9, 3)))
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_the_order_of_children_matters(cell):
  model, variables = network(cell)
  turned = [(TREES[0][0], [(), (), (), (2, 1), (), (0, 3, 4)])]
  before, after = (model.apply(variables, *padded(trees, 6)) for trees in (TREES[:1], turned))
  assert np.abs(before - after).max() > 1e-3


def test_forget_gates_begin_open():
  model = TreeClassifier("lstm", D, H, vocab_size=V, num_classes=C)
  params = model.init(jax.random.key(0), *padded(TREES, 6))["params"]
  assert (params["cell"]["forget_input"]["bias"] == 1).all()
  assert not np.any(params["cell"]["input"]["bias"])


@pytest.mark.parametrize(("field", "value"), [("embed_dim", 0), ("hidden_dim", 0), ("dropout", 1.0)])
def test_a_field_that_makes_no_network_is_refused(field, value):
  with pytest.raises(UserError, match=f"--task.model.{field}={value} (is|has)"):
    TreeClassifier(**{field: value})
