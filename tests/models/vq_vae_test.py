import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.recipe import Spec
from dlcourse.errors import UserError
from dlcourse.models.vae import Inference
from dlcourse.models.vq_vae import CODEBOOK, VQVAE, Codebook, averaged, nearest, straight_through
from dlcourse.optim import Sgd
from dlcourse.parallel import compile_task, make_mesh
from dlcourse.tasks.variational import Autoencode

KEY, RNG = jax.random.key(3), np.random.default_rng(0)
MODEL = VQVAE(num_codes=6, code_dim=3, width=4, image_shape=(8, 8, 1))
X = RNG.uniform(size=(4, 8, 8, 1)).astype(np.float32)
PLACES = RNG.normal(size=(2, 2, 3, 2)).astype(np.float32)  # [B, s, s, D]


def book(learning="average", count=5, revive_after=1_000, decay=0.9):
  model = Codebook(count, 2, learning, decay, 0.25, revive_after)
  return model, model.init(KEY, PLACES, False)


def trained_on(model, variables, x):
  """(what comes out, penalties, variables) of a training step."""
  rest = {name: tree for name, tree in variables.items() if name != "penalties"}
  out, changed = model.apply(rest, x, True, mutable=[CODEBOOK, "penalties"])
  penalties = {name: value[0] for name, value in changed.pop("penalties").items()}
  return out, penalties, {**rest, **changed}


def test_the_nearest_vector_is_that_of_least_distance():
  x, vectors = RNG.normal(size=(50, 4)).astype(np.float32), RNG.normal(size=(9, 4)).astype(np.float32)
  distances = ((x[:, None] - vectors) ** 2).sum(-1)
  np.testing.assert_array_equal(nearest(x, vectors), distances.argmin(1))


def test_the_gradient_of_a_code_goes_to_its_encoding_unchanged():
  x, value, weights = RNG.normal(size=(3, 5, 2)).astype(np.float32)
  np.testing.assert_allclose(straight_through(x, value), value, atol=1e-6)
  grads = jax.grad(lambda x, value: (weights * straight_through(x, value)).sum(), argnums=(0, 1))(x, value)
  np.testing.assert_array_equal(grads[0], weights)
  np.testing.assert_array_equal(grads[1], 0)
  model, variables = book("loss")
  weights = RNG.normal(size=PLACES.shape).astype(np.float32)
  through = jax.grad(lambda x: (weights * model.apply(variables, x, False)).sum())(PLACES)
  np.testing.assert_array_equal(through, weights)


@pytest.mark.parametrize("learning", ["average", "loss"])
def test_penalties_are_squared_distances_each_with_its_own_gradient(learning):
  model, variables = book(learning)
  out, penalties, _ = trained_on(model, variables, PLACES)
  squares = ((PLACES - out) ** 2).sum((1, 2, 3))
  assert set(penalties) == ({"commitment"} if learning == "average" else {"commitment", "codebook"})
  np.testing.assert_allclose(penalties["commitment"], 0.25 * squares, rtol=1e-5)

  def penalty(name):
    return lambda x, params: trained_on(model, {**variables, "params": params}, x)[1][name].sum()

  params = variables.get("params", {})
  of_x, of_params = jax.grad(penalty("commitment"), argnums=(0, 1))(PLACES, params)
  np.testing.assert_allclose(of_x, 0.5 * (PLACES - out), atol=1e-5)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_params))
  if learning == "loss":
    np.testing.assert_allclose(penalties["codebook"], squares, rtol=1e-5)
    of_x, of_params = jax.grad(penalty("codebook"), argnums=(0, 1))(PLACES, params)
    np.testing.assert_array_equal(of_x, 0)
    codes, flat = model.apply(variables, PLACES, method="codes").ravel(), PLACES.reshape(-1, 2)
    vectors = np.asarray(params["vectors"])
    expected = [2 * (vectors[k] - flat[codes == k]).sum(0) for k in range(5)]
    np.testing.assert_allclose(of_params["vectors"], expected, atol=1e-5)


