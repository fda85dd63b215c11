"""What the tests of convolutional networks share: shapes, counts, plausible variables, one step of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Programs that run once: compiling them is what takes the time.
once = functools.partial(
  jax.jit,
  compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False},
)


def count(tree):
  """Numbers in a tree of arrays or shapes."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(model, side):
  """The variables of a model for colour images of this side, by shape alone."""
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


def maps_of(model, side):
  """Name of a feature map -> its shape without the batch."""
  images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  maps, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, features=True), images)
  return {name: leaf.shape[1:] for name, leaf in maps.items()}


def variables_of(model, x):
  """Plausible variables, without the seconds that XLA takes to compile their initialisation."""
  rng = np.random.default_rng(0)

  def fill(leaf):
    if len(leaf.shape) > 1:
      return rng.normal(scale=(2 / np.prod(leaf.shape[:-1])) ** 0.5, size=leaf.shape).astype(np.float32)
    return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)  # variances are positive

  return jax.tree.map(fill, jax.eval_shape(model.init, jax.random.key(0), x))


def gradients_of(model, x, auxiliary_weight=0.0):
  """The gradient of the mean square of the logits in training, and of what the model sows as "aux"."""
  variables = variables_of(model, x)
  rest = {name: value for name, value in variables.items() if name != "params"}

  @once
  @jax.grad
  def gradient(params):
    rngs = {"dropout": jax.random.key(2)}
    logits, state = model.apply({"params": params, **rest}, x, train=True, mutable=[*rest, "aux"], rngs=rngs)
    auxiliary = sum((sown**2).mean() for sown in jax.tree.leaves(state.get("aux", {})))
    return (logits**2).mean() + auxiliary_weight * auxiliary

  return gradient(variables["params"])


def assert_reach(gradients, layers):
  """Gradients are finite everywhere, and none of these layers has an array without one."""
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  for name in layers:
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients[name])), name


def random_bytes(shapes):
  """Arrays of these shapes in which every position is its own: as good as floats to compare, and smaller."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.integers(0, 256, leaf.shape, np.uint8), shapes)
