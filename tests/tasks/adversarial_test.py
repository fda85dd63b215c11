"""The game with two linear networks, where every update can be written down."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcourse import losses
from dlcourse.data.augment import Flip
from dlcourse.data.recipe import Scaling, Spec
from dlcourse.errors import UserError
from dlcourse.models.dcgan import Discriminator, Generator
from dlcourse.optim import Adam, Sgd
from dlcourse.parallel import compile_task, make_mesh
from dlcourse.task import TrainState, step_key
from dlcourse.tasks.adversarial import Compete

RATE, EMA = 0.5, 0.75
RNG = np.random.default_rng(0)
BATCH = {
  "image": RNG.normal(size=(6, 1, 3, 1)).astype(np.float32),
  "label": np.array([0, 1, 2, 0, 1, 2], np.int32),
  "mask": np.array([1, 1, 1, 1, 1, 0], np.float32),
}
SYMMETRIC = Scaling(np.float32(0.5), np.float32(0.5))


def spec_of(batch, **fields):
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
  return Spec(shapes, scaling=SYMMETRIC, **fields)


class LinearGenerator(nn.Module):
  latent_dim: int = 2

  @nn.compact
  def __call__(self, z, label=None, train=False):
    return nn.Dense(3)(z).reshape(-1, 1, 3, 1)


class LinearDiscriminator(nn.Module):
  norm: str = "none"

  @nn.compact
  def __call__(self, x, label=None, train=False, mask=None):
    x = x.reshape(-1, 3)
    self.sow("intermediates", "features", x**2)
    return nn.Dense(1)(x)[:, 0]


class Constant(nn.Module):
  """A generator that does not look at its latents: all modes of parallelism then make the same fakes."""

  latent_dim: int = 2

  @nn.compact
  def __call__(self, z, label=None, train=False):
    made = self.param("image", nn.initializers.normal(), (1, 3, 1))
    return jnp.broadcast_to(made, (len(z), 1, 3, 1))


def build(generator=None, batch=BATCH, **fields):
  generator = generator or LinearGenerator()
  recipe = Compete(
    generator, LinearDiscriminator(), Sgd(learning_rate=RATE), Sgd(learning_rate=2 * RATE), EMA, **fields
  )
  task = recipe.build(spec_of(batch), 10)
  return task, jax.jit(task.init)(jax.random.key(0), batch)


def images(params, z):
  return z @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


def logits(params, x):
  return (x.reshape(-1, 3) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])[:, 0]


def latents(state, count, steps=1, part=0):
  """What a training step draws, by its convention of keys."""
  _, draw_key = jax.random.split(step_key(state))
  z_key, _ = jax.random.split(jax.random.split(draw_key, steps)[part])
  return jax.random.normal(z_key, (count, 2))


def masked(values, mask=BATCH["mask"]):
  return (values * mask).sum() / mask.sum()


def descended(params, rate, loss):
  return jax.tree.map(lambda p, slope: p - rate * slope, params, jax.grad(loss)(params))


@pytest.mark.parametrize(("loss", "label"), [*((name, 1.0) for name in losses.GAMES), ("non_saturating", 0.9)])
def test_a_step_updates_the_discriminator_then_the_generator_against_the_new_one(loss, label):
  bound = {"clip": 10.0} if loss == "wasserstein" else {}
  task, state = build(real_label=label, loss=loss, **bound)
  game, z = losses.GAMES[loss], latents(state, 6)  # one batch of fakes serves both updates
  g, d = state.params["generator"], state.params["discriminator"]
  real = BATCH["image"]
  new_d = descended(
    d, 2 * RATE, lambda d: masked(game.real(logits(d, real), label) + game.fake(logits(d, images(g, z))))
  )
  new_g = descended(g, RATE, lambda g: masked(game.generator(logits(new_d, images(g, z)))))

  after, measured = jax.jit(task.train_step)(state, BATCH)
  chex.assert_trees_all_close(after.params, {"generator": new_g, "discriminator": new_d}, atol=1e-5)
  average = jax.tree.map(lambda old, new: EMA * old + (1 - EMA) * new, g, new_g)
  chex.assert_trees_all_close(after.model_state["ema"], average, atol=1e-5)
  assert int(after.step) == 1
  assert set(measured) == {"d_loss", "d_real", "d_fake", "g_loss"}
  assert measured["d_real"].value() == pytest.approx(float(masked(game.score(logits(d, real)))), rel=1e-5)


def test_each_update_of_the_critic_has_its_share_of_the_batch_and_fakes_of_its_own():
  task, state = build(critic_steps=2)
  g, d = state.params["generator"], state.params["discriminator"]
  game = losses.GAMES["non_saturating"]
  for part in range(2):
    real, mask, z = BATCH["image"][part::2], BATCH["mask"][part::2], latents(state, 3, 2, part)

    def loss(d, real=real, mask=mask, z=z):
      return masked(game.real(logits(d, real), 1.0) + game.fake(logits(d, images(g, z))), mask)

    d = descended(d, 2 * RATE, loss)
  g = descended(g, RATE, lambda g: masked(game.generator(logits(d, images(g, z))), mask))
  after, measured = jax.jit(task.train_step)(state, BATCH)
  chex.assert_trees_all_close(after.params, {"generator": g, "discriminator": d}, atol=1e-5)
  assert measured["d_loss"].weight == 5
  assert measured["g_loss"].weight == 2


def test_penalties_of_a_linear_critic_are_those_of_its_weights():
  task, state = build(gradient_penalty=10.0, r1=4.0)
  _, measured = jax.jit(task.train_step)(state, BATCH)
  norm = float(jnp.linalg.norm(state.params["discriminator"]["Dense_0"]["kernel"]))
  assert measured["penalty"].value() == pytest.approx(10 * (norm - 1) ** 2 + 2 * norm**2, rel=1e-5)


def test_a_penalty_moves_the_weights_by_its_own_slope():
  (plain, state), (task, _) = build(), build(r1=4.0)
  without, _ = jax.jit(plain.train_step)(state, BATCH)
  after, _ = jax.jit(task.train_step)(state, BATCH)
  kernel = state.params["discriminator"]["Dense_0"]["kernel"]
  moved = (
    after.params["discriminator"]["Dense_0"]["kernel"] - without.params["discriminator"]["Dense_0"]["kernel"]
  )
  np.testing.assert_allclose(moved, -2 * RATE * 4.0 * kernel, atol=1e-5)  # of γ ||w||² / 2


def test_a_lazy_penalty_comes_at_every_so_manieth_step_so_many_times_as_hard():
  (always, state), (lazy, _) = build(r1=4.0), build(r1=4.0, penalty_every=3)
  step = jax.jit(lazy.train_step)
  expected = jax.jit(always.train_step)(state, BATCH)[1]["penalty"].value()
  found = [step(state.replace(step=jnp.int32(i)), BATCH)[1]["penalty"].value() for i in range(4)]
  np.testing.assert_allclose(found, [3 * expected, 0, 0, 3 * expected], rtol=1e-5)


def test_clipping_bounds_every_weight_of_the_critic_and_none_of_the_generator():
  task, state = build(loss="wasserstein", clip=0.01)
  after, _ = jax.jit(task.train_step)(state, BATCH)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(after.params["discriminator"])) <= 0.01
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(after.params["generator"])) > 0.01


def test_feature_matching_replaces_the_loss_of_the_generator():
  task, state = build(feature_matching=3.0)
  z, g = latents(state, 6), state.params["generator"]

  def matching(g):
    difference = (BATCH["image"].reshape(6, 3) ** 2 - images(g, z) ** 2)[:5].mean(axis=0)  # the sixth is masked
    return 3 * (difference**2).sum()

  after, measured = jax.jit(task.train_step)(state, BATCH)
  chex.assert_trees_all_close(after.params["generator"], descended(g, RATE, matching), rtol=1e-4)
  assert measured["matching"].value() == pytest.approx(float(matching(g)), rel=1e-5)


def test_augmentation_changes_what_the_discriminator_sees_of_both_and_not_the_samples():
  real = np.zeros((64, 1, 3, 1), np.float32)
  real[:, :, 0] = 1  # the left pixel; mirrored, the right one
  batch = {"image": real, "label": np.zeros(64, np.int32), "mask": np.ones(64, np.float32)}
  (plain, state), (task, _) = (build(batch=batch, augment=augment) for augment in ((), (Flip(),)))
  kernel = jnp.array([[1.0], [0.0], [-1.0]])
  d = {"Dense_0": {"kernel": kernel, "bias": jnp.zeros(1)}}
  state = state.replace(params={**state.params, "discriminator": d})
  seen, measured = (jax.jit(t.train_step)(state, batch)[1] for t in (plain, task))
  sure, half = (m["d_real"].value() for m in (seen, measured))
  assert sure == pytest.approx(float(jax.nn.sigmoid(1.0)), rel=1e-5)
  assert 0.4 < half < 0.6  # of which about a half is mirrored, and says -1
  assert seen["d_fake"].value() != measured["d_fake"].value()
  made = [
    t.generate(state, jax.random.key(1), {"index": np.arange(3), "temperature": np.ones(3)})["image"]
    for t in (plain, task)
  ]
  np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"critic_steps": 2, "r1": 1.0},
    {"feature_matching": 1.0},
    {"loss": "wasserstein", "gradient_penalty": 1.0},
  ],
  ids=lambda fields: ",".join(fields) or "plain",
)
def test_eight_devices_play_the_game_of_one(mode, fields):
  """Masks differ between replicas; latents do too under pmap, so the generator does not look at them.

  Nor does it matter where a slope is taken: that of a linear critic is the same everywhere.
  """
  batch = {
    "image": RNG.normal(size=(16, 1, 3, 1)).astype(np.float32),
    "label": np.zeros(16, np.int32),
    "mask": (RNG.uniform(size=16) < 0.7).astype(np.float32),
  }
  after = []
  for devices, how in ((1, "jit"), (8, mode)):
    task, _ = build(Constant(), batch, **fields)
    program = compile_task(task, spec_of(batch).batch, make_mesh(devices), how)
    state = program.init(jax.random.key(0))
    for _ in range(2):
      state, _ = program.train_step(state, batch)
    after.append(jax.device_get((state.params, state.model_state)))
  chex.assert_trees_all_close(*after, atol=2e-6)


def test_samples_and_scores_come_from_the_averaged_generator():
  task, state = build()
  average = jax.tree.map(lambda x: x + 1.0, state.params["generator"])
  state = state.replace(model_state={**state.model_state, "ema": average})
  key = jax.random.key(3)

  def z(count):
    return jax.random.normal(jax.random.split(key)[0], (count, 2))

  made = task.generate(state, key, {"index": np.arange(4), "temperature": np.ones(4)})["image"]
  np.testing.assert_allclose(made.reshape(4, 3), (images(average, z(4)) + 1) / 2, atol=1e-5)  # back to [0, 1]

  colder = task.generate(state, key, {"index": np.arange(4), "temperature": np.full(4, 0.5)})["image"]
  np.testing.assert_allclose(colder.reshape(4, 3), (images(average, z(4) / 2) + 1) / 2, atol=1e-5)

  measured = task.eval_step(state, key, BATCH)
  d, game = state.params["discriminator"], losses.GAMES["non_saturating"]
  real, fake = logits(d, BATCH["image"]), logits(d, images(average, z(6)))
  assert measured["d_loss"].value() == pytest.approx(
    float(masked(game.real(real, 1.0) + game.fake(fake))), rel=1e-5
  )
  assert measured["g_loss"].value() == pytest.approx(float(masked(game.generator(fake))), rel=1e-5)
  assert measured["d_fake"].value() == pytest.approx(float(masked(jax.nn.sigmoid(fake))), rel=1e-5)
  np.testing.assert_allclose(task.predict(state, key, BATCH), jax.nn.sigmoid(real), atol=1e-6)


def test_the_average_starts_at_the_first_weights():
  _, state = build()
  chex.assert_trees_all_equal(state.model_state["ema"], state.params["generator"])


class Labelled(nn.Module):
  """Makes, or scores by, nothing but the label."""

  latent_dim: int = 1
  num_classes: int | None = None
  conditional: bool = True

  @nn.compact
  def __call__(self, x, label=None, train=False, mask=None):
    value = nn.Embed(self.num_classes, 1)(label)[:, 0]
    return value.reshape(-1, 1, 1, 1) * jnp.ones((1, 1, 3, 1)) if x.ndim == 2 else value


def test_a_label_reaches_both_networks_and_chooses_the_sample():
  recipe = Compete(Labelled(), Labelled(), Sgd(), Sgd())
  task = recipe.build(spec_of(BATCH, classes=("a", "b", "c")), 10)
  state = task.init(jax.random.key(0), BATCH)
  assert task.conditional
  request = {"index": np.arange(4), "temperature": np.ones(4), "label": np.array([2, 0, 0, 1])}
  made = task.generate(state, jax.random.key(1), request)["image"][:, 0, 0, 0]
  table = (state.params["generator"]["Embed_0"]["embedding"][:, 0] + 1) / 2
  np.testing.assert_allclose(made, table[np.array([2, 0, 0, 1])], rtol=1e-5)
  scores = state.params["discriminator"]["Embed_0"]["embedding"][:, 0][BATCH["label"]]
  np.testing.assert_allclose(task.predict(state, None, BATCH), jax.nn.sigmoid(scores), rtol=1e-5)


def test_points_are_made_as_images_are():
  batch = {"point": BATCH["image"].reshape(6, 3), "mask": BATCH["mask"]}
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
  recipe = Compete(LinearGenerator(), LinearDiscriminator(), Sgd(), Sgd())
  task = recipe.build(Spec(shapes), 10)
  state = task.init(jax.random.key(0), batch)
  state, _ = jax.jit(task.train_step)(state, batch)
  request = {"index": np.arange(2), "temperature": np.ones(2)}
  assert set(task.generate(state, jax.random.key(0), request)) == {"point"}


class Truncating(nn.Module):
  """Shows what it is told of truncation."""

  latent_dim: int = 1
  truncates = True

  @nn.compact
  def __call__(self, z, label=None, train=False, truncation=1.0):
    self.param("unused", nn.initializers.zeros_init(), ())
    return jnp.broadcast_to(truncation, z.shape).reshape(-1, 1, 1, 1) * jnp.ones((1, 1, 3, 1))


def test_a_generator_that_truncates_is_told_the_temperature():
  task = Compete(Truncating(), LinearDiscriminator(), Sgd(), Sgd()).build(spec_of(BATCH), 10)
  state = task.init(jax.random.key(0), BATCH)
  made = task.generate(state, jax.random.key(0), {"index": np.arange(2), "temperature": np.array([0.2, 0.6])})
  np.testing.assert_allclose(made["image"][:, 0, 0, 0], [0.6, 0.8], rtol=1e-6)  # back to [0, 1]


def dcgan_batch(count):
  images = RNG.uniform(-1, 1, size=(count, 8, 8, 1)).astype(np.float32)
  return {"image": images, "mask": np.ones(count, np.float32)}


def test_dcgan_takes_a_finite_step_and_keeps_both_networks_statistics():
  batch, adam = dcgan_batch(4), Adam(learning_rate=1e-3, b1=0.5)
  task = Compete(Generator(latent_dim=2, width=2), Discriminator(width=2), adam, adam).build(spec_of(batch), 10)
  state = jax.jit(task.init)(jax.random.key(0), batch)
  after, _ = jax.jit(task.train_step)(state, batch)
  chex.assert_tree_all_finite(after.params)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, after)  # donated and scanned: the form may not change
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, after.params)
  assert all(jax.tree.leaves(moved))
  before, now = (s.model_state["generator"]["batch_stats"] for s in (state, after))
  assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(now), strict=True))


def test_padding_changes_no_metric_of_an_evaluation_by_batch_statistics():
  batch = dcgan_batch(4)
  wrong = np.full_like(batch["image"], 7)
  padded = {"image": np.concatenate([batch["image"], wrong]), "mask": np.repeat([1.0, 0.0], 4)}
  model = Generator(latent_dim=2, width=2, image_shape=(8, 8, 1)), Discriminator(width=2)
  task = Compete(*model, Adam(), Adam()).build(spec_of(batch), 10)
  state = task.init(jax.random.key(0), batch)
  short, long = (task.eval_step(state, jax.random.key(1), b)["d_real"].value() for b in (batch, padded))
  assert short == pytest.approx(long, rel=1e-5)


@pytest.mark.parametrize(
  ("field", "value", "said"),
  [
    ("real_label", -0.1, "has to be between 0 and 1"),
    ("real_label", 1.1, "has to be between 0 and 1"),
    ("ema_decay", -0.1, "has to be at least 0 and below 1"),
    ("ema_decay", 1.0, "has to be at least 0 and below 1"),
  ],
)
def test_a_share_out_of_range_is_refused(field, value, said):
  with pytest.raises(UserError, match=f"--task.{field}={value} {said}"):
    Compete(LinearGenerator(), LinearDiscriminator(), Sgd(), Sgd(), **{field: value})


@pytest.mark.parametrize(
  ("conditional", "condition"), [(True, "none"), (False, "input"), (False, "projection")]
)
def test_a_class_that_one_player_alone_is_told_is_refused(conditional, condition):
  players = Generator(conditional=conditional), Discriminator(condition=condition)
  with pytest.raises(UserError, match="told to both players or to none"):
    Compete(*players, Adam(), Adam())


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"loss": "wasserstein"}, "needs a critic whose slope is bounded: set --task.gradient_penalty=10"),
    ({"loss": "hinge", "real_label": 0.9}, "real_label=0.9 smooths a label, and --task.loss=hinge has none"),
    ({"clip": 0.0}, "clip=0.0 leaves no weight"),
    ({"r1": -1.0}, "--task.r1=-1.0 is too small"),
    ({"critic_steps": 0}, "--task.critic_steps=0 is too small"),
  ],
)
def test_stabilisers_that_do_not_go_together_are_refused(fields, said):
  with pytest.raises(UserError, match=said):
    Compete(LinearGenerator(), LinearDiscriminator(), Sgd(), Sgd(), **fields)


@pytest.mark.parametrize("penalty", ["gradient_penalty", "r1"])
def test_a_penalty_and_batch_norm_are_refused_together(penalty):
  with pytest.raises(UserError, match=f"{penalty} is about the slope at one image, and batch norm mixes"):
    Compete(LinearGenerator(), LinearDiscriminator(norm="batch"), Sgd(), Sgd(), **{penalty: 1.0})


def test_a_batch_that_the_updates_of_the_critic_cannot_share_is_refused():
  with pytest.raises(
    UserError, match=r"a batch of 6 cannot be shared by --task.critic_steps=4; --data.batch_size=8"
  ):
    build(critic_steps=4)


def test_features_that_nobody_shows_cannot_be_matched():
  class Hidden(LinearDiscriminator):
    @nn.compact
    def __call__(self, x, label=None, train=False, mask=None):
      return nn.Dense(1)(x.reshape(-1, 3))[:, 0]

  task = Compete(LinearGenerator(), Hidden(), Sgd(), Sgd(), feature_matching=1.0).build(spec_of(BATCH), 10)
  with pytest.raises(UserError, match="needs a discriminator that shows its features"):
    jax.eval_shape(task.train_step, jax.eval_shape(task.init, jax.random.key(0), BATCH), BATCH)


class LinearTranslator(nn.Module):
  """Sources [B, 1, 1, 3] to images [B, 1, 3, 1]."""

  @nn.compact
  def __call__(self, source, label=None, train=False):
    return nn.Dense(3)(source.reshape(-1, 3)).reshape(-1, 1, 3, 1)


class Sees(nn.Module):
  """A discriminator of as many weights as the channels that it is shown."""

  @nn.compact
  def __call__(self, x, label=None, train=False, mask=None):
    return nn.Dense(1)(x.mean(axis=(1, 2)))[:, 0]


SOURCES = BATCH | {"source": RNG.normal(size=(6, 1, 1, 3)).astype(np.float32)}


def translation(discriminator, **fields):
  recipe = Compete(
    LinearTranslator(), discriminator, Sgd(learning_rate=RATE), Sgd(learning_rate=RATE), EMA, **fields
  )
  task = recipe.build(spec_of(SOURCES), 10)
  return task, jax.jit(task.init)(jax.random.key(0), SOURCES)


def test_a_generator_that_only_reconstructs_descends_the_mean_absolute_error():
  task, state = translation(LinearDiscriminator(), reconstruction=3.0, adversary=0.0)

  def error(g):
    return 3 * masked(
      jnp.abs(images(g, SOURCES["source"].reshape(6, 3)) - SOURCES["image"].reshape(6, 3)).mean(1)
    )

  g = state.params["generator"]
  after, measured = jax.jit(task.train_step)(state, SOURCES)
  chex.assert_trees_all_close(after.params["generator"], descended(g, RATE, error), atol=1e-5)
  assert 3 * measured["error"].value() == pytest.approx(float(error(g)), rel=1e-5)
  made = task.predict(after, jax.random.key(0), SOURCES)["image"].reshape(6, 3)
  ema = after.model_state["ema"]
  np.testing.assert_allclose(made, (images(ema, SOURCES["source"].reshape(6, 3)) + 1) / 2, atol=1e-5)
  assert task.generate is None


@pytest.mark.parametrize(("see_source", "channels"), [(False, 1), (True, 4)])
def test_a_discriminator_may_see_what_an_image_was_made_from(see_source, channels):
  task, state = translation(Sees(), see_source=see_source)
  assert state.params["discriminator"]["Dense_0"]["kernel"].shape == (channels, 1)
  _, measured = jax.jit(task.train_step)(state, SOURCES)
  shown = SOURCES["image"].mean(axis=(1, 2))
  if see_source:
    shown = np.concatenate([shown, SOURCES["source"].mean(axis=(1, 2))], axis=1)
  layer = state.params["discriminator"]["Dense_0"]
  scores = (shown @ layer["kernel"] + layer["bias"])[:, 0]
  assert measured["d_real"].value() == pytest.approx(float(masked(jax.nn.sigmoid(scores))), rel=1e-5)


@pytest.mark.parametrize("fields", [{"reconstruction": 1.0}, {"adversary": 0.0}, {"see_source": True}])
def test_what_needs_a_source_is_refused_without_one(fields):
  with pytest.raises(UserError, match="for data that has a source for each image"):
    build(**fields)


@pytest.mark.parametrize("fields", [{"reconstruction": 1.0}, {"see_source": True}])
def test_what_compares_an_image_with_its_source_is_refused_where_it_is_anothers(fields):
  spec = dataclasses.replace(spec_of(SOURCES), paired=False)
  with pytest.raises(UserError, match=r"gan\.unpaired learns from such data"):
    Compete(LinearGenerator(), LinearDiscriminator(), Sgd(), Sgd(), **fields).build(spec, 10)


def test_latents_lead_to_images_of_the_average_and_these_to_the_features_of_each():
  task, state = build()
  state = state.replace(
    model_state=state.model_state | {"ema": jax.tree.map(lambda x: x + 1, state.params)["generator"]}
  )
  z = jnp.array([[1.0, 2.0], [0.0, -1.0]])
  made = task.latents.images(state, z)
  np.testing.assert_allclose(made.reshape(2, 3), images(state.model_state["ema"], z), atol=1e-6)
  np.testing.assert_allclose(task.latents.features(state, made), made.reshape(2, 3) ** 2, atol=1e-6)
  assert task.latents.dim == 2


def test_features_of_an_image_do_not_depend_on_the_others():
  recipe = Compete(LinearGenerator(), Discriminator(width=2), Adam(), Adam())
  batch = BATCH | {"image": RNG.normal(size=(6, 8, 8, 1)).astype(np.float32)}
  model = recipe.discriminator
  variables = model.init(jax.random.key(0), batch["image"], train=True)
  task = recipe.build(spec_of(batch), 10)
  stats = {name: value for name, value in variables.items() if name not in ("params", "intermediates")}
  state = TrainState(0, {"discriminator": variables["params"]}, None, {"discriminator": stats}, None, None)
  features = jax.jit(task.latents.features)
  np.testing.assert_allclose(
    features(state, batch["image"])[:2], features(state, batch["image"][:2]), atol=1e-6
  )


def test_latents_are_searched_of_a_generator_that_takes_nothing_else():
  class Conditional(LinearGenerator):
    conditional: bool = True

  assert build(Conditional())[0].latents is None
  assert translation(LinearDiscriminator())[0].latents is None
  recipe = Compete(LinearGenerator(), Sees(), Adam(), Adam())
  task = recipe.build(spec_of(BATCH), 10)
  with pytest.raises(UserError, match="a search for latents needs a discriminator that shows its features"):
    jax.eval_shape(task.latents.features, task.init(jax.random.key(0), BATCH), BATCH["image"])