def test_moving_averages_equal_brute_force_over_three_steps():
  """The sums of appendix A.1 as they stand, in float64: N, m and e = m / N."""
  model, variables = book()
  variables = {**variables, CODEBOOK: {**variables[CODEBOOK], "idle": np.zeros(5, np.int32)}}
  vectors = np.asarray(variables[CODEBOOK]["vectors"], np.float64)
  n, m = np.zeros(5), np.zeros((5, 2))
  for step in range(3):
    x = RNG.normal(size=PLACES.shape).astype(np.float32)
    codes = ((x.reshape(-1, 1, 2) - vectors) ** 2).sum(-1).argmin(1)
    for k in range(5):
      own = x.reshape(-1, 2)[codes == k]
      n[k] = 0.9 * n[k] + 0.1 * len(own)
      m[k] = 0.9 * m[k] + 0.1 * own.sum(0)
    variables = trained_on(model, variables, x)[2]
    vectors = np.where(n[:, None] > 0, m / np.maximum(n, 1e-9)[:, None], vectors)
    np.testing.assert_allclose(variables[CODEBOOK]["vectors"], vectors, atol=1e-5, err_msg=f"step {step}")
    np.testing.assert_allclose(variables[CODEBOOK]["counts"], n, atol=1e-6)


def test_a_code_that_was_never_used_stays_where_it_is():
  vectors, zeros = np.ones((2, 3), np.float32), np.zeros(2, np.float32)
  for _ in range(3):
    vectors, zeros = averaged(vectors, zeros, np.zeros((2, 3), np.float32), np.zeros(2, np.float32), 0.9)
  np.testing.assert_array_equal(vectors, np.ones((2, 3)))


@pytest.mark.parametrize("learning", ["average", "loss"])
def test_codes_without_use_are_put_where_an_encoding_is(learning):
  model, variables = book(learning, revive_after=2)
  kept = variables[CODEBOOK]
  start = 100 + np.arange(10, dtype=np.float32).reshape(5, 2)
  start[0] = 0  # the only one within reach
  if learning == "loss":
    variables = {**variables, "params": {"vectors": start}}
  else:
    variables = {**variables, CODEBOOK: {**kept, "vectors": start}}
  variables = {**variables, CODEBOOK: {**variables[CODEBOOK], "idle": np.zeros(5, np.int32)}}

  def vectors():
    return np.asarray(model.apply(variables, method="vectors"))

  variables = trained_on(model, variables, PLACES)[2]
  np.testing.assert_array_equal(vectors()[1:], start[1:])  # not used once
  np.testing.assert_array_equal(variables[CODEBOOK]["idle"], [0, 1, 1, 1, 1])
  variables = trained_on(model, variables, PLACES + 1)[2]
  seen = (PLACES + 1).reshape(-1, 2)
  distance = np.abs(vectors()[1:, None] - seen).max(-1).min(1)
  np.testing.assert_allclose(distance, 0, atol=1e-5)
  assert len(np.unique(vectors()[1:], axis=0)) > 1
  np.testing.assert_array_equal(variables[CODEBOOK]["idle"], 0)
  codes = model.apply(variables, PLACES + 1, method="codes")
  assert len(np.unique(codes)) > 1


def test_evaluation_changes_nothing_and_the_first_step_begins_with_encodings():
  model, variables = book()
  _, changed = model.apply(variables, PLACES, False, mutable=[CODEBOOK])
  chex.assert_trees_all_equal(changed[CODEBOOK], variables[CODEBOOK])
  far = PLACES + 50  # one vector takes all, and every other one is put among them
  after = trained_on(model, variables, far)[2][CODEBOOK]["vectors"]
  assert np.all(np.abs(after - 50) < 10)


@pytest.fixture(scope="module")
def variables():
  return jax.jit(MODEL.init)(KEY, X, KEY)


def test_images_codes_and_vectors_agree(variables):
  outputs, latents, code = MODEL.apply(variables, X, KEY)
  codes = MODEL.apply(variables, X, method="codes")
  assert latents == ()
  assert codes.shape == (4, 2, 2)
  assert codes.dtype == jnp.int32
  vectors = np.asarray(variables[CODEBOOK]["codebook"]["vectors"])
  np.testing.assert_allclose(code, vectors[codes].reshape(4, 12), atol=1e-6)
  np.testing.assert_array_equal(MODEL.apply(variables, X, method="encode"), vectors[codes].reshape(4, 12))
  for made in (
    MODEL.apply(variables, code, method="decode"),
    MODEL.apply(variables, codes, method="decode_codes"),
  ):
    np.testing.assert_allclose(made, outputs, atol=1e-5)


