"""Two generators that undo each other, where every update can be written down."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse import losses
from dlcourse.data.recipe import Scaling, Spec
from dlcourse.errors import UserError
from dlcourse.models.batch_norm import BatchNorm
from dlcourse.models.unet import PatchDiscriminator, UNet
from dlcourse.optim import Adam, Sgd
from dlcourse.parallel import compile_task, make_mesh
from dlcourse.tasks.cycle import Cycle

RATE, EMA = 0.5, 0.75
RNG = np.random.default_rng(0)
SYMMETRIC = Scaling(np.float32(0.5), np.float32(0.5))


def batch_of(count, masked=1, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.normal(size=(count, 1, 3, 1)).astype(np.float32),
    "source": rng.normal(1, 2, size=(count, 1, 3, 1)).astype(np.float32),
    "mask": (np.arange(count) >= masked).astype(np.float32),
  }


BATCH = batch_of(6)


def spec_of(batch):
  return Spec(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch), scaling=SYMMETRIC)


class Linear(nn.Module):
  """A generator."""

  @nn.compact
  def __call__(self, source, label=None, train=False):
    return nn.Dense(3)(source.reshape(-1, 3)).reshape(-1, 1, 3, 1)


class Times(nn.Module):
  """A generator of one weight."""

  @nn.compact
  def __call__(self, source, label=None, train=False):
    return self.param("factor", nn.initializers.ones, ()) * source


class Normed(nn.Module):
  """A generator that keeps statistics."""

  @nn.compact
  def __call__(self, source, label=None, train=False):
    return BatchNorm(train)(source)


class Judge(nn.Module):
  norm: str = "none"

  @nn.compact
  def __call__(self, x, label=None, train=False, mask=None):
    return nn.Dense(1)(x.reshape(-1, 3))[:, 0]


def build(generator=None, batch=BATCH, **fields):
  recipe = Cycle(
    generator or Linear(), Judge(), Sgd(learning_rate=RATE), Sgd(learning_rate=2 * RATE), EMA, **fields
  )
  task = recipe.build(spec_of(batch), 10)
  return task, jax.jit(task.init)(jax.random.key(0), batch)


def made(params, x):
  return x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


def masked(values):
  return (values * BATCH["mask"]).sum() / BATCH["mask"].sum()


def distance(a, b):
  return masked(jnp.abs(a - b).mean(axis=1))


def descended(params, rate, loss):
  return jax.tree.map(lambda p, slope: p - rate * slope, params, jax.grad(loss)(params))


def test_each_network_descends_its_own_loss_against_the_others_as_they_were():
  task, state = build(loss="non_saturating", cycle=3.0, identity=2.0)
  game, (x, y) = losses.GAMES["non_saturating"], (BATCH[name].reshape(6, 3) for name in ("source", "image"))
  g, d = state.params["generator"], state.params["discriminator"]

  def scores(d, kind, images):
    return made(d[kind], images)[:, 0]

  def of_generators(g):
    to_image, to_source = made(g["image"], x), made(g["source"], y)
    fooled = masked(
      game.generator(scores(d, "image", to_image)) + game.generator(scores(d, "source", to_source))
    )
    back = distance(made(g["source"], to_image), x) + distance(made(g["image"], to_source), y)
    kept = distance(made(g["source"], x), x) + distance(made(g["image"], y), y)
    return fooled + 3 * back + 2 * kept

  def of_discriminators(d):
    real = game.real(scores(d, "image", y), 1.0) + game.real(scores(d, "source", x), 1.0)
    fake = game.fake(scores(d, "image", made(g["image"], x))) + game.fake(
      scores(d, "source", made(g["source"], y))
    )
    return masked(real + fake)

  after, measured = jax.jit(task.train_step)(state, BATCH)
  new = {
    "generator": descended(g, RATE, of_generators),
    "discriminator": descended(d, 2 * RATE, of_discriminators),
  }
  chex.assert_trees_all_close(after.params, new, atol=1e-5)
  average = jax.tree.map(lambda old, new: EMA * old + (1 - EMA) * new, g["image"], new["generator"]["image"])
  chex.assert_trees_all_close(after.model_state["ema"], average, atol=1e-5)
  assert int(after.step) == 1
  assert set(measured) == {"d_loss", "d_real", "d_fake", "g_loss", "cycle", "identity"}
  assert 2 * measured["d_loss"].value() == pytest.approx(
    float(of_discriminators(d)), rel=1e-5
  )  # of two players


def test_the_cycle_loss_of_two_factors_is_how_far_their_product_is_from_one():
  task, state = build(Times(), identity=1.0)
  step = jax.jit(task.train_step)
  sizes = [float(distance(BATCH[name].reshape(6, 3), 0)) for name in ("source", "image")]
  for a, b in ((2.0, 3.0), (-2.0, 0.25), (4.0, 0.25)):
    factors = {"image": {"factor": jnp.float32(a)}, "source": {"factor": jnp.float32(b)}}
    _, measured = step(state.replace(params=state.params | {"generator": factors}), BATCH)
    assert measured["cycle"].value() == pytest.approx(abs(a * b - 1) * sum(sizes) / 2, abs=1e-5)
    kept = abs(b - 1) * sizes[0] + abs(a - 1) * sizes[1]
    assert measured["identity"].value() == pytest.approx(kept / 2, rel=1e-5)


def test_discriminators_that_are_flat_move_while_the_generators_stay():
  task, state = build(cycle=0.0)
  flat = jax.tree.map(jnp.zeros_like, state.params["discriminator"])
  state = state.replace(params=state.params | {"discriminator": flat})
  after, _ = jax.jit(task.train_step)(state, BATCH)
  chex.assert_trees_all_equal(after.params["generator"], state.params["generator"])
  for kind in ("image", "source"):
    assert np.any(after.params["discriminator"][kind]["Dense_0"]["kernel"] != 0)


def test_running_averages_are_those_of_true_inputs():
  task, state = build(Normed())
  after, _ = jax.jit(task.train_step)(state, BATCH)
  for kind, other in (("image", "source"), ("source", "image")):
    (kept,) = (stats["mean"] for stats in after.model_state["generator"][kind]["batch_stats"].values())
    np.testing.assert_allclose(kept, 0.1 * BATCH[other].mean((0, 1, 2)), rtol=1e-4)


def test_eight_devices_learn_what_one_does():
  batch, after = batch_of(16, masked=5), []
  task, _ = build(batch=batch, cycle=0.2, identity=0.1)
  for devices, mode in ((1, "jit"), (8, "jit"), (8, "pmap")):
    program = compile_task(task, spec_of(batch).batch, make_mesh(devices), mode)
    state = program.init(jax.random.key(0))
    for _ in range(2):
      state, _ = program.train_step(state, batch)
    after.append(jax.device_get((state.params, state.model_state)))
  chex.assert_trees_all_close(*after, atol=2e-6)


def test_images_and_their_error_come_from_the_averaged_generator():
  task, state = build()
  average = jax.tree.map(lambda x: x + 1.0, state.params["generator"]["image"])
  state = state.replace(model_state=state.model_state | {"ema": average})
  x, y = (BATCH[name].reshape(6, 3) for name in ("source", "image"))
  images = task.predict(state, jax.random.key(1), BATCH)["image"]
  assert images.shape == BATCH["image"].shape
  np.testing.assert_allclose(images.reshape(6, 3), (made(average, x) + 1) / 2, atol=1e-5)  # back to [0, 1]
  measured = task.eval_step(state, jax.random.key(1), BATCH)
  assert measured["error"].value() == pytest.approx(float(distance(made(average, x), y)), rel=1e-5)
  fake = made(state.params["discriminator"]["image"], made(average, x))[:, 0]
  assert measured["d_fake"].value() == pytest.approx(float(masked(fake)), rel=1e-5)
  assert measured["g_loss"].value() == pytest.approx(float(masked(0.5 * (fake - 1) ** 2)), rel=1e-5)


def test_grey_sources_are_colour_images_of_equal_channels():
  batch = BATCH | {"image": np.zeros((6, 1, 3, 3), np.float32)}
  task, state = build(Times(), batch)
  images = task.predict(state, jax.random.key(0), batch)["image"]
  np.testing.assert_allclose(images, np.repeat((BATCH["source"] + 1) / 2, 3, axis=-1), atol=1e-6)


def test_networks_of_pix2pix_translate_between_grey_and_colour():
  shape = {"image": (2, 8, 8, 3), "source": (2, 8, 8, 1)}
  batch = {name: RNG.uniform(-1, 1, size).astype(np.float32) for name, size in shape.items()}
  batch["mask"] = np.ones(2, np.float32)
  recipe = Cycle(UNet(width=2, depth=2), PatchDiscriminator(width=2, depth=1), Adam(), Adam())
  task = recipe.build(spec_of(batch), 10)
  state = jax.jit(task.init)(jax.random.key(0), batch)
  after, _ = jax.jit(task.train_step)(state, batch)
  chex.assert_tree_all_finite(after.params)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, after)  # donated and scanned: the form may not change
  moved = jax.tree.map(
    lambda a, b: bool(np.any(a != b)), (state.params, state.model_state), (after.params, after.model_state)
  )
  assert all(jax.tree.leaves(moved))
  assert jax.eval_shape(task.predict, after, jax.random.key(0), batch)["image"].shape == shape["image"]


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"cycle": -1.0}, r"--task\.cycle=-1\.0 is too small"),
    ({"identity": -1.0}, r"--task\.identity=-1\.0 is too small"),
    ({"ema_decay": 1.1}, r"--task\.ema_decay=1\.1 has to be at least 0 and below 1"),
    (
      {"loss": "wasserstein"},
      r"needs a critic whose slope is bounded: set --task\.discriminator\.norm=spectral",
    ),
  ],
)
def test_fields_that_make_no_sense_are_refused(fields, said):
  with pytest.raises(UserError, match=said):
    Cycle(Linear(), Judge(), Sgd(), Sgd(), **fields)


@pytest.mark.parametrize(
  ("source", "said"),
  [
    (None, "use data that has a source for each, like ImagePairs"),
    ((4, 4, 3), r"images are \(16, 16, 3\) and their sources \(4, 4, 3\); set --data\.kind=edges or grey"),
    ((16, 16, 2), r"images are \(16, 16, 3\) and their sources \(16, 16, 2\)"),
  ],
)
def test_data_that_cannot_be_translated_both_ways_is_refused(source, said):
  shapes = {"image": (16, 16, 3)} | ({"source": source} if source else {})
  batch = {name: np.zeros((2, *shape), np.uint8) for name, shape in shapes.items()}
  with pytest.raises(UserError, match=said):
    Cycle(Linear(), Judge(), Sgd(), Sgd()).build(spec_of(batch), 10)
