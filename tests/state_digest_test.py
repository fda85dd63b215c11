import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dlcourse.parallel import make_mesh
from dlcourse.state_digest import state_digest

RNG = np.random.default_rng(0)
TREE = {
  "w": RNG.normal(size=(16, 6, 3)).astype(np.float32),
  "half": RNG.normal(size=(8,)).astype(jnp.bfloat16),
  "flags": np.array([True, False, True]),
  "rng": np.array([3, 4], np.uint32),
  "step": np.int32(7),
  "empty": np.zeros((0, 4), np.float32),
}


def on_device(tree):
  return jax.tree.map(jnp.asarray, tree)


@pytest.mark.parametrize("spec", [PartitionSpec("data"), PartitionSpec(), PartitionSpec(None, None, None)])
def test_it_does_not_depend_on_where_the_parts_are(spec):
  spread = on_device(TREE) | {"w": jax.device_put(TREE["w"], NamedSharding(make_mesh(8), spec))}
  assert state_digest(spread) == state_digest(on_device(TREE))


def test_every_bit_of_every_array_counts():
  digest, known = state_digest(on_device(TREE)), set()
  for name in ("w", "half", "rng", "step"):
    bits = np.atleast_1d(TREE[name]).view(np.uint8).copy()
    for place in RNG.integers(bits.size * 8, size=20):
      flipped = bits.copy()
      flipped.flat[place // 8] ^= np.uint8(1 << place % 8)
      array = flipped.view(np.asarray(TREE[name]).dtype).reshape(np.shape(TREE[name]))
      known.add(state_digest(on_device(TREE | {name: array})) == digest)
  known.add(state_digest(on_device(TREE | {"flags": np.array([True, True, True])})) == digest)
  assert known == {False}


def test_elements_that_change_places_and_arrays_of_another_name_or_shape_count():
  digest = state_digest(on_device(TREE))
  swapped = TREE["w"].copy()
  swapped[0, 0, :2] = swapped[0, 0, 1::-1]
  for other in (
    TREE | {"w": swapped},
    TREE | {"w": TREE["w"].reshape(6, 16, 3)},
    {**{name: array for name, array in TREE.items() if name != "w"}, "v": TREE["w"]},
    TREE | {"empty": np.zeros((0, 5), np.float32)},
  ):
    assert state_digest(on_device(other)) != digest