def test_the_loss_reaches_the_encoder_through_the_codes(variables):
  rest = {name: tree for name, tree in variables.items() if name not in ("params", "penalties")}

  def loss(params):
    return jnp.square(MODEL.apply({"params": params, **rest}, X, KEY).outputs).sum()

  grads = jax.jit(jax.grad(loss))(variables["params"])
  assert all(np.any(leaf) for leaf in jax.tree.leaves(grads["down_0"]))
  assert all(np.any(leaf) for leaf in jax.tree.leaves(grads["from_code"]))


def spec_of(batch):
  def prepare(key, batch):
    return {**batch, "image": batch["image"].astype(jnp.float32) / 255}

  return Spec(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch), prepare=prepare)


class Dense(nn.Module):
  """The least autoencoder with a codebook: what has no convolution compiles fast."""

  learning: str

  @nn.compact
  def __call__(self, x, key, label=None, train=False):
    places = nn.Dense(8)(x.reshape(len(x), -1)).reshape(len(x), 2, 2, 2)
    chosen = Codebook(12, 2, self.learning, 0.9, 0.25, 1)(places, train).reshape(len(x), -1)
    return Inference(nn.Dense(4)(chosen).reshape(x.shape), (), chosen)


@pytest.mark.parametrize("learning", ["average", "loss"])
def test_eight_devices_learn_what_one_does_and_revive_the_same_codes(learning):
  batch = {
    "image": RNG.integers(0, 256, size=(16, 2, 2, 1)).astype(np.uint8),
    "mask": np.ones(16, np.float32),
  }
  task = Autoencode(Dense(learning), Sgd(learning_rate=1e-2)).build(spec_of(batch), 10)
  after = []
  for devices, mode in ((1, "jit"), (8, "jit"), (8, "pmap")):
    program = compile_task(task, spec_of(batch).batch, make_mesh(devices), mode)
    state = program.init(jax.random.key(0))
    before = jax.device_get(state.model_state[CODEBOOK]["Codebook_0"])
    for _ in range(3):
      state, measured = program.train_step(state, batch)
    after.append(jax.device_get((state.params, state.model_state, measured)))
  for other in after[1:]:
    chex.assert_trees_all_close(after[0], other, atol=2e-6, rtol=2e-6)
  kept = after[0][1][CODEBOOK]["Codebook_0"]
  name = "vectors" if learning == "average" else "shift"
  assert np.any(before[name] != kept[name], axis=1).sum() > 6  # a loss leaves in place what was always used
  assert kept["steps"] == 3


def test_parameters_at_28_pixels():
  model, x = VQVAE(image_shape=(28, 28, 1)), np.zeros((1, 28, 28, 1), np.float32)
  block = 9 * 64 * 64 + 64 + 64 * 64 + 64
  down = 16 * 64 + 64 + 16 * 64 * 64 + 64 + 2 * block + 65 * 16
  up = 9 * 16 * 64 + 64 + 2 * block + 16 * 64 * 64 + 64 + 16 * 64 + 1
  for learning, vectors in (("average", 0), ("loss", 128 * 16)):
    params = jax.eval_shape(model.clone(learning=learning).init, KEY, x, KEY)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == down + up + vectors


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"num_codes": 1}, r"--task\.model\.num_codes=1 is too small"),
    ({"revive_after": 0}, r"--task\.model\.revive_after=0 is too small"),
    ({"decay": 1.0}, r"--task\.model\.decay=1\.0 has to be at least 0 and below 1"),
    ({"commitment": -1.0}, r"--task\.model\.commitment=-1\.0 is too small"),
  ],
  ids=str,
)
def test_a_field_that_makes_no_codebook_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    VQVAE(**fields)


def test_images_that_do_not_halve_twice_are_refused():
  model = VQVAE(image_shape=(30, 30, 1))
  with pytest.raises(UserError, match=r"--data\.size=30 has to be a multiple of 4"):
    jax.eval_shape(model.init, KEY, np.zeros((1, 30, 30, 1)), KEY)
