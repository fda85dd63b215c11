"""The game with two linear networks, where every update can be written down."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse.data.recipe import Scaling, Spec
from dlcourse.errors import UserError
from dlcourse.models.dcgan import Discriminator, Generator
from dlcourse.optim import Adam, Sgd
from dlcourse.task import step_key
from dlcourse.tasks.adversarial import Compete

RATE, EMA = 0.5, 0.75
RNG = np.random.default_rng(0)
BATCH = {
  "image": RNG.normal(size=(6, 1, 3, 1)).astype(np.float32),
  "mask": np.array([1, 1, 1, 1, 1, 0], np.float32),
}
SPEC = Spec(
  jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), BATCH),
  scaling=Scaling(np.float32(0.5), np.float32(0.5)),
)


class LinearGenerator(nn.Module):
  latent_dim: int = 2

  @nn.compact
  def __call__(self, z, train=False):
    return nn.Dense(3)(z).reshape(-1, 1, 3, 1)


class LinearDiscriminator(nn.Module):
  @nn.compact
  def __call__(self, x, train=False, mask=None):
    return nn.Dense(1)(x.reshape(-1, 3))[:, 0]


def build(**fields):
  recipe = Compete(
    LinearGenerator(),
    LinearDiscriminator(),
    Sgd(learning_rate=RATE),
    Sgd(learning_rate=2 * RATE),
    EMA,
    **fields,
  )
  task = recipe.build(SPEC, 10)
  return task, jax.jit(task.init)(jax.random.key(0), BATCH)


def images(params, z):
  return z @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


def logits(params, x):
  return (x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])[:, 0]


def nats(logits, label):
  return label * jnp.logaddexp(0, -logits) + (1 - label) * jnp.logaddexp(0, logits)


def masked(values):
  return (values * BATCH["mask"]).sum() / 5


@pytest.mark.parametrize("label", [1.0, 0.9])
def test_a_step_updates_the_discriminator_then_the_generator_against_the_new_one(label):
  task, state = build(real_label=label)
  _, latent_key = jax.random.split(step_key(state))
  z = jax.random.normal(latent_key, (6, 2))  # one batch of fakes serves both updates
  g, d = state.params["generator"], state.params["discriminator"]
  real = BATCH["image"].reshape(6, 3)

  d_grad = jax.grad(lambda d: masked(nats(logits(d, real), label) + nats(logits(d, images(g, z)), 0.0)))(d)
  new_d = jax.tree.map(lambda p, slope: p - 2 * RATE * slope, d, d_grad)
  g_grad = jax.grad(lambda g: masked(-jax.nn.log_sigmoid(logits(new_d, images(g, z)))))(g)
  new_g = jax.tree.map(lambda p, slope: p - RATE * slope, g, g_grad)

  after, measured = jax.jit(task.train_step)(state, BATCH)
  chex.assert_trees_all_close(after.params, {"generator": new_g, "discriminator": new_d}, atol=1e-5)
  average = jax.tree.map(lambda old, new: EMA * old + (1 - EMA) * new, g, new_g)
  chex.assert_trees_all_close(after.model_state["ema"], average, atol=1e-5)
  assert int(after.step) == 1
  assert set(measured) == {"d_loss", "d_real", "d_fake", "g_loss"}
  assert measured["d_real"].value() == pytest.approx(float(masked(jax.nn.sigmoid(logits(d, real)))), rel=1e-5)


def test_samples_and_scores_come_from_the_averaged_generator():
  task, state = build()
  average = jax.tree.map(lambda x: x + 1.0, state.params["generator"])
  state = state.replace(model_state={**state.model_state, "ema": average})
  key = jax.random.key(3)
  made = task.generate(state, key, {"index": np.arange(4)})["image"]
  expected = images(average, jax.random.normal(key, (4, 2)))
  np.testing.assert_allclose(made.reshape(4, 3), (expected + 1) / 2, atol=1e-5)  # [-1, 1] back to [0, 1]

  measured = task.eval_step(state, key, BATCH)
  d = state.params["discriminator"]
  fake = logits(d, images(average, jax.random.normal(key, (6, 2))))
  real = logits(d, BATCH["image"].reshape(6, 3))
  assert measured["d_loss"].value() == pytest.approx(float(masked(nats(real, 1.0) + nats(fake, 0.0))), rel=1e-5)
  assert measured["g_loss"].value() == pytest.approx(float(masked(nats(fake, 1.0))), rel=1e-5)
  assert measured["d_fake"].value() == pytest.approx(float(masked(jax.nn.sigmoid(fake))), rel=1e-5)
  np.testing.assert_allclose(task.predict(state, key, BATCH), jax.nn.sigmoid(real), atol=1e-6)


def test_the_average_starts_at_the_first_weights():
  _, state = build()
  chex.assert_trees_all_equal(state.model_state["ema"], state.params["generator"])


def test_dcgan_takes_a_finite_step_and_keeps_both_networks_statistics():
  shape = {"image": (4, 8, 8, 1), "mask": (4,)}
  batch = {name: RNG.uniform(size=size).astype(np.float32) for name, size in shape.items()}
  spec = Spec(
    jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch),
    scaling=Scaling(np.float32(0.5), np.float32(0.5)),
  )
  adam = Adam(learning_rate=1e-3, b1=0.5)
  task = Compete(Generator(latent_dim=2, width=2), Discriminator(width=2), adam, adam).build(spec, 10)
  state = jax.jit(task.init)(jax.random.key(0), batch)
  after, _ = jax.jit(task.train_step)(state, batch)
  chex.assert_tree_all_finite(after.params)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, after)  # donated and scanned: the form may not change
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, after.params)
  assert all(jax.tree.leaves(moved))
  before, now = (s.model_state["generator"]["batch_stats"] for s in (state, after))
  assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(now), strict=True))


def test_padding_changes_no_metric_of_an_evaluation_by_batch_statistics():
  images = RNG.uniform(-1, 1, size=(4, 8, 8, 1)).astype(np.float32)
  batch = {"image": images, "mask": np.ones(4, np.float32)}
  padded = {"image": np.concatenate([images, np.full_like(images, 7)]), "mask": np.repeat([1.0, 0.0], 4)}
  spec = Spec({}, scaling=Scaling(np.float32(0.5), np.float32(0.5)))
  model = Generator(latent_dim=2, width=2, image_shape=(8, 8, 1)), Discriminator(width=2)
  task = Compete(*model, Adam(), Adam()).build(spec, 10)
  state = task.init(jax.random.key(0), batch)
  short, long = (task.eval_step(state, jax.random.key(1), b)["d_real"].value() for b in (batch, padded))
  assert short == pytest.approx(long, rel=1e-5)


@pytest.mark.parametrize("field", ["ema_decay", "real_label"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused(field, value):
  with pytest.raises(UserError, match=f"--task.{field}={value} has to be between 0 and 1"):
    Compete(LinearGenerator(), LinearDiscriminator(), Sgd(), Sgd(), **{field: value})
